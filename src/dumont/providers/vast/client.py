"""Speak Vast.ai's HTTP: one ask per call, checked by one checker; nothing is ever repeated here."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dumont.providers.contract import ProviderUnreachable, RateLimited
from dumont.providers.vast.gaps import Gaps
from dumont.providers.vast.replies import checked
from dumont.providers.vast.values import Row, text
from dumont.web import Broken, Reply, Unsent, Web

_LANES, _LANES_TO_SPARE = 32, 16
"""Calls at once. Where calls keep gaps, their turns are given before: none may then wait for a lane."""

_CALL_SECONDS = 60.0
"""The whole of one call, body included: a reply that dribbles is given up."""

_LIST_ROWS = 25
_MOST_PAGES = 400


class VastClient:
    """One key at one address. Belongs to the event loop that uses it first.

    Guarantees: the key travels in a header only; errors and logs never hold it.
    """

    def __init__(self, base_url: str, api_key: str, *, enforce_gaps: bool) -> None:
        self._secret = api_key
        self._gaps = Gaps(enforced=enforce_gaps)
        self._web = Web(
            base_url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": f"dumont-cloud/{_version()}"},
            lanes=_LANES_TO_SPARE if enforce_gaps else _LANES,
            call_seconds=_CALL_SECONDS,
        )

    async def ask(
        self, kind: str, method: str, path: str, *, body: Any = None, params: Mapping[str, str] | None = None
    ) -> Any:
        """Make one call and return the checked JSON; `kind` names the endpoint class for the gaps.

        Errors: ProviderUnreachable when the outcome is unknown (with `not_sent` where it never left); RateLimited with
        the pause; the classes of `checked`.
        """
        await self._gaps.wait(kind)
        reply = await self._send(method, path, body, params)
        try:
            return checked(reply, kind=kind, secret=self._secret)
        except RateLimited as refusal:
            refusal.retry_after = self._gaps.refused(kind, refusal.detail, refusal.retry_after)
            raise

    async def _send(self, method: str, path: str, body: Any, params: Mapping[str, str] | None) -> Reply:
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            return await self._web.ask(method, path, params=params, body=content, headers=headers)
        except Unsent as error:
            raise ProviderUnreachable("Vast.ai cannot be reached from here.", not_sent=True) from error
        except Broken as error:
            raise ProviderUnreachable(f"The connection to Vast.ai broke before its answer came ({error}).") from error

    async def pages(self, kind: str, path: str, *, rows: str, total: str, params: Mapping[str, str]) -> list[Row]:
        """Walk all pages of a listing and return its rows.

        Guarantees: complete or an error: each page succeeded, the last token was null, and as many different rows came
        as the first page promised. A walk whose count is off is made once more, because rows come and go meanwhile.
        Errors: ProviderUnreachable for an incomplete listing.
        """
        found, promised = await self._walk(kind, path, rows, total, params)
        if len(found) != promised:
            found, promised = await self._walk(kind, path, rows, total, params)
        if len(found) != promised:
            raise ProviderUnreachable(
                f"Vast.ai's listing was incomplete ({len(found)} of {promised} rows); what exists is unknown."
            )
        return found

    async def _walk(
        self, kind: str, path: str, rows: str, total: str, params: Mapping[str, str]
    ) -> tuple[list[Row], int]:
        found: list[Row] = []
        promised: int | None = None
        token: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self.ask(kind, "GET", path, params={**params, **({"after_token": token} if token else {})})
            listed = page.get(rows) if isinstance(page, dict) else None
            if not isinstance(listed, list) or page.get("success") is not True:
                raise ProviderUnreachable("Vast.ai's listing came without its rows; what exists is unknown.")
            promised = _promise(page.get(total)) if promised is None else promised
            found.extend(row for row in listed if isinstance(row, dict))
            token = text(page, "next_token")
            if token is None:
                return _distinct(found), promised
        raise ProviderUnreachable("Vast.ai's listing did not end; what exists is unknown.")

    async def instances(self, *, label: str | None = None) -> list[Row]:
        """List instances, oldest first, of one label or of the whole account; complete or an error."""
        params = {"limit": str(_LIST_ROWS), "order_by": json.dumps([{"col": "id", "dir": "asc"}])}
        if label is not None:
            params["select_filters"] = json.dumps({"label": {"eq": label}})
        return await self.pages("list", "/api/v1/instances/", rows="instances", total="total_instances", params=params)

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()


def _promise(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not str(value).isdecimal():
        raise ProviderUnreachable("Vast.ai's listing does not say how many rows it has; what exists is unknown.")
    return int(value)


def _distinct(rows: list[Row]) -> list[Row]:
    """Drop rows that pages repeated; a row without an id is its own key."""
    return list({text(row, "id") or json.dumps(row, sort_keys=True): row for row in rows}.values())


def _version() -> str:
    try:
        return version("dumont-cloud")
    except PackageNotFoundError:
        return "0"
