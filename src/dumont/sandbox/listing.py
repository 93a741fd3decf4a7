"""The instance list of /api/v1: filters on stored columns, keyset paging, counts by label."""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from dumont.sandbox.market import Refused
from dumont.sandbox.search import BadQuery, matcher

_PAGE = 25
_STORED = ("id", "label", "actual_status", "intended_status", "cur_state", "gpu_name", "verification", "machine_id")
_STORED_ORDER = (*_STORED, "start_date")


class Row(NamedTuple):
    """One instance of the list: its stored columns, and what makes the whole of it once it is to be shown."""

    stored: dict[str, Any]
    document: Callable[[], dict[str, Any]]


def page(found: list[Row], query: dict[str, str]) -> dict[str, Any]:
    """Return one page of the list; only its own rows are made whole.

    Errors: Refused with invalid_token for a bad `after_token`, invalid_request for unreadable parameters.
    """
    rows = _filtered(found, _json(query, "select_filters", {}))
    order = _order(_json(query, "order_by", []))
    for name, descending in reversed(order):
        rows.sort(key=lambda row, name=name: _key(row.stored[name]), reverse=descending)  # type: ignore[misc]
    rest = _after(rows, order, query.get("after_token"))
    shown = rest[: _limit(query.get("limit"))]
    more = len(rest) > len(shown) and shown
    return {
        "success": True,
        "instances_found": len(shown),
        "total_instances": len(rows),
        "label_counts": dict(Counter(row.stored["label"] or "" for row in rows)),
        "next_token": _token(shown[-1].stored, order) if more else None,
        "instances": [_columns(row.document(), _json(query, "select_cols", ["*"])) for row in shown],
    }


def _json(query: dict[str, str], name: str, default: Any) -> Any:
    text = query.get(name)
    if not text:
        return default
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refused(400, "invalid_request", f"Invalid json in {name}") from error
    if not isinstance(value, type(default)):
        raise Refused(400, "invalid_request", f"{name} has the wrong shape")
    return value


def _filtered(rows: list[Row], filters: dict[str, Any]) -> list[Row]:
    for name in filters:
        if name not in _STORED:
            raise Refused(400, "invalid_request", f"Error in query parameters: {name} is not a valid search key")
    try:
        for name, wish in filters.items():
            passes = matcher(wish, name)
            rows = [row for row in rows if passes(row.stored[name])]
    except BadQuery as error:
        raise Refused(400, "invalid_request", str(error)) from error
    return rows


def _order(wishes: list[Any]) -> list[tuple[str, bool]]:
    order = []
    for wish in wishes:
        name = wish.get("col") if isinstance(wish, dict) else None
        if name not in _STORED_ORDER:
            raise Refused(400, "invalid_request", f"Error in query parameters: cannot order by {name}")
        order.append((str(name), str(wish.get("dir", "asc")).lower() == "desc"))
    if all(name != "id" for name, _ in order):
        order.append(("id", False))
    return order


def _key(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    return (1, value) if isinstance(value, (int, float)) else (2, str(value))


def _token(row: dict[str, Any], order: list[tuple[str, bool]]) -> str:
    return base64.b64encode(json.dumps({"values": {name: row[name] for name, _ in order}}).encode()).decode()


def _after(rows: list[Row], order: list[tuple[str, bool]], token: str | None) -> list[Row]:
    if not token:
        return rows
    try:
        values = json.loads(base64.b64decode(token, validate=True))["values"]
        last = [values[name] for name, _ in order]
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise Refused(400, "invalid_token", "The after_token is not one of ours.") from error
    return [row for row in rows if _comes_after(row.stored, last, order)]


def _comes_after(row: dict[str, Any], last: list[Any], order: list[tuple[str, bool]]) -> bool:
    for (name, descending), value in zip(order, last, strict=True):
        have, seen = _key(row[name]), _key(value)
        if have != seen:
            return (have < seen) if descending else (have > seen)
    return False


def _limit(text: str | None) -> int:
    if text is None:
        return _PAGE
    try:
        wanted = int(text)
    except ValueError as error:
        raise Refused(400, "invalid_request", "limit must be a whole number") from error
    return 5 if wanted <= 0 else min(wanted, _PAGE)


def _columns(row: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    return row if "*" in wanted else {name: row.get(name) for name in wanted}
