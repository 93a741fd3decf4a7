"""The API's versioned sync as calls: policy, runs, points in time, restore; documents as they come."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from dumont.client.problems import ApiUnreadable
from dumont.client.wire import Request

Document = dict[str, Any]


class Syncs:
    """The histories of a team's workspaces, reached through a client; each call names an instance.

    `send` sends a request and returns its document; `new_key` makes an Idempotency-Key. Errors: as for the client.
    """

    def __init__(self, api: str, send: Callable[[Request], Any], new_key: Callable[[], str]) -> None:
        self._api = api
        self._send = send
        self._new_key = new_key

    def status(self, instance_id: str) -> Document:
        """Return how the sync stands."""
        return self._call("GET", instance_id, "")

    def policy(self, instance_id: str) -> Document:
        """Return what is synced and how often."""
        return self._call("GET", instance_id, "/config")

    def set_policy(self, instance_id: str, **members: Any) -> Document:
        """Change members of the policy: `enabled`, `interval_seconds`, `paths`, `exclude`, `keep_last` and so on."""
        return self._call("PUT", instance_id, "/config", members)

    def begin(self, instance_id: str, *, force: bool = False) -> Document:
        """Begin a sync and return its run."""
        return self._call("POST", instance_id, "", query={"force": force or None})

    def stop(self, instance_id: str) -> Document:
        """Stop the work that goes on."""
        return self._call("POST", instance_id, "/stop")

    def release(self, instance_id: str) -> Document:
        """Accept that files vanished."""
        return self._call("POST", instance_id, "/release-guard", {"accept_deletions": True})

    def summary(self, instance_id: str) -> Document:
        """Return what the first sync took and the later ones."""
        found = self._call("GET", instance_id, "/history", query={"limit": 1}).get("summary")
        return found if isinstance(found, dict) else {}

    def iter_runs(self, instance_id: str) -> Iterator[Document]:
        """Yield the work on a history, newest first."""
        return self._all(instance_id, "/history", "runs")

    def iter_points(self, instance_id: str) -> Iterator[Document]:
        """Yield the points in time that can be brought back, newest first."""
        return self._all(instance_id, "/points", "points")

    def tree(self, instance_id: str, point: str, path: str) -> Document:
        """Begin to list a folder of a point; the operation's result has the entries."""
        return self._call("POST", instance_id, f"/points/{_part(point)}/tree", {"path": path})

    def restore(self, instance_id: str, point: str, paths: list[str], target: str | None) -> Document:
        """Begin to bring paths of a point back to the machine."""
        body = {"paths": paths, "target_path": target}
        known = {name: value for name, value in body.items() if value is not None}
        return self._call("POST", instance_id, f"/points/{_part(point)}/restore", known)

    def check(self, instance_id: str, percent: int | None) -> Document:
        """Begin to prove the repository, with a share of its data read back."""
        body = None if percent is None else {"read_data_percent": percent}
        return self._call("POST", instance_id, "/check", body)

    def prune(self, instance_id: str, *, dry_run: bool = False) -> Document:
        """Begin to give back the room of forgotten points, or to find out how much that is."""
        return self._call("POST", instance_id, "/prune", {"dry_run": dry_run})

    def _call(
        self,
        method: str,
        instance_id: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Document:
        where = f"{self._api}/instances/{_part(instance_id)}/sync{path}"
        key = None if method == "GET" else self._new_key()
        found = self._send(Request(method, where, query=query, body=body, key=key))
        if not isinstance(found, dict):
            raise ApiUnreadable("The server sent no object where the API promises one.")
        return found

    def _all(self, instance_id: str, path: str, plural: str) -> Iterator[Document]:
        cursor: str | None = None
        while True:
            page = self._call("GET", instance_id, path, query={"limit": 100, "cursor": cursor})
            rows = page.get(plural)
            if not isinstance(rows, list):
                raise ApiUnreadable(f"The server sent no list of {plural}.")
            yield from rows
            cursor = page.get("next_cursor")
            if not isinstance(cursor, str):
                return


def _part(text: str) -> str:
    return quote(text, safe="")
