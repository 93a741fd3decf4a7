"""The other side of the wire: a small real HTTP server that speaks the API with state, for tests of client and CLI."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dumont.core import new_id

PASSWORD = "correct horse battery"


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Work:
    """An operation: its news in order, then its end. `cuts` breaks the first streams after so many events each."""

    document: dict[str, Any]
    news: list[tuple[str, dict[str, Any]]]
    end: Callable[[], None]
    cuts: list[int] = field(default_factory=list)
    polls: int = 0
    hold: threading.Event | None = None

    def finish(self, status: str = "succeeded") -> None:
        if self.document["status"] == "running":
            self.document["status"] = self.document.get("will_be") or status
            self.document["percent"] = 100 if self.document["status"] == "succeeded" else 50
            if self.document["status"] == "succeeded":
                self.end()


class Refusal(Exception):
    def __init__(
        self, status: int, code: str, act: str, detail: str, headers: dict[str, str] | None = None, **more: Any
    ):
        super().__init__(code)
        self.status = status
        self.headers = headers or {}
        self.document = {"status": status, "code": code, "act": act, "detail": detail, "title": code, **more}


class Api:
    """The state behind the server and the faults to be thrown, each once: (method, path pattern, what)."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.faults: list[tuple[str, str, Any]] = []
        self.tokens: set[str] = set()
        self.refreshes: list[str] | None = None
        self.offers: list[dict[str, Any]] = []
        self.sources: list[dict[str, Any]] = [{"provider": "vast", "status": "ok"}]
        self.on_offers: Callable[[], None] = lambda: None
        self.instances: dict[str, dict[str, Any]] = {}
        self.access: dict[str, Any] = {}
        self.snapshots: list[dict[str, Any]] = []
        self.ssh_keys: list[dict[str, Any]] = []
        self.work: dict[str, Work] = {}
        self.answers: dict[tuple[str, str, str], tuple[int, Any]] = {}
        self.streams = True
        self.will_be: str | None = None
        self.problem: dict[str, Any] | None = None
        self.cuts: list[int] = []
        self.hold: threading.Event | None = None
        self.log: list[list[str]] = [["one", "two", "three"]]
        self.lock = threading.RLock()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and re.fullmatch(path, seen.path)]

    def add_offer(self, price: str, gpu: str = "RTX 4090", **more: Any) -> str:
        offer = {
            "id": new_id("off"),
            "gpu_name": gpu,
            "num_gpus": 1,
            "gpu_ram": 24,
            "price_hour": {"amount": price, "currency": "USD"},
            "geolocation": "Lisbon, PT",
            "reliability": 0.987,
            **more,
        }
        self.offers.append(offer)
        return str(offer["id"])

    def add_instance(self, **more: Any) -> str:
        instance = {
            "id": new_id("ins"),
            "status": "running",
            "gpu_name": "RTX 4090",
            "num_gpus": 2,
            "label": None,
            "price_hour": {"amount": "0.350789", "currency": "USD"},
            "cost_to_date": {"amount": "1.250000", "currency": "USD"},
            "created_at": "2026-07-01T10:00:00Z",
            **more,
        }
        self.instances[instance["id"]] = instance
        return str(instance["id"])

    def start(self, kind: str, instance: dict[str, Any], status: str, **result: Any) -> dict[str, Any]:
        def end() -> None:
            instance.update(status=status, **result)

        document = {
            "id": new_id("op"),
            "kind": kind,
            "status": "running",
            "percent": 0,
            "instance_id": instance["id"],
            "created_at": "2026-07-01T10:00:00Z",
            "steps": [],
            "problem": self.problem,
            "will_be": self.will_be,
            "result": {"files": 8500, "bytes_total": 3 << 30, "bytes_stored": 1 << 30},
        }
        times = {"started_at": "2026-07-01T10:00:00Z", "finished_at": "2026-07-01T10:00:02.500000Z"}
        news = [
            ("step", {"step": {"name": "freeze", "status": "running", **times}, "percent": 5}),
            ("step", {"step": {"name": "freeze", "status": "done", **times}, "percent": 10}),
            ("step", {"step": {"name": "save_files", "status": "running"}, "percent": 10}),
            ("progress", {"step": {"name": "save_files", "bytes_done": 0, "bytes_total": 4194304}, "percent": 20}),
            (
                "progress",
                {
                    "step": {
                        **{"name": "save_files", "bytes_done": 2097152, "bytes_total": 4194304},
                        **{"bytes_second": 24672, "seconds_left": 85.0, "ratio": 1.5},
                    }
                },
            ),
            ("step", {"step": {"name": "save_files", "status": "done", "bytes_done": 4194304, **times}, "percent": 90}),
        ]
        work = Work(document, news, end, list(self.cuts), hold=self.hold)
        self.work[document["id"]] = work
        instance["operation_id"] = document["id"]
        return document


def route(api: Api, seen: Seen) -> tuple[int, Any]:
    """Carry out one request and return status and document."""
    for method, pattern, act in _ROUTES:
        match = re.fullmatch(pattern, seen.path)
        if match and method == seen.method:
            if not seen.path.startswith(("/api/v1/auth/login", "/api/v1/auth/re", "/health")):
                _authorised(api, seen)
            result: tuple[int, Any] = act(api, seen, *match.groups())
            return result
    raise Refusal(404, "route-not-found", "fix", "There is no such path.")


def _authorised(api: Api, seen: Seen) -> None:
    token = seen.headers.get("authorization", "").removeprefix("Bearer ")
    if token not in api.tokens:
        raise Refusal(401, "expired-token", "fix", "The token is no longer valid.")


def _login(api: Api, seen: Seen) -> tuple[int, Any]:
    if seen.body.get("password") != PASSWORD:
        raise Refusal(401, "invalid-credentials", "fix", "Account or password is wrong.")
    token = f"token-{len(api.tokens) + 1}"
    api.tokens.add(token)
    who = seen.body.get("email") or seen.body.get("username")
    session = {"user_id": "usr_1", "email": who, "role": "admin", "access_token": token, "expires_in": 3600}
    if api.refreshes is None:
        return 200, session
    api.refreshes.append(f"refresh-{len(api.refreshes) + 1}")
    return 200, {**session, "refresh_token": api.refreshes[-1]}


def _refresh(api: Api, seen: Seen) -> tuple[int, Any]:
    """Take only the newest token, as a server does that ends a session where a spent one comes again."""
    if not api.refreshes or seen.body.get("refresh_token") != api.refreshes[-1]:
        raise Refusal(401, "refresh-token-reused", "fix", "This refresh token was used before.")
    return _login(api, replace(seen, body={"email": "ana@x.org", "password": PASSWORD}))


def _page(rows: list[dict[str, Any]], plural: str, seen: Seen) -> tuple[int, Any]:
    limit, start = int(seen.query.get("limit", 50)), int(seen.query.get("cursor", 0))
    following = str(start + limit) if start + limit < len(rows) else None
    page = rows[start : start + limit]
    return 200, {plural: page, "count": len(page), "total": len(rows), "next_cursor": following}


def _offers(api: Api, seen: Seen) -> tuple[int, Any]:
    rows = sorted(api.offers, key=lambda offer: float(offer["price_hour"]["amount"]))
    if "gpu_name" in seen.query:
        rows = [row for row in rows if row["gpu_name"] == seen.query["gpu_name"]]
    if "max_price" in seen.query:
        rows = [row for row in rows if float(row["price_hour"]["amount"]) <= float(seen.query["max_price"])]
    status, page = _page(rows, "offers", seen)
    api.on_offers()
    return status, {**page, "sources": api.sources}


def _create(api: Api, seen: Seen) -> tuple[int, Any]:
    offer = next((row for row in api.offers if row["id"] == seen.body["offer_id"]), None)
    if offer is None:
        raise Refusal(409, "offer-gone", "fix", "The offer was rented by someone else.")
    number = api.add_instance(
        status="creating", label=seen.body.get("label"), gpu_name=offer["gpu_name"], price_hour=offer["price_hour"]
    )
    api.start("create", api.instances[number], "running")
    return 202, dict(api.instances[number])


def _instances(api: Api, seen: Seen) -> tuple[int, Any]:
    every = seen.query.get("include_destroyed") == "true"
    rows = [row for row in api.instances.values() if every or row["status"] != "destroyed"]
    return _page(rows, "instances", seen)


def _instance(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    found = api.instances.get(number)
    hidden = found is not None and found["status"] == "destroyed" and seen.query.get("include_destroyed") != "true"
    if found is None or hidden:
        raise Refusal(404, "instance-not-found", "fix", "No instance has this id.")
    return 200, dict(found)


def _verb(kind: str, during: str, after: str) -> Callable[..., tuple[int, Any]]:
    def act(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
        _, instance = _instance(api, Seen("GET", seen.path, {"include_destroyed": "true"}, {}, None), number)
        instance = api.instances[instance["id"]]
        result = {"machine_kept": (seen.body or {}).get("then") != "destroy"} if kind == "hibernate" else {}
        instance["status"] = during
        api.start(kind, instance, after, **result)
        return 202, dict(instance)

    return act


def _change(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    instance = api.instances[_instance(api, seen, number)[1]["id"]]
    labels = {**(instance.get("labels") or {}), **seen.body.get("labels", {})}
    instance.update({**seen.body, "labels": {name: value for name, value in labels.items() if value is not None}})
    return 200, dict(instance)


def _logs(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    shown = api.log.pop(0) if len(api.log) > 1 else api.log[0]
    tail = int(seen.query.get("tail", 500))
    return 200, {"lines": [{"at": None, "text": line} for line in shown[-tail:]], "source": "container"}


def _ssh(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    if number not in api.access:
        raise Refusal(409, "instance-not-running", "fix", "The instance is not running.")
    return 200, api.access[number]


def _attach(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    found = [key for key in api.ssh_keys if key["id"] == seen.body["ssh_key_id"]]
    if number not in api.access or not found:
        raise Refusal(409, "instance-not-running", "fix", "The instance is not running.")
    api.start("attach_key", api.instances[number], "running")
    operation = api.instances[number]["operation_id"]
    return 202, {"operation_id": operation, "fingerprints": [found[0]["fingerprint"]]}


def _operation(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    work = api.work.get(number)
    if work is None:
        raise Refusal(404, "operation-not-found", "fix", "No operation has this id.")
    if seen.query.get("wait_seconds"):
        work.polls += 1
        if work.polls > 2:
            work.finish()
    return 200, dict(work.document, polls=work.polls)


def _cancel(api: Api, seen: Seen, number: str) -> tuple[int, Any]:
    _operation(api, seen, number)
    api.work[number].document["status"] = "cancelling"
    return 202, dict(api.work[number].document)


def _add_key(api: Api, seen: Seen) -> tuple[int, Any]:
    from dumont.cli.keys import fingerprint

    key = {"id": new_id("key"), **seen.body, "fingerprint": fingerprint(seen.body["public_key"])}
    api.ssh_keys.append(key)
    return 201, key


_ID = r"([a-z]+_[0-9A-Z]+)"
_I = "/api/v1/instances"
_ROUTES: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
    ("GET", "/health", lambda api, seen: (200, {"status": "ok"})),
    ("POST", "/api/v1/auth/(?:login|register)", _login),
    ("POST", "/api/v1/auth/refresh", _refresh),
    ("POST", "/api/v1/auth/logout", lambda api, seen: (api.tokens.clear(), (200, {"success": True}))[1]),
    ("GET", "/api/v1/auth/me", lambda api, seen: (200, {"user": {"email": "ana@x.org"}, "team": {"name": "Ana"}})),
    ("GET", "/api/v1/ssh-keys", lambda api, seen: (200, {"ssh_keys": api.ssh_keys})),
    ("POST", "/api/v1/ssh-keys", _add_key),
    ("GET", f"{_I}/offers", _offers),
    ("GET", _I, _instances),
    ("POST", _I, _create),
    ("GET", f"{_I}/{_ID}", _instance),
    ("DELETE", f"{_I}/{_ID}", _verb("destroy", "destroying", "destroyed")),
    ("POST", f"{_I}/{_ID}/hibernate", _verb("hibernate", "hibernating", "hibernated")),
    ("POST", f"{_I}/{_ID}/wake", _verb("wake", "waking", "running")),
    ("PATCH", f"{_I}/{_ID}", _change),
    ("POST", f"{_I}/{_ID}/pause", _verb("pause", "pausing", "paused")),
    ("POST", f"{_I}/{_ID}/resume", _verb("resume", "resuming", "running")),
    ("POST", f"{_I}/{_ID}/reboot", _verb("reboot", "resuming", "running")),
    ("GET", f"{_I}/{_ID}/logs", _logs),
    ("GET", f"{_I}/{_ID}/ssh", _ssh),
    ("POST", f"{_I}/{_ID}/ssh/keys", _attach),
    ("GET", f"{_I}/{_ID}/hibernation", lambda api, seen, number: (200, {"machine_kept": True})),
    ("GET", "/api/v1/snapshots", lambda api, seen: _page(api.snapshots, "snapshots", seen)),
    ("GET", "/api/v1/operations", lambda api, seen: _page([w.document for w in api.work.values()], "operations", seen)),
    ("GET", f"/api/v1/operations/{_ID}", _operation),
    ("POST", f"/api/v1/operations/{_ID}/cancel", _cancel),
]


class _Speaker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_PATCH = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(raw) if raw else None
        seen = Seen(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
        with self.api.lock:
            self.api.seen.append(seen)
            fault = self._fault(seen)
        if isinstance(fault, threading.Event):
            fault.wait(60)
        if fault == "drop-before":
            return self._drop()
        if isinstance(fault, Refusal):
            return self._answer(fault.status, fault.document, fault.headers)
        if isinstance(fault, bytes):
            return self._raw(200, fault, {"Content-Type": "text/html"})
        if parts.path.endswith("/events") and self.api.streams:
            return self._stream(seen)
        status, document = self._once(seen)
        return self._drop() if fault == "drop-after" else self._answer(status, document)

    def _fault(self, seen: Seen) -> Any:
        for at, (method, pattern, what) in enumerate(self.api.faults):
            if method == seen.method and re.fullmatch(pattern, seen.path):
                del self.api.faults[at]
                return what
        return None

    def _once(self, seen: Seen) -> tuple[int, Any]:
        key = seen.headers.get("idempotency-key")
        with self.api.lock:
            place = (seen.method, seen.path, key or "")
            if key and place in self.api.answers:
                return self.api.answers[place]
            try:
                answer = route(self.api, seen)
            except Refusal as refusal:
                return refusal.status, refusal.document
            if key:
                self.api.answers[place] = answer
            return answer

    def _stream(self, seen: Seen) -> None:
        _authorised(self.api, seen)
        work = self.api.work[seen.path.split("/")[-2]]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b": hello\n\n")
        cut = work.cuts.pop(0) if work.cuts else None
        after = int(seen.headers.get("last-event-id", 0))
        for number, (name, data) in list(enumerate(work.news, 1))[after:]:
            if cut is not None and number > after + cut:
                self._chunk(b"id: 99\nevent: step\ndata: {cut in the mid")
                return self._drop()
            self._chunk(f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
        if work.hold is not None:
            work.hold.wait(60)
        with self.api.lock:
            work.finish()
        self._chunk(f"id: 100\nevent: done\ndata: {json.dumps(work.document)}\n\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _raw(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what these tests are about."""


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """Serve an API on a free port, or again on the port that it had."""
    speaker = type("Speaker", (_Speaker,), {"api": api})
    server = _Server(("127.0.0.1", api.port), speaker)
    api.port = server.server_port
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
