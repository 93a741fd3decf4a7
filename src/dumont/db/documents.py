"""JSON values as the database takes them, whatever texts of others are in them."""

import json
from typing import Any

from psycopg.types.json import set_json_dumps

from dumont.core import storable_json


def dump_json(value: Any) -> str:
    """Write a JSON value as text; signs that PostgreSQL refuses are replaced, because a machine may say anything."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if "\\u0000" not in written and written.isprintable():
        return written
    return json.dumps(storable_json(value), separators=(",", ":"), ensure_ascii=False)


set_json_dumps(dump_json)
