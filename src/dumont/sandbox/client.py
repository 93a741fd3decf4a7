"""A small synchronous client of /_sandbox/ for the demo and for tests."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class SandboxControlError(Exception):
    """The sandbox refused a control call; the message is its own."""


@dataclass(frozen=True)
class LedgerLine:
    """What one instance has cost. Units: nano-dollars; times in product seconds."""

    instance_id: int
    label: str | None
    machine_id: int
    spans: list[dict[str, Any]]
    gpu_nanousd: int
    disk_nanousd: int
    total_nanousd: int
    running: bool
    created_at: float
    destroyed_at: float | None


class SandboxControl:
    """Calls the sandbox at `url`; a new connection for each call, so it may be shared by threads.

    Errors: every call raises SandboxControlError for a refusal, OSError where nobody answers.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._token = token
        self._timeout = timeout

    def state(self) -> dict[str, Any]:
        """Return time, credit, faults and machines."""
        return dict(self._call("GET", "state"))

    def ledger(self) -> list[LedgerLine]:
        """Return a line for each instance that ever was."""
        return [LedgerLine(**line) for line in self._call("GET", "ledger")]

    def line(self, instance_id: int) -> LedgerLine:
        """Return the line of one instance.

        Errors: KeyError where there never was one of that number.
        """
        return {line.instance_id: line for line in self.ledger()}[instance_id]

    def set_load(self, instance_id: int, percent: "int | str") -> None:
        """Let the GPUs look that busy: 0 to 100, or idle, steady, burst, train."""
        self._call("POST", f"machines/{instance_id}/load", {"percent": percent})

    def kill_host(self, instance_id: int) -> None:
        """Pull the plug of the computer that this instance is on; all its instances go dark and cost nothing."""
        self._call("POST", f"machines/{instance_id}/kill_host")

    def restore_host(self, instance_id: int) -> None:
        """Give the computer of an instance its power back, also when the instance is gone."""
        self._call("POST", f"machines/{instance_id}/restore_host")

    def befall(self, instance_id: int, event: str, **params: Any) -> None:
        """Let something befall a machine now: a fault of machines such as host_offline, or `remember`."""
        self._call("POST", f"machines/{instance_id}/{event}", params)

    def turn_clock(
        self, *, advance_s: float = 0, speed: float | None = None, pause: bool | None = None
    ) -> dict[str, Any]:
        """Turn the sandbox's clock forward, change its speed, pause it or let it go on; return what it shows."""
        return dict(self._call("POST", "clock", {"advance_s": advance_s, "speed": speed, "pause": pause}))

    def enforce_limits(self, enforce: bool) -> None:
        """Enforce the documented call intervals from now on, or no longer."""
        self._call("POST", "limits", {"enforce": enforce})

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the lines of the sandbox's log after that one."""
        return list(self._call("GET", f"log?after={after}"))

    def reset(self, *, seed: int = 0, faults: list[dict[str, Any]] | None = None) -> None:
        """Begin anew: no machine, no bill, no key, these rules, this seed."""
        self._call("POST", "reset", {"seed": seed, "faults": faults or []})

    def add_rule(self, rule: dict[str, Any]) -> dict[str, Any]:
        """Add a rule of the form {fault, match, when, params} and return what the sandbox noted."""
        return dict(self._call("POST", "faults", rule))

    def add_fault(self, fault: str, params: dict[str, Any] | None = None, *, times: int = 1) -> dict[str, Any]:
        """Wish for a fault and return what the sandbox noted, with its number `i`."""
        return dict(self._call("POST", "faults", {"fault": fault, "params": params or {}, "times": times}))

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that are still to come."""
        return list(self._call("GET", "faults"))

    def remove_fault(self, index: int) -> int:
        """Drop one fault; return how many went, 0 or 1."""
        return int(self._call("DELETE", f"faults/{index}")["removed"])

    def clear_faults(self) -> int:
        """Drop all faults; return how many went."""
        return int(self._call("DELETE", "faults")["removed"])

    def send_rival(self, instance_id: int, *, bid: float | None = None, for_s: float | None = None) -> dict[str, Any]:
        """Let another renter come for an instance's GPUs and return it with its number `i`.

        Units: `bid` in dollars per hour for all of them, None for one who rents on demand; `for_s` in product seconds,
        None for until dismissed.
        """
        body: dict[str, Any] = {"instance": instance_id, "bid": bid}
        return dict(self._call("POST", "rivals", body if for_s is None else {**body, "for_s": for_s}))

    def dismiss_rivals(self) -> int:
        """Let all renters that were sent go; return how many went."""
        return int(self._call("DELETE", "rivals")["removed"])

    def bind_trace(self, binding: dict[str, Any]) -> dict[str, Any]:
        """Let a part of the market follow a trace from now on and return what the sandbox noted.

        Shapes: `{"trace": file | content | {"synthetic": {...}}, "bind": {"model" | "country" | "machine": ...},
        "mode": "availability" | "preemption" | "price", "scale", "offset_s", "repeat", "start"}`.
        """
        return dict(self._call("POST", "traces", binding))

    def clear_traces(self) -> int:
        """Let the market forget its traces; return how many went."""
        return int(self._call("DELETE", "traces")["removed"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            headers = {"X-Sandbox-Token": self._token, "Content-Type": "application/json"}
            connection.request(method, f"/_sandbox/{path}", json.dumps(body or {}), headers)
            reply = connection.getresponse()
            document = json.loads(reply.read())
        finally:
            connection.close()
        if reply.status != 200:
            raise SandboxControlError(str(document.get("msg", reply.status)))
        return document
