"""Copy what is still needed out of packs that are mostly dead into new ones."""

import secrets
from collections.abc import Mapping, Set

from dumont.vault.errors import RecordDamaged, RecordUnknown, StoreMissing
from dumont.vault.packs import PACK_ID_BYTES, Location, PackBuilder, PackTable, pack_name
from dumont.vault.records import Record
from dumont.vault.repository import Repository
from dumont.vault.verify import RecordReader, read_back
from dumont.vault.weaving import whole

_ALL = 1 << 62
Row = tuple[bytes, Location]


def live_bytes(table: PackTable, wanted: Set[bytes] | None) -> int:
    """Return about how many bytes of a pack's records hold the chunks that are wanted, None for all of them.

    A group's record counts by the share of those of its members that are wanted.
    """
    if wanted is None:
        return sum(place.length for _, place in table.rows if not place.group)
    total = raw_length = 0
    for chunk, place in table.rows:
        raw_length = raw_length if place.group else place.raw_length
        if chunk in wanted:
            total += place.length * place.raw_length // max(1, raw_length)
    return total


def repack(repository: Repository, packs: Mapping[bytes, set[bytes]]) -> set[bytes]:
    """Store the chunks that are wanted of each pack in new packs; return the packs that may now be marked.

    Guarantees: every chunk is opened and hashed on the way, and the new packs are in the index and were read back. A
    pack in which something does not open, or only to a newer version, is left as it is.
    Errors: StoreError.
    """
    writer = _Writer(repository)
    done = set()
    for pack, wanted in sorted(packs.items()):
        try:
            _copy(repository, pack, wanted, writer)
        except (RecordDamaged, RecordUnknown, StoreMissing):
            continue
        done.add(pack)
    made = writer.finish()
    repository.adopt_packs(made, repository.newest_epoch())
    read_back(repository, set(made), _ALL)
    return done if repository.index().damaged.isdisjoint(made) else set()


class _Writer:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._made: list[bytes] = []
        self._builder: PackBuilder | None = None

    def add(self, record: Record, members: list[tuple[bytes, int]]) -> None:
        if self._builder is None:
            self._builder = PackBuilder(self._repository.data_keys, self._repository.repository_id)
        self._builder.add(record, members)
        if self._builder.full:
            self._store()

    def finish(self) -> list[bytes]:
        self._store()
        return self._made

    def _store(self) -> None:
        if self._builder is not None:
            pack = secrets.token_bytes(PACK_ID_BYTES)
            self._repository.store.put(pack_name(pack), bytes(self._builder.finish(pack)))
            self._made.append(pack)
            self._builder = None


def _copy(repository: Repository, pack: bytes, wanted: set[bytes], writer: _Writer) -> None:
    records: list[tuple[bytes, Location, list[Row]]] = []
    for chunk, place in repository.index().packs[pack].rows:
        if place.group:
            records[-1][2].append((chunk, place))
        else:
            records.append((chunk, place, []))
    for chunk, place, members in records:
        kept = [row for row in members if row[0] in wanted]
        if chunk not in wanted and not kept:
            continue
        data = repository.store.get(pack_name(pack), place.offset, place.length)
        reader = RecordReader(repository.sealer, memoryview(data), place.offset)
        reader.open(chunk, place)
        if chunk in wanted or len(kept) == len(members):
            record = Record(chunk, place.codec, place.raw_length, data)
            writer.add(record, [(member, at.raw_length) for member, at in members])
            continue
        parts = [bytes(whole(reader.open(member, at))) for member, at in kept]
        _add_group(repository, [member for member, _ in kept], parts, writer)


def _add_group(repository: Repository, members: list[bytes], parts: list[bytes], writer: _Writer) -> None:
    if len(members) == 1:
        writer.add(repository.sealer.seal(members[0], parts[0]), [])
        return
    raw = b"".join(parts)
    record = repository.sealer.seal(repository.sealer.chunk_id(raw), raw)
    writer.add(record, [(member, len(part)) for member, part in zip(members, parts, strict=True)])
