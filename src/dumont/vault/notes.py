"""Notes: what was learnt by reading packs back, kept in the store so that later saves and checks build on it."""

from typing import NamedTuple

import msgpack

from dumont.vault.errors import RecordDamaged
from dumont.vault.packs import PACK_ID_BYTES

NOTE_FORMAT = 1


class Note(NamedTuple):
    """Packs whose every record opened, and packs in which something was missing or did not open."""

    read: frozenset[bytes] = frozenset()
    damaged: frozenset[bytes] = frozenset()


def dump_note(note: Note) -> bytes:
    """Return the content of a note, before sealing."""
    document = {"v": NOTE_FORMAT, "read": sorted(note.read), "damaged": sorted(note.damaged)}
    content: bytes = msgpack.packb(document)
    return content


def load_note(name: str, content: bytes) -> Note:
    """Read the content of a note.

    Errors: RecordDamaged for another format or impossible pack ids.
    """
    try:
        document = msgpack.unpackb(content)
        found = Note(frozenset(document["read"]), frozenset(document["damaged"]))
        right = document["v"] == NOTE_FORMAT
        right = right and all(isinstance(p, bytes) and len(p) == PACK_ID_BYTES for p in found.read | found.damaged)
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged(f"{name} does not have the form of a note.") from error
    if not right:
        raise RecordDamaged(f"{name} is a note of another format or names impossible packs.")
    return found
