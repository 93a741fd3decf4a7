"""The API as typed calls: one method per endpoint, each call with its own idempotency key."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPResponse
from typing import Any, TypeVar
from urllib.parse import quote

from dumont.client.books import Books
from dumont.client.keeping import Keeping
from dumont.client.model import (
    Event,
    Hibernation,
    Instance,
    Offer,
    OfferPage,
    Operation,
    Session,
    Snapshot,
    SshAccess,
    SshKey,
    Wallet,
    read,
)
from dumont.client.problems import ApiProblem, ApiUnreadable
from dumont.client.syncs import Syncs
from dumont.client.topups import Topups
from dumont.client.watch import Watch
from dumont.client.wire import Request, Wire

T = TypeVar("T")
Renew = Callable[[], str | None]
_API = "/api/v1"
_STREAM_SILENCE = 45.0


class Client:
    """A caller of one Dumont server.

    `renew` gives a fresh token when the server no longer takes the old one (None: there is none to give).
    Units: `timeout` per call and `patience` with a server that went away, in seconds.
    Errors: every method raises ApiProblem, ApiUnreachable or ApiUnreadable, nothing else.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        renew: Renew | None = None,
        timeout: float = 30.0,
        patience: float = 15.0,
    ) -> None:
        self._wire = Wire(url, timeout=timeout, patience=patience)
        self._token = token
        self._renew = renew

    @property
    def url(self) -> str:
        """The server's address."""
        return self._wire.url

    # Account
    def register(self, email: str, password: str, name: str | None = None) -> Session:
        """Create an account with a team of its own."""
        return read(Session, self._post("/auth/register", {"email": email, "password": password, "name": name}))

    def login(self, user: str, password: str) -> Session:
        """Sign in with an e-mail address or a user name."""
        who = "email" if "@" in user else "username"
        return read(Session, self._send(Request("POST", f"{_API}/auth/login", body={who: user, "password": password})))

    def refresh(self, refresh_token: str) -> Session:
        """Spend a refresh token for a new pair; asked again with the same key when the answer is lost."""
        return read(Session, self._post("/auth/refresh", {"refresh_token": refresh_token}))

    def me(self) -> dict[str, Any]:
        """Return who the caller is: user, team, session."""
        return _object(self._get("/auth/me"))

    def logout(self) -> None:
        """End this session."""
        self._post("/auth/logout")

    def ssh_keys(self) -> list[SshKey]:
        """List the account's public keys."""
        return list(self._all("/ssh-keys", "ssh_keys", SshKey, {}))

    def add_ssh_key(self, name: str, public_key: str) -> SshKey:
        """Give the account a public key, which later machines will accept."""
        return read(SshKey, self._post("/ssh-keys", {"name": name, "public_key": public_key}))

    # Offers
    def offers(self, **filters: Any) -> OfferPage:
        """Search the marketplaces; the filters are the query parameters of the endpoint. Returns one page."""
        return read(OfferPage, self._get("/instances/offers", filters))

    def iter_offers(self, **filters: Any) -> Iterator[Offer]:
        """Yield every offer that fits, page after page."""
        cursor = filters.pop("cursor", None)
        while True:
            page = self.offers(**filters, cursor=cursor)
            yield from page.offers
            if not page.next_cursor or page.next_cursor == cursor:
                return
            cursor = page.next_cursor

    # Instances
    def create_instance(
        self,
        offer_id: str,
        *,
        image: str | None = None,
        disk_size: float | None = None,
        label: str | None = None,
        labels: Mapping[str, str] | None = None,
        max_price: float | None = None,
        bid: float | None = None,
        env: Mapping[str, str] | None = None,
        onstart_cmd: str | None = None,
        ports: Sequence[int] = (),
        attempts: int | None = None,
    ) -> Instance:
        """Rent an offer, or one of the next best where it fails: `attempts` machines in all.

        Units: `disk_size` in GB; `max_price` and `bid` in USD per hour.
        """
        body = {
            "offer_id": offer_id,
            "image": image,
            "disk_size": disk_size,
            "label": label,
            "labels": dict(labels) if labels else None,
            "max_price": max_price,
            "bid_price_usd": bid,
            "env": dict(env) if env else None,
            "onstart_cmd": onstart_cmd,
            "ports": list(ports) or None,
            "attempts": attempts,
        }
        return read(Instance, self._post("/instances", body))

    def iter_instances(
        self, *, labels: Mapping[str, str] | None = None, include_destroyed: bool = False, **filters: Any
    ) -> Iterator[Instance]:
        """Yield the team's instances, newest first; `filters` are status, label, provider, gpu_name, sort."""
        query = {**filters, "include_destroyed": include_destroyed or None, "limit": 100}
        query |= {f"labels.{name}": value for name, value in (labels or {}).items()}
        return self._all("/instances", "instances", Instance, query)

    def instance(self, instance_id: str, *, include_destroyed: bool = False) -> Instance:
        """Return one instance; a destroyed one only if asked for."""
        query = {"include_destroyed": include_destroyed or None}
        return read(Instance, self._get(f"/instances/{_part(instance_id)}", query))

    def destroy_instance(self, instance_id: str, *, force: bool = False) -> Instance:
        """Destroy the machine for good; snapshots stay. While one is being made only with `force`."""
        path = f"{_API}/instances/{_part(instance_id)}"
        return read(Instance, self._send(Request("DELETE", path, query={"force": force or None}, key=_new_key())))

    def change_instance(self, instance_id: str, **changes: Any) -> Instance:
        """Change `label`, `labels` (merged; None removes one) or `protected`."""
        path = f"{_API}/instances/{_part(instance_id)}"
        return read(Instance, self._send(Request("PATCH", path, body=changes, key=_new_key())))

    def pause(self, instance_id: str) -> Instance:
        """Stop the machine and keep its disk."""
        return read(Instance, self._post(f"/instances/{_part(instance_id)}/pause"))

    def resume(self, instance_id: str, *, wait_minutes: float | None = None) -> Instance:
        """Start a paused machine; where its GPU is taken, wait for it that long."""
        return read(Instance, self._post(f"/instances/{_part(instance_id)}/resume", {"wait_minutes": wait_minutes}))

    def reboot(self, instance_id: str) -> Instance:
        """Let the machine go down and come up again."""
        return read(Instance, self._post(f"/instances/{_part(instance_id)}/reboot"))

    def logs(self, instance_id: str, *, tail: int | None = None) -> list[str]:
        """Return the last lines that the machine's container wrote, oldest first."""
        found = _object(self._get(f"/instances/{_part(instance_id)}/logs", {"tail": tail}))
        return [str(line.get("text", "")) for line in found.get("lines") or [] if isinstance(line, dict)]

    def machines(self, instance_id: str) -> list[dict[str, Any]]:
        """Return every machine that the instance ever had, oldest first, with what each has cost."""
        found = self._get(f"/instances/{_part(instance_id)}/machines")
        return list(_object(found).get("machines") or [])

    def attach_ssh_key(self, instance_id: str, key_id: str) -> str:
        """Let one of the caller's registered keys into a running machine; returns the id of the operation."""
        begun = _object(self._post(f"/instances/{_part(instance_id)}/ssh/keys", {"ssh_key_id": key_id}))
        return str(begun.get("operation_id"))

    def instance_ssh(self, instance_id: str) -> SshAccess:
        """Return how to reach the machine, with its whole host key."""
        return read(SshAccess, self._get(f"/instances/{_part(instance_id)}/ssh"))

    def hibernate(self, instance_id: str, then: str | None = None) -> Instance:
        """Save the workspace, then stop paying; `then` is `keep` (pause the machine) or `destroy` (give it back)."""
        return read(Instance, self._post(f"/instances/{_part(instance_id)}/hibernate", {"then": then}))

    def wake(
        self,
        instance_id: str,
        *,
        offer_id: str | None = None,
        elsewhere: bool = False,
        accept_loss: bool = False,
        max_price: float | None = None,
        snapshot_id: str | None = None,
    ) -> Instance:
        """Bring a sleeping instance back, on its own machine or on another; from its last snapshot unless one is named.

        Units: `max_price` in USD per hour.
        """
        body = {
            "snapshot_id": snapshot_id,
            "offer_id": offer_id,
            "elsewhere": elsewhere,
            "accept_loss": accept_loss or None,
            "max_price": max_price,
        }
        return read(Instance, self._post(f"/instances/{_part(instance_id)}/wake", body))

    def hibernation(self, instance_id: str) -> Hibernation:
        """Return what is known of an instance's sleep."""
        return read(Hibernation, self._get(f"/instances/{_part(instance_id)}/hibernation"))

    # Snapshots
    def iter_snapshots(self, *, instance_id: str | None = None) -> Iterator[Snapshot]:
        """Yield the team's snapshots, newest first."""
        return self._all("/snapshots", "snapshots", Snapshot, {"instance_id": instance_id, "limit": 100})

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """Return one snapshot."""
        return read(Snapshot, self._get(f"/snapshots/{_part(snapshot_id)}"))

    def snapshot_metadata(self, snapshot_id: str) -> dict[str, Any]:
        """Return what was measured of a snapshot."""
        return _object(self._get(f"/snapshots/{_part(snapshot_id)}/metadata"))

    @property
    def keeping(self) -> Keeping:
        """The calls that keep, check and forget snapshots."""
        return Keeping(_API, self._send, _new_key, self._all)

    # Operations
    def iter_operations(self, *, status: str | None = None, instance_id: str | None = None) -> Iterator[Operation]:
        """Yield the team's operations, newest first."""
        query = {"status": status, "instance_id": instance_id, "limit": 100}
        return self._all("/operations", "operations", Operation, query)

    def operation(self, operation_id: str, *, wait_seconds: int = 0) -> Operation:
        """Return one operation, after at most `wait_seconds` when nothing changes before."""
        path = f"{_API}/operations/{_part(operation_id)}"
        request = Request("GET", path, query={"wait_seconds": wait_seconds or None})
        return read(Operation, self._send(request, extra_time=wait_seconds))

    def cancel_operation(self, operation_id: str) -> Operation:
        """Ask that an operation stop and undo what it did."""
        return read(Operation, self._post(f"/operations/{_part(operation_id)}/cancel"))

    def watch_operation(self, operation_id: str, *, patience: float = 120.0) -> Iterator[Event]:
        """Yield the news of an operation; the last one is `done` and carries the whole operation.

        Guarantees: goes on after broken streams and short absences of the server (at most `patience` seconds each).
        """

        def ask(wanted: str, wait_seconds: int) -> Operation:
            return self.operation(wanted, wait_seconds=wait_seconds)

        return Watch(operation_id, ask, self._open_events, patience).events()

    # Wallet
    def wallet(self) -> Wallet:
        """Return the team's wallet."""
        return read(Wallet, self._get("/wallet"))

    def change_wallet(self, **changes: Any) -> Wallet:
        """Change `mode`, `low_threshold`, `auto_hibernate_at_zero`, `limit_day` and so on; None takes a limit away."""
        return read(Wallet, self._send(Request("PATCH", f"{_API}/wallet", body=changes, key=_new_key())))

    def wallet_statement(self, *, first: str | None = None, last: str | None = None) -> dict[str, Any]:
        """Return the wallet's entries between two dates (YYYY-MM-DD), of this month without."""
        return _object(self._get("/wallet/statement", {"from": first, "to": last}))

    def usage(self, *, group_by: str, first: str | None = None, last: str | None = None) -> dict[str, Any]:
        """Return what was charged for use, by instance, kind or day."""
        return _object(self._get("/usage", {"group_by": group_by, "from": first, "to": last}))

    def refund_usage(self, instance_id: str, amount: str | None, reason: str) -> dict[str, Any]:
        """Give back what a machine was charged, all that remains without an amount; the operator alone may."""
        members = {"instance_id": instance_id, "amount": amount, "reason": reason}
        return _object(self._post("/usage/refunds", members))

    @property
    def topups(self) -> Topups:
        """The calls about charges that fill the wallet."""
        return Topups(self._get, self._post, self._all)

    @property
    def syncs(self) -> Syncs:
        """The histories of workspaces."""
        return Syncs(_API, self._send, _new_key)

    @property
    def books(self) -> Books:
        """The team's accounts, categories and transactions."""
        return Books(_API, self._send, self._fetch, _new_key)

    # Server
    def health(self) -> dict[str, Any]:
        """Return the server's own account of its health."""
        return _object(self._wire.ask(Request("GET", "/health"), {}))

    def _fetch(self, path: str) -> str:
        def attempt() -> str:
            with self._wire.stream(path, self._headers(), self._wire.timeout) as answer:
                return answer.read().decode()

        return self._renewing(attempt)

    def _open_events(self, operation_id: str, last_id: str | None) -> HTTPResponse:
        def attempt() -> HTTPResponse:
            headers = {**self._headers(), "Accept": "text/event-stream", "Cache-Control": "no-store"}
            if last_id is not None:
                headers["Last-Event-ID"] = last_id
            return self._wire.stream(f"{_API}/operations/{_part(operation_id)}/events", headers, _STREAM_SILENCE)

        return self._renewing(attempt)

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._send(Request("GET", _API + path, query=query))

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        given = None if body is None else {name: value for name, value in body.items() if value is not None}
        return self._send(Request("POST", _API + path, body=given, key=_new_key()))

    def _send(self, request: Request, *, extra_time: float = 0.0) -> Any:
        return self._renewing(lambda: self._wire.ask(request, self._headers(), extra_time=extra_time))

    def _renewing(self, attempt: Callable[[], T]) -> T:
        try:
            return attempt()
        except ApiProblem as problem:
            fresh = self._renew() if problem.status == 401 and self._renew is not None else None
            if fresh is None:
                raise
            self._token = fresh
        return attempt()

    def _headers(self) -> dict[str, str]:
        return {"User-Agent": "dumont-client", **({"Authorization": f"Bearer {self._token}"} if self._token else {})}

    def _all(self, path: str, plural: str, kind: type[T], query: Mapping[str, Any]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = _object(self._get(path, {**query, "cursor": cursor}))
            rows = page.get(plural)
            if not isinstance(rows, list):
                raise ApiUnreadable(f"The server sent no list of {plural}.")
            yield from (read(kind, row) for row in rows)
            following = page.get("next_cursor")
            if not isinstance(following, str) or following == cursor:
                return
            cursor = following


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ApiUnreadable("The server sent no object where the API promises one.")
    return document


def _part(text: str) -> str:
    return quote(text, safe="")


def _new_key() -> str:
    return secrets.token_hex(16)
