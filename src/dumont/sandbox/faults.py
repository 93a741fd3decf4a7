"""The faults a test asks for: each is used up after `times` uses; kept in memory only."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NAMES = (
    "accept_then_drop",
    "http_error",
    "empty_list_200",
    "sold_between",
    "ssh_refused",
    "stuck_loading",
    "slow_loading",
    "host_dies",
)
_MOMENTS = ("running", "ssh_login", "ssh_exec")
_NUMBERS = ("s", "for_s", "after_s", "after_rentals", "status", "instance")
OPERATIONS = ("create", "destroy", "start", "stop", "label", "list", "show", "search")


class BadFault(ValueError):
    """A fault that the sandbox does not know or cannot read; the message says which are known."""


@dataclass
class Fault:
    """One wish for trouble, and how often it is still to be served."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    times: int = 1
    index: int = 0
    used: int = 0

    def document(self) -> dict[str, Any]:
        """Return what `/_sandbox/faults` shows."""
        return {"i": self.index, "fault": self.name, "params": self.params, "times": self.times, "used": self.used}


class Faults:
    """The wishes that are open."""

    def __init__(self) -> None:
        self._open: list[Fault] = []
        self._next = 0

    def add(self, document: dict[str, Any]) -> Fault:
        """Read and keep a fault.

        Errors: BadFault for an unknown name, operation or shape.
        """
        name, params, times = document.get("fault"), document.get("params") or {}, document.get("times", 1)
        if name not in NAMES:
            raise BadFault(f"Unknown fault; known are {', '.join(NAMES)}.")
        if not isinstance(params, dict) or not isinstance(times, int) or times < 1:
            raise BadFault("params must be an object and times a whole number above zero.")
        _check(params)
        if name == "accept_then_drop":
            params = {"ops": ["create", "destroy", "start", "stop"], **params}
        fault = Fault(str(name), params, times, self._next)
        self._next += 1
        self._open.append(fault)
        return fault

    def take(self, name: str, matches: Callable[[dict[str, Any]], bool] = lambda params: True) -> Fault | None:
        """Use the oldest open fault of that name whose params match, or return None."""
        for fault in self._open:
            if fault.name == name and matches(fault.params):
                fault.used += 1
                if fault.used >= fault.times:
                    self._open.remove(fault)
                return fault
        return None

    def take_for(self, name: str, operation: str) -> Fault | None:
        """Use a fault that names this operation, or names none and so means all."""
        return self.take(name, lambda params: not params.get("ops") or operation in params["ops"])

    def documents(self) -> list[dict[str, Any]]:
        """Return the open faults."""
        return [fault.document() for fault in self._open]

    def remove(self, index: int | None = None) -> int:
        """Drop one fault, or all; return how many went."""
        before = len(self._open)
        self._open = [] if index is None else [fault for fault in self._open if fault.index != index]
        return before - len(self._open)


def _check(params: dict[str, Any]) -> None:
    ops = params.get("ops", [])
    if not isinstance(ops, list) or any(op not in OPERATIONS for op in ops):
        raise BadFault(f"ops must be a list of {', '.join(OPERATIONS)}.")
    for name in _NUMBERS:
        value = params.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise BadFault(f"{name} must be a number, not below zero.")
    if params.get("when", _MOMENTS[0]) not in _MOMENTS:
        raise BadFault(f"when must be one of {', '.join(_MOMENTS)}.")
