"""The marketplace's calls about the account: SSH keys, the user, charges."""

import json
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request

from dumont.sandbox.billing import MICRO, charges
from dumont.sandbox.documents import dollars
from dumont.sandbox.market import Refused
from dumont.sandbox.parts import Parts
from dumont.sandbox.serving import Work, body_of
from dumont.sandbox.ssh import readable_key, same_key
from dumont.sandbox.store import Rental

_USER = 456
_CHARGES_PAGE = 500


class Account:
    """The endpoints of one account."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def table(self) -> list[tuple[str, str, str, Work]]:
        """Return method, path, name and work of each endpoint."""
        return [
            ("GET", "/api/v0/instances/{id:int}/ssh", "machine_keys", self._machine_keys),
            ("POST", "/api/v0/instances/{id:int}/ssh", "attach", self._attach),
            ("DELETE", "/api/v0/instances/{id:int}/ssh/{key:int}", "detach", self._detach),
            ("GET", "/api/v0/ssh", "keys", self._keys),
            ("POST", "/api/v0/ssh", "key", self._add_key),
            ("PUT", "/api/v0/ssh/{key:int}", "key", self._change_key),
            ("DELETE", "/api/v0/ssh/{key:int}", "key", self._change_key),
            ("GET", "/api/v0/users/current", "user", self._user),
            ("GET", "/api/v0/charges", "charges", self._charges),
            ("GET", "/api/v0/instances/balance/{id:int}", "balance", self._balance),
        ]

    async def _machine_keys(self, request: Request) -> Any:
        keys = self._parts.store.rental_keys(self._named(request).id)
        shown = [{"id": key, "name": "", "public_key": text} for key, text in keys]
        return {"success": True, "ssh_keys": json.dumps(shown)}

    async def _attach(self, request: Request) -> Any:
        rental, text = self._named(request), _key_text(await body_of(request))
        store = self._parts.store
        if not any(same_key(text, known) for _, known in store.rental_keys(rental.id)):
            known_id = next((key for key, known, _ in store.account_keys() if same_key(text, known)), None)
            key = store.add_key(text, _now(), account=False) if known_id is None else known_id
            store.attach(rental.id, key, text)
        return {"success": True, "msg": "SSH key attached successfully"}

    async def _detach(self, request: Request) -> Any:
        if not self._parts.store.detach(self._named(request).id, request.path_params["key"]):
            raise Refused(404, "not_found", "The instance has no such key.")
        return {"success": True}

    async def _keys(self, request: Request) -> Any:
        return [
            {"id": key, "user_id": _USER, "key": text, "created_at": created, "deleted_at": None}
            for key, text, created in self._parts.store.account_keys()
        ]

    async def _add_key(self, request: Request) -> Any:
        text, now = _key_text(await body_of(request)), _now()
        key = self._parts.store.add_key(text, now, account=True)
        shown = {"id": key, "user_id": _USER, "public_key": text, "created_at": now, "deleted_at": None}
        return {"success": True, "key": shown}

    async def _change_key(self, request: Request) -> Any:
        text = _key_text(await body_of(request)) if request.method == "PUT" else None
        if not self._parts.store.change_key(request.path_params["key"], text):
            raise Refused(404, "not_found", "There is no such key.")
        return {"success": True}

    async def _user(self, request: Request) -> Any:
        return {
            "id": _USER,
            "key_id": 9,
            "email": "sandbox@dumont.invalid",
            "username": "sandbox",
            "balance": 0.0,
            "credit": dollars(self._parts.market.credit()),
            "balance_threshold": 5.0,
            "ssh_key": "",
            "sid": "sandbox",
            "host_agreement_accepted": False,
        }

    async def _charges(self, request: Request) -> Any:
        window = _window(request.query_params.get("select_filters"))
        rows = charges(self._parts.store, self._parts.market.now_us(), window)
        if request.query_params.get("latest_first") == "true":
            rows.reverse()
        try:
            at = int(request.query_params.get("after_token") or 0)
            size = min(_CHARGES_PAGE, max(1, int(request.query_params.get("limit") or 100)))
        except ValueError as error:
            raise Refused(400, "invalid_token", "limit and after_token must be ours.") from error
        shown = rows[at : at + size]
        following = str(at + size) if at + size < len(rows) else None
        return {"success": True, "count": len(shown), "total": len(rows), "next_token": following, "results": shown}

    async def _balance(self, request: Request) -> Any:
        self._named(request)
        return {"success": True, "refundable_deposit": 0.0, "total_discount": 0.0, "discount_months": 0}

    def _named(self, request: Request) -> Rental:
        number = request.path_params["id"]
        rental = self._parts.store.rental(number)
        if rental is None or rental.destroyed_us is not None:
            raise Refused(404, "no_such_instance", f"Instance {number} not found.")
        return rental


def _key_text(body: dict[str, Any]) -> str:
    text = body.get("ssh_key")
    if not isinstance(text, str) or "\n" in text.strip() or not readable_key(text.strip()):
        raise Refused(400, "invalid_args", "ssh_key must be one public key.")
    return text.strip()


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _window(text: str | None) -> tuple[int, int]:
    try:
        day = json.loads(text or "")["day"]
        return int(float(day["gte"]) * MICRO), int(float(day["lte"]) * MICRO)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Refused(400, "invalid_request", "select_filters must say day gte and lte.") from error
