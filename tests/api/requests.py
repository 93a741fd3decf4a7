"""Requests made from the OpenAPI document alone, so that a new route is tried without anybody thinking of it."""

import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from tests.support.api import PASSWORD, Person
from tests.support.whole_api import SSH_KEY, Furnished, Op, WholeApi

_MADE_UP = {"public_key": SSH_KEY, "password": PASSWORD, "code": "route-not-found"}
_MADE_UP |= {"amount": "1.00", "insight_hash": "0" * 24}


@dataclass
class Requests:
    """Makes a request for each operation, with the ids of one furnished team wherever an id is asked for."""

    api: WholeApi
    team: Furnished
    _ids: dict[str, str] = field(default_factory=dict)

    async def send(self, op: Op, person: Person | None, **headers: str) -> httpx.Response:
        """Call an operation with this team's ids and a body that fits its schema, as somebody else."""
        path = await self.path(op)
        query = await self._query(op)
        body = await self._body(op)
        more = {"json": body} if body is not None else {}
        sent = {**(person.headers if person else {}), **_key(op), **headers}
        return await self.api.http.request(op.method, path, params=query, headers=sent, **more)

    async def path(self, op: Op) -> str:
        """Return the path of an operation with ids that exist."""
        path = op.path
        for name in op.path_parameters:
            collection = path.partition("{" + name + "}")[0].rstrip("/")
            path = path.replace("{" + name + "}", await self._id(op, name, collection), 1)
        return path

    async def _id(self, op: Op, name: str, collection: str) -> str:
        if name == "team_id":
            return self.team.person.team_id
        if name in _MADE_UP:
            return _MADE_UP[name]
        if collection not in self._ids:
            found = await self._first(collection, name) or await self._make(collection, name)
            if found is None:
                pytest.fail(
                    f"{op.name}: the walk found nothing in {collection} to put in place of {{{name}}}. "
                    "Let furnish() in tests/support/whole_api.py make one."
                )
            self._ids[collection] = found
        return self._ids[collection]

    async def _first(self, collection: str, name: str) -> str | None:
        answer = await self.api.http.get(collection, headers=self.team.person.headers)
        if answer.status_code != 200:
            return None
        rows = answer.json().get(collection.rpartition("/")[2].replace("-", "_")) or []
        return str(rows[-1].get("id") or rows[-1][name]) if rows else None

    async def _make(self, collection: str, name: str) -> str | None:
        post = next((op for op in self.api.operations() if op.name == f"POST {collection}"), None)
        if post is None:
            return None
        answer = await self.api.http.post(collection, headers=self.team.person.headers, json=await self._body(post))
        return str(answer.json().get("id") or answer.json().get(name)) if answer.is_success else None

    async def _query(self, op: Op) -> dict[str, str]:
        """Ask with this team's ids and words wherever the query can name one, and with all that it must hold."""
        asked = [one for one in op.described.get("parameters", ()) if one["in"] == "query"]
        named = [one["name"] for one in asked]
        query = {one["name"]: str(self._value(one["schema"], one["name"])) for one in asked if one["required"]}
        query |= {name: self._known_id(name) for name in named if name.endswith("_id")}
        return query | ({"label": f"{self.team.word} one"} if "label" in named else {})

    async def _body(self, op: Op) -> Any:
        body = op.described.get("requestBody")
        if body is None or not body.get("required"):
            return None
        return self._value(body["content"]["application/json"]["schema"], "")

    def _value(self, schema: dict[str, Any], name: str) -> Any:
        """Return a value that fits a schema; required members only."""
        if "$ref" in schema:
            parts = schema["$ref"].removeprefix("#/").split("/")
            return self._value(self.api.document[parts[0]][parts[1]][parts[2]], name)
        for choice in ("anyOf", "oneOf", "allOf"):
            if choice in schema:
                return self._value(next(one for one in schema[choice] if one.get("type") != "null"), name)
        if "enum" in schema or "const" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        if schema.get("type") == "object":
            wanted = [*schema.get("required", ())]
            if "email" in schema.get("properties", {}) and "email" not in wanted:
                wanted.append("email")
            return {member: self._value(schema["properties"][member], member) for member in wanted}
        return self._scalar(schema, name)

    def _scalar(self, schema: dict[str, Any], name: str) -> Any:
        if schema.get("type") == "array":
            return [self._value(schema["items"], name)] * max(1, schema.get("minItems", 0))
        if schema.get("type") in ("integer", "number"):
            return schema.get("minimum", schema.get("default", 1))
        if schema.get("type") == "boolean":
            return False
        return self._text(schema, name)

    def _text(self, schema: dict[str, Any], name: str) -> str:
        if schema.get("format") == "date-time":
            return (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
        if schema.get("format") == "date":
            return datetime.now(timezone.utc).date().isoformat()
        if name.endswith("password"):
            return PASSWORD
        if name == "email":
            return f"{uuid.uuid4().hex[:12]}@example.com"
        if name.endswith("_id"):
            return self._known_id(name)
        return _MADE_UP.get(name) or f"walk {uuid.uuid4().hex[:12]}"

    def _known_id(self, name: str) -> str:
        if name.endswith("account_id"):
            return self.team.account_id
        known = {"offer_id": self.team.offer_id, "team_id": self.team.person.team_id}
        return known.get(name, self.team.person.user_id if name == "user_id" else self.team.instance_id)


def _key(op: Op) -> dict[str, str]:
    """Return the Idempotency-Key that an operation asks for."""
    named = [one for one in op.described.get("parameters", ()) if one["name"] == "Idempotency-Key"]
    return {"Idempotency-Key": uuid.uuid4().hex} if named and named[0]["required"] else {}


def marks(dump: dict[str, list[str]], team: Furnished) -> set[str]:
    """Return what betrays a team: every id in its rows, and the word that is in all its names."""
    ids: set[str] = {team.word}
    for line in rows_of(dump, team):
        ids.update(re.findall(r"\b[a-z]{2,4}_[0-9A-Z]{26}\b", line))
    return ids - {team.offer_id}


def rows_of(dump: dict[str, list[str]], team: Furnished) -> list[str]:
    """Return the rows that name a team, its user or its word."""
    named = (team.person.team_id, team.person.user_id, team.word)
    return [f"{table} {row}" for table, rows in dump.items() for row in rows if any(name in row for name in named)]
