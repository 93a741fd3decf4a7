"""The index of a repository: which chunk lies where, gathered from its segments."""

import re
from collections.abc import Iterable, Sequence, Set

import msgpack

from dumont.vault.errors import RecordDamaged
from dumont.vault.marks import Mark
from dumont.vault.notes import Note
from dumont.vault.packs import PACK_ID_BYTES, Location, PackTable, place_rows, table_bytes

SEGMENT_FORMAT = 1
_NAME = re.compile(r"^idx/(\d{10})-[0-9a-f]{32}$")


class Index:
    """Chunks and packs that are known. Of several packs that hold a chunk, the first of the best ones counts: sound and
    not marked, else sound, else damaged, and last what was deleted.

    `segments` and `notes` say which packs each of them names; `blind` that a mark could not be read.
    """

    def __init__(self) -> None:
        self.chunks: dict[bytes, Location] = {}
        self.packs: dict[bytes, PackTable] = {}
        self.segments: dict[str, frozenset[bytes]] = {}
        self.notes: dict[str, Note] = {}
        self.marks: dict[str, Mark | None] = {}
        self.read: set[bytes] = set()
        self.damaged: set[bytes] = set()
        self.marked: set[bytes] = set()
        self.gone: set[bytes] = set()

    @property
    def blind(self) -> bool:
        """Whether a mark could not be read: then nobody knows which packs are about to be deleted."""
        return None in self.marks.values()

    def add(self, segment: str, tables: Sequence[PackTable]) -> None:
        """Take in the packs of a segment."""
        self.segments[segment] = frozenset(table.pack for table in tables)
        for table in tables:
            self.packs[table.pack] = table
            self._place(table, self.chunks)

    def learn(self, name: str, note: Note) -> None:
        """Take in a note; chunks of packs that it calls damaged move to other packs where there are any."""
        self.notes[name] = note
        self.read |= note.read
        changed = note.damaged - self.damaged
        self.damaged |= changed
        self._move(changed)

    def heed(self, name: str, mark: Mark | None) -> None:
        """Take in a mark (None: it cannot be read); chunks of its packs move to others where there are any."""
        self.marks[name] = mark
        if mark is not None:
            changed = mark.packs - (self.gone if mark.gone else self.marked)
            self.marked |= mark.packs
            self.gone |= mark.packs if mark.gone else frozenset()
            self._move(changed)

    def unread(self, packs: Iterable[bytes]) -> set[bytes]:
        """Return those packs of which no note says that they are whole."""
        return {pack for pack in packs if pack not in self.read or pack in self.damaged}

    def _move(self, changed: Set[bytes]) -> None:
        if changed.isdisjoint(self.packs):
            return
        self.chunks = {}
        for table in self.packs.values():
            self._place(table, self.chunks)

    def _place(self, table: PackTable, chunks: dict[bytes, Location]) -> None:
        rows = dict(table.rows)
        if len(rows) == len(table.rows) and chunks.keys().isdisjoint(rows):
            chunks.update(rows)
            return
        rank = self._rank(table.pack)
        for chunk, place in table.rows:
            held = chunks.setdefault(chunk, place)
            if held is not place and rank < self._rank(held.pack):
                chunks[chunk] = place

    def _rank(self, pack: bytes) -> int:
        return 4 * (pack in self.gone) + 2 * (pack in self.damaged) + (pack in self.marked)


def segment_name(epoch: int, unique: str) -> str:
    """Return the object name of an index segment; the epoch in it is what fences an old writer."""
    return f"idx/{epoch:010d}-{unique}"


def segment_epoch(name: str) -> int:
    """Return the epoch in a segment's name.

    Errors: RecordDamaged for a name of another form.
    """
    match = _NAME.match(name)
    if match is None:
        raise RecordDamaged(f"{name} is not the name of an index segment.")
    return int(match.group(1))


def dump_segment(epoch: int, tables: Sequence[PackTable]) -> bytes:
    """Return the content of a segment, before sealing."""
    packs = [(table.pack, table.size, table_bytes(table)) for table in tables]
    content: bytes = msgpack.packb({"v": SEGMENT_FORMAT, "epoch": epoch, "packs": packs})
    return content


def load_segment(name: str, content: bytes) -> list[PackTable]:
    """Read the content of a segment.

    Errors: RecordDamaged for another format, another epoch than its name says, or impossible rows.
    """
    try:
        document = msgpack.unpackb(content)
        if document["v"] != SEGMENT_FORMAT or document["epoch"] != segment_epoch(name):
            raise RecordDamaged(f"{name} is of another format or epoch.")
        found = [PackTable(pack, size, tuple(place_rows(pack, rows))) for pack, size, rows in document["packs"]]
        if any(len(table.pack) != PACK_ID_BYTES for table in found):
            raise RecordDamaged(f"{name} names a pack of an impossible id.")
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged(f"{name} does not have the form of an index segment.") from error
    return found
