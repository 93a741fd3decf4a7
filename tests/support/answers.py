"""Judge every answer of an API by its OpenAPI document: status, media type, schema, problem code."""

import re
from typing import Any

import httpx
import jsonschema_rs

_STRICT = {
    *("instances", "hibernation", "offers", "snapshots", "operations"),
    *("auth", "ssh-keys", "users", "teams", "tokens"),
    *("accounts", "transactions", "insights"),
}
"""Rooms whose routes name every problem code that they answer with."""


class Judge:
    """Hears every answer and keeps what is wrong with it in `wrong`."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.wrong: list[str] = []
        self._document = document
        self._validators: dict[str, Any] = {}
        paths = sorted(document["paths"], key=lambda path: [part.startswith("{") for part in path.split("/")])
        self._paths = [(re.compile(re.sub(r"\\{[^}]+\\}|\{[^}]+\}", "[^/]+", path)), path) for path in paths]

    async def hear(self, answer: httpx.Response) -> None:
        """Judge one answer, as an event hook of httpx."""
        await answer.aread()
        request = answer.request
        path = next((known for form, known in self._paths if form.fullmatch(request.url.path.rstrip("/"))), None)
        described = self._document["paths"].get(path, {}).get(request.method.lower())
        found = self._judge(answer, described) if described else None
        if found is not None:
            self.wrong.append(f"{request.method} {request.url.path}: {answer.status_code} {found}: {answer.text[:300]}")

    def _judge(self, answer: httpx.Response, described: dict[str, Any]) -> str | None:
        responses = described["responses"]
        said = responses.get(str(answer.status_code)) or (responses["default"] if answer.is_error else None)
        if said is None:
            return "is a status that is not described"
        media = answer.headers.get("content-type", "").partition(";")[0]
        content = said.get("content", {})
        if not content and not answer.content:
            return None
        if media not in content:
            return f"is {media}, described are {sorted(content)}"
        if media.endswith("json"):
            return self._fits(answer.json(), content[media]["schema"]) or _known(answer, said, described)
        return None

    def _fits(self, value: Any, schema: dict[str, Any]) -> str | None:
        key = repr(schema)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole)
        errors = [f"{error.message} at {error.instance_path}" for error in self._validators[key].iter_errors(value)]
        return "; ".join(errors[:3]) or None


def _known(answer: httpx.Response, said: dict[str, Any], described: dict[str, Any]) -> str | None:
    if not answer.is_error or not _STRICT.intersection(described.get("tags", ())):
        return None
    code = answer.json()["code"]
    return None if code in said.get("x-codes", ()) else f"has the code {code}, which the route does not name"
