"""Prefixed ids that sort by the time at which they were made.

Source: the ULID layout (48 bits of milliseconds, 80 random bits, Crockford's base 32), https://github.com/ulid/spec
"""

import hashlib
import os
import re
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SHAPE = re.compile(r"^([a-z]{2,4})_([0-7][0-9A-HJKMNP-TV-Z]{25})$")


def new_id(prefix: str) -> str:
    """Make a fresh id such as `ins_01JQ8Z7C5T2V9K4M6N8P0R2S4T`."""
    return f"{prefix}_{_encode((time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), 'big'))}"


def derived_id(prefix: str, *parts: str) -> str:
    """Make the id that follows from the parts alone: asked again it is the same, and it says nothing of a time."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()
    return f"{prefix}_{_encode(int.from_bytes(digest, 'big'))}"


def is_id(text: str, prefix: str) -> bool:
    """Tell whether `text` has the form of an id with that prefix; says nothing about existence."""
    match = _SHAPE.match(text)
    return match is not None and match.group(1) == prefix


def _encode(value: int) -> str:
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
