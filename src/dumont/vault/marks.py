"""Marks: what a collector means to delete, and from when on it may, kept in the store so that writers see them."""

import re
import secrets
from datetime import datetime, timezone
from typing import NamedTuple

import msgpack

from dumont.vault.errors import RecordDamaged
from dumont.vault.packs import PACK_ID_BYTES

MARK_FORMAT = 1
_OBJECT = re.compile(r"^(idx|note|snap|gc)/[A-Za-z0-9.-]+$")


class Mark(NamedTuple):
    """Packs and other objects that nothing needs; a writer stores again what only a marked pack holds.

    `gone`: they were deleted already, and lists may still show them; then `objects` names the mark that was carried
    out. `not_before` is a time of the database's clock: from then on they may be deleted, or both marks forgotten.
    """

    not_before: datetime
    packs: frozenset[bytes] = frozenset()
    objects: frozenset[str] = frozenset()
    gone: bool = False


def mark_name(mark: Mark) -> str:
    """Return a new object name for a mark; names sort by the time from which on it may be carried out."""
    return f"gc/{mark.not_before.astimezone(timezone.utc):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(16)}"


def dump_mark(mark: Mark) -> bytes:
    """Return the content of a mark, before sealing."""
    document = {
        "v": MARK_FORMAT,
        "not_before": mark.not_before.astimezone(timezone.utc).isoformat(),
        "packs": sorted(mark.packs),
        "objects": sorted(mark.objects),
        "gone": mark.gone,
    }
    content: bytes = msgpack.packb(document)
    return content


def load_mark(name: str, content: bytes) -> Mark:
    """Read the content of a mark.

    Errors: RecordDamaged for another format, impossible ids, or objects that no mark may name.
    """
    try:
        document = msgpack.unpackb(content)
        moment = datetime.fromisoformat(document["not_before"])
        found = Mark(moment, frozenset(document["packs"]), frozenset(document["objects"]), document["gone"])
        right = document["v"] == MARK_FORMAT and moment.tzinfo is not None and isinstance(found.gone, bool)
        right = right and all(isinstance(p, bytes) and len(p) == PACK_ID_BYTES for p in found.packs)
        right = right and all(_OBJECT.match(other) for other in found.objects)
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged(f"{name} does not have the form of a mark.") from error
    if not right:
        raise RecordDamaged(f"{name} is a mark of another format or names what no mark may name.")
    return found
