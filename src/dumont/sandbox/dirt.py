"""Replies that are wrong in the ways seen in the field: not JSON by the book, or JSON that no reader should trust."""

import json
import math
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
_MARK = "@sandbox-row-"


def soil(document: Any, what: str, rows: str) -> bytes:
    """Return the document as JSON with its first row, or all of them, made dirty in that way."""
    meant = _rows(document)[: None if rows == "all" else 1]
    texts = {f"{_MARK}{at}": _WAYS[what](row) for at, row in enumerate(meant)}
    marks = {id(row): f"{_MARK}{at}" for at, row in enumerate(meant)}
    text = json.dumps(_marked(document, marks))
    for mark, dirty in texts.items():
        text = text.replace(json.dumps(mark), dirty)
    return text.encode()


def _rows(document: Any) -> list[Row]:
    if not isinstance(document, dict):
        return []
    found = document.get("offers", document.get("instances"))
    return [found] if isinstance(found, dict) else list(found or [])


def _marked(document: Any, marks: dict[int, str]) -> Any:
    if id(document) in marks:
        return marks[id(document)]
    if isinstance(document, dict):
        return {name: _marked(value, marks) for name, value in document.items()}
    return [_marked(value, marks) for value in document] if isinstance(document, list) else document


def _numbers(row: Row, change: Callable[[str, Any], Any]) -> str:
    return json.dumps({n: change(n, v) if _is_number(v) and not n.endswith("id") else v for n, v in row.items()})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _price(value: float) -> Callable[[Row], str]:
    return lambda row: json.dumps({**row, "dph_total": value, "gpu_util": value})


def _twice(row: Row) -> str:
    return '{"dph_total": 0.000001, "gpu_name": "", ' + json.dumps(row)[1:]


def _spaced(row: Row) -> str:
    return json.dumps({name: value + " \n" if isinstance(value, str) else value for name, value in row.items()})


_WAYS: dict[str, Callable[[Row], str]] = {
    "NaN": _price(math.nan),
    "Infinity": _price(math.inf),
    "dup_keys": _twice,
    "trailing_space": _spaced,
    "null_numbers": lambda row: _numbers(row, lambda name, value: None),
    "string_numbers": lambda row: _numbers(row, lambda name, value: str(value)),
    "extra_fields": lambda row: json.dumps({**row, "quantum_units": {"depth": [1, {"more": None}]}}),
    "unknown_status": lambda row: json.dumps({**row, "actual_status": "hibernating"}),
}
