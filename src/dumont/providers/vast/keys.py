"""Compare SSH public keys as Vast lists them."""

import json
from collections.abc import Iterable
from typing import Any

from dumont.providers.vast.values import text


def public_keys_in(reply: Any) -> list[str]:
    """Return the keys of a listing: a bare array, or an object whose `ssh_keys` is an array or JSON text.

    Source: both field names, `key` and `public_key`, are real; a deleted key carries `deleted_at`.
    """
    rows = reply.get("ssh_keys", []) if isinstance(reply, dict) else reply
    if isinstance(rows, str):
        try:
            rows = json.loads(rows)
        except ValueError:
            rows = []
    living = [row for row in rows or [] if isinstance(row, dict) and not row.get("deleted_at")]
    return [key for key in (text(row, "public_key", "key", "ssh_key") for row in living) if key]


def same_key(public_key: str, known: Iterable[str]) -> bool:
    """Tell whether a key is among others by its type and body; comments do not matter."""
    wanted = public_key.split()[:2]
    return len(wanted) == 2 and any(key.split()[:2] == wanted for key in known)
