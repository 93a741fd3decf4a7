"""The calls that keep snapshots: forget, keep, verify, collect, and the policies behind them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dumont.client.model import Operation, Snapshot, read
from dumont.client.wire import Request

Document = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One verification of a snapshot."""

    id: str
    snapshot_id: str | None
    depth: str | None
    outcome: str | None
    bytes_checked: int | None
    detail: str | None
    seconds: float | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Keeping:
    """The calls, over those of a client: how it sends, the key of a new request, and how it walks a list.

    Errors: as the client's own methods.
    """

    base: str
    send: Callable[[Request], Any]
    new_key: Callable[[], str]
    walk: Callable[..., Iterator[Any]]

    def forget(self, snapshot_id: str, *, force: bool = False) -> Snapshot:
        """Delete a snapshot; with `force` even the newest of its workspace."""
        return read(Snapshot, self._do("DELETE", f"/{_part(snapshot_id)}", query={"force": force or None}))

    def keep(self, snapshot_id: str, **wishes: Any) -> Snapshot:
        """Change `name`, `keep_forever` and `restore_point` of a snapshot."""
        return read(Snapshot, self._do("PATCH", f"/{_part(snapshot_id)}", body=wishes))

    def verify(self, snapshot_id: str, depth: str) -> Operation:
        """Begin to read a snapshot back."""
        return read(Operation, self._do("POST", f"/{_part(snapshot_id)}/verify", body={"depth": depth}))

    def preview(self, snapshot_id: str, **wishes: Any) -> Operation:
        """Begin to look at `paths` of a snapshot, as a restore to `target_path` would write them."""
        return read(Operation, self._do("POST", f"/{_part(snapshot_id)}/preview", body=wishes))

    def restore(self, snapshot_id: str, **wishes: Any) -> Operation:
        """Begin to bring `paths` of a snapshot back to a running `instance_id`, below `target_path`, by `mode`."""
        return read(Operation, self._do("POST", f"/{_part(snapshot_id)}/restore", body=wishes))

    def checks(self, *, snapshot_id: str | None = None, outcome: str | None = None) -> Iterator[Check]:
        """Yield verifications, newest first."""
        query = {"snapshot_id": snapshot_id, "outcome": outcome, "limit": 100}
        return self.walk("/snapshots/checks", "checks", Check, query)

    def prune(self, **wishes: Any) -> Document:
        """Forget by numbers or by policy, or say what that would forget."""
        return _object(self._do("POST", "/prune", body=wishes))

    def collect(self, *, instance_id: str | None, dry_run: bool) -> Operation:
        """Begin to free what no snapshot needs, or to find out how much that is."""
        body = {"dry_run": dry_run, **({"instance_id": instance_id} if instance_id else {})}
        return read(Operation, self._do("POST", "/collect", body=body))

    def policy(self, *, instance_id: str | None = None) -> Document:
        """Return what holds for a team's snapshots, or for an instance's."""
        return _object(self._do("GET", "/retention-policy", query={"instance_id": instance_id}))

    def set_policy(self, terms: Document, *, instance_id: str | None = None) -> Document:
        """Change what holds."""
        return _object(self._do("PUT", "/retention-policy", query={"instance_id": instance_id}, body=terms))

    def _do(self, method: str, path: str, **more: Any) -> Any:
        key = None if method == "GET" else self.new_key()
        return self.send(Request(method, f"{self.base}/snapshots{path}", **more, key=key))


def _object(document: Any) -> Document:
    from dumont.client.problems import ApiUnreadable

    if not isinstance(document, dict):
        raise ApiUnreadable("The server sent no object where the API promises one.")
    return document


def _part(text: str) -> str:
    return quote(text, safe="")
