"""Which faults there are, what may be said about each, and the reading of what somebody wished for."""

from collections.abc import Callable
from typing import Any

OPERATIONS = (
    "create",
    "destroy",
    "start",
    "stop",
    "label",
    "list",
    "show",
    "search",
    "bid",
    "reboot",
    "logs",
    "key",
    "keys",
    "attach",
    "user",
    "charges",
)
"""What a rule may name as `op`: the kinds of call to the marketplace."""
MATCHABLE = ("op", "method", "path", "key", "machine", "label", "instance")


class BadFault(ValueError):
    """A fault that the sandbox does not know or cannot read; the message says what it knows."""


Check = Callable[[str, Any], str | None]


def _number(name: str, value: Any) -> str | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
    return None if good else f"{name} must be a number, not below zero."


def _flag(name: str, value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{name} must be true or false."


def _text(name: str, value: Any) -> str | None:
    return None if isinstance(value, str) else f"{name} must be a text."


def _of(*words: str) -> Check:
    def check(name: str, value: Any) -> str | None:
        return None if value in words else f"{name} must be one of {', '.join(words)}."

    return check


_ERROR: dict[str, Check] = {"status": _number, "html": _flag}
_OFFLINE: dict[str, Check] = {
    "moment": _of("running", "ssh_login", "ssh_exec"),
    "after_s": _number,
    "for_s": _number,
    "ssh": _flag,
    "data": _of("kept", "lost", "old"),
}
KNOWN: dict[str, dict[str, Check]] = {
    "rate_limit": {
        "form": _of("text_short", "text", "detail", "json", "retry_after"),
        "threshold": _number,
        "retry_after_s": _number,
    },
    "latency": {"ms": _number},
    "http_error": _ERROR,
    "error_after": _ERROR,
    "accept_then_drop": {"cut": _of("before_reply", "half_reply", "reset")},
    "drop_before": {"cut": _of("reset", "timeout"), "real_s": _number},
    "empty_list_200": {"form": _of("empty_array", "empty_body", "null", "html")},
    "success_false_200": {"error": _text, "msg": _text},
    "page_drop": {},
    "dirty_json": {
        "what": _of(
            "NaN",
            "Infinity",
            "dup_keys",
            "trailing_space",
            "null_numbers",
            "string_numbers",
            "extra_fields",
            "unknown_status",
        ),
        "rows": _of("first", "all"),
    },
    "auth_fail": {"form": _of("401", "403", "404_auth_error"), "for_s": _number},
    "sold_between": {"form": _of("404", "400", "410")},
    "double_sold": {"after_s": _number, "loser": _of("us", "other"), "shown": _of("created", "exited")},
    "read_lag": {"s": _number},
    "status_null": {"for_s": _number},
    "stuck_loading": {},
    "slow_pull": {"s": _number},
    "oci_fail": {"text": _text},
    "start_queue": {"for_s": _number, "emit_scheduling": _flag},
    "create_start_race": {},
    "status_lag": {"s": _number},
    "destroy_linger": {"s": _number, "shown": _of("running", "stopped")},
    "destroy_lost": {},
    "zombie": {"after_s": _number},
    "exits": {"after_s": _number, "text": _text},
    "host_offline": _OFFLINE,
    "ssh_refused": {"for_s": _number},
    "ssh_auth_refused": {"for_s": _number},
    "ssh_drop": {"after_s": _number, "after_bytes": _number},
    "host_key_change": {"on": _of("restart", "any"), "after_s": _number},
    "addr_change": {"on": _of("restart", "any"), "after_s": _number},
    "outside_change": {
        "action": _of("stop", "destroy", "relabel", "attach_key"),
        "after_s": _number,
        "label": _text,
    },
}
"""Fault to the parameters it takes. Units: `_s` product seconds, `real_s` and `ms` real time."""
_ORDERS = ["create", "destroy", "start", "stop", "label", "bid"]


def checked_rule(rule: Any) -> tuple[str, dict[str, Any], dict[str, list[str]], dict[str, Any]]:
    """Return fault, params, match and when of a rule.

    Errors: BadFault.
    """
    if not isinstance(rule, dict) or set(rule) - {"fault", "params", "match", "when", "times"}:
        raise BadFault("A rule has the keys fault, params, match, when and times.")
    fault = rule.get("fault")
    params, match = checked_params(fault, rule.get("params") or {})
    match |= checked_match(rule.get("match") or {})
    return str(fault), params, match, checked_when(rule.get("when") or {}, rule.get("times"))


def checked_params(fault: Any, params: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the parameters, and what `ops` and `instance` among them ask the rule to match.

    Errors: BadFault.
    """
    if not isinstance(fault, str) or fault not in KNOWN:
        raise BadFault(f"Unknown fault; known are {', '.join(KNOWN)}.")
    if not isinstance(params, dict):
        raise BadFault("params must be an object.")
    match = checked_match(
        {name: params[key] for key, name in (("ops", "op"), ("instance", "instance")) if key in params}
    )
    if fault == "accept_then_drop" and "op" not in match:
        match["op"] = _ORDERS
    own = {name: value for name, value in params.items() if name not in ("ops", "instance")}
    for name, value in own.items():
        if name not in KNOWN[fault]:
            raise BadFault(f"{fault} takes {', '.join(['ops', 'instance', *KNOWN[fault]])}; not {name}.")
        if (complaint := KNOWN[fault][name](name, value)) is not None:
            raise BadFault(complaint)
    if "on" in KNOWN[fault]:
        match["op"] = ["restart" if own.get("on", "restart") == "restart" else "up"]
    return own, match


def checked_match(match: Any) -> dict[str, list[str]]:
    """Return the patterns by name, each a list.

    Errors: BadFault.
    """
    if not isinstance(match, dict) or any(name not in MATCHABLE for name in match):
        raise BadFault(f"match may name {', '.join(MATCHABLE)}.")
    read = {name: [str(one) for one in (v if isinstance(v, list) else [v])] for name, v in match.items()}
    if any(op not in OPERATIONS and "*" not in op for op in read.get("op", [])):
        raise BadFault(f"ops must be a list of {', '.join(OPERATIONS)}.")
    return read


def checked_when(when: Any, times: Any) -> dict[str, Any]:
    """Return from_s, to_s, nth, p and max as far as they are said; `times` is another word for max.

    Errors: BadFault.
    """
    if not isinstance(when, dict) or set(when) - {"from_s", "to_s", "nth", "p", "max"}:
        raise BadFault("when may name from_s, to_s, nth, p and max.")
    read = dict(when)
    if times is not None:
        read["max"] = times
    for name in ("from_s", "to_s", "p", "max"):
        if name in read and (complaint := _number(name, read[name])) is not None:
            raise BadFault(complaint)
    if "max" in read and (not isinstance(read["max"], int) or read["max"] < 1):
        raise BadFault("times and max must be a whole number above zero.")
    nth = read.get("nth", [])
    nth = nth if isinstance(nth, list) else [nth]
    if any(not isinstance(one, int) or one < 1 for one in nth):
        raise BadFault("nth must be whole numbers above zero.")
    return {**read, **({"nth": nth} if nth else {})}
