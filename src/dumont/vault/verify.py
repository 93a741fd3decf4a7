"""Verification: prove from the store, not from memory, that every byte of a snapshot can be had again."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from typing import TYPE_CHECKING, NamedTuple

from dumont.vault.errors import (
    RecordDamaged,
    RecordUnknown,
    RepositoryDamaged,
    StoreMissing,
    VerificationFailed,
)
from dumont.vault.manifest import Kind, Manifest
from dumont.vault.memory import Rooms
from dumont.vault.packs import Location, pack_name
from dumont.vault.records import Sealer
from dumont.vault.weaving import Raw, whole

if TYPE_CHECKING:
    from dumont.vault.repository import Repository

SPAN_BYTES = 8 << 20
_GAP_BYTES = 256 << 10


class Verification(NamedTuple):
    """What was proven. Units: `bytes_checked` are stored bytes that were read, decrypted and hashed."""

    chunks_checked: int
    bytes_checked: int
    packs_checked: int
    files: int
    merkle_root: str


class _Findings:
    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.damaged: set[str] = set()
        self.read_packs: set[bytes] = set()
        self.bad_packs: set[bytes] = set()
        self.bad_chunks: set[bytes] = set()
        self.unknown: RecordUnknown | None = None

    def lost(self, pack: bytes) -> None:
        self.missing.add(pack_name(pack))
        self.bad_packs.add(pack)

    def broken(self, pack: bytes) -> None:
        self.damaged.add(pack_name(pack))
        self.bad_packs.add(pack)

    def judge(self) -> None:
        if self.missing or self.damaged:
            raise VerificationFailed(sorted(self.missing), sorted(self.damaged), self.bad_chunks)
        if self.unknown:
            raise self.unknown


def verify_snapshot(
    repository: "Repository", name: str, *, all_below: int, sample: int, quick: bool = False
) -> Verification:
    """Check config, manifest, index, packs and (unless `quick`) chunks of a snapshot; see `Repository.verify`."""
    findings = _Findings()
    manifest = _read_manifest(repository, name)
    places, missing = repository.locate(manifest.chunks())
    findings.missing.update(f"chunk {chunk.hex()}" for chunk in missing)
    findings.bad_chunks.update(missing)
    _check_lengths(manifest, places, findings)
    sound = _check_packs(repository, {place.pack for place in places.values()}, findings)
    present = {chunk: place for chunk, place in places.items() if place.pack in sound}
    _try_the_rest({chunk: place for chunk, place in places.items() if place.pack not in sound}, repository, findings)
    wholly = repository.index().unread(sound) | (sound & set(manifest.packs_new)) if not quick else set()
    chosen = _choose(present, wholly, all_below, sample) if not quick else {}
    for pack, part in by_pack(chosen).items():
        _check_pack(repository, pack, part, pack in wholly, findings)
    repository.note(findings.read_packs - findings.bad_packs, findings.bad_packs)
    findings.judge()
    root = manifest.merkle_root.hex()
    checked = sum(place.length for place in chosen.values())
    return Verification(len(chosen), checked, len(sound), manifest.files, root)


def touched_files(repository: "Repository", chunks: Set[bytes], names: Iterable[str]) -> dict[str, list[bytes]]:
    """Return which files of which snapshots need one of the chunks; a snapshot that cannot be read counts as a whole.

    Shapes: paths by the names of the snapshots; the empty path stands for everything.
    """
    found: dict[str, list[bytes]] = {}
    for name in names:
        try:
            entries = repository.manifest(name).entries
        except (RepositoryDamaged, StoreMissing):
            found[name] = [b""]
            continue
        if paths := [entry.path for entry in entries if not chunks.isdisjoint(entry.chunks)]:
            found[name] = paths
    return found


def read_back(repository: "Repository", packs: set[bytes], most_bytes: int) -> set[bytes]:
    """Read packs wholly, until about `most_bytes` were read, and note what was found.

    Returns those of which nothing can be said: not read for their size, or coded by a newer version.
    """
    findings = _Findings()
    left = most_bytes
    for pack in sorted(packs):
        if left <= 0:
            break
        left -= repository.index().packs[pack].size
        if _check_packs(repository, {pack}, findings):
            _check_pack(repository, pack, [], True, findings)
    repository.note(findings.read_packs - findings.bad_packs, findings.bad_packs)
    return packs - findings.read_packs - findings.bad_packs


def by_pack(places: dict[bytes, Location]) -> dict[bytes, list[tuple[bytes, Location]]]:
    """Group chunks by pack, in the order of their places."""
    groups: dict[bytes, list[tuple[bytes, Location]]] = defaultdict(list)
    for chunk, place in sorted(places.items(), key=lambda item: (item[1].pack, item[1].offset, item[1].start)):
        groups[place.pack].append((chunk, place))
    return groups


def spans(rows: Iterable[tuple[bytes, Location]]) -> Iterator[list[tuple[bytes, Location]]]:
    """Cut the rows of one pack into runs worth one read each. Units: at most about `SPAN_BYTES` a run."""
    run: list[tuple[bytes, Location]] = []
    for chunk, place in rows:
        if run:
            start, end = run[0][1].offset, run[-1][1].offset + run[-1][1].length
            if place.offset - end > _GAP_BYTES or place.offset + place.length - start > SPAN_BYTES:
                yield run
                run = []
        run.append((chunk, place))
    if run:
        yield run


def _read_manifest(repository: "Repository", name: str) -> Manifest:
    try:
        if damaged := repository.damaged_config():
            raise VerificationFailed([], damaged)
        manifest = repository.manifest(name)
        repository.index(fresh=True)
    except StoreMissing as error:
        raise VerificationFailed([error.detail], []) from error
    except RepositoryDamaged as error:
        raise VerificationFailed([], error.objects) from error
    return manifest


def _check_lengths(manifest: Manifest, places: dict[bytes, Location], findings: _Findings) -> None:
    for entry in manifest.entries:
        if entry.kind is not Kind.FILE:
            continue
        for chunk, length in zip(entry.chunks, entry.lengths, strict=True):
            place = places.get(chunk)
            if place is not None and place.raw_length != length:
                findings.damaged.add(f"chunk {chunk.hex()}")
                findings.bad_chunks.add(chunk)


def _check_packs(repository: "Repository", packs: set[bytes], findings: _Findings) -> set[bytes]:
    sound = set()
    tables = repository.index().packs
    for pack in sorted(packs):
        try:
            found = repository.pack_table(pack)
        except StoreMissing:
            findings.lost(pack)
        except RecordDamaged:
            findings.broken(pack)
        else:
            if found != tables[pack]:
                findings.broken(pack)
            sound.add(pack)
    return sound


def _check_pack(
    repository: "Repository", pack: bytes, wanted: list[tuple[bytes, Location]], wholly: bool, findings: _Findings
) -> None:
    """Read what is wanted of a pack, or all of it; damage to what is not wanted is noted but fails nothing.

    A pack with a record that only a newer version can decode counts neither as read nor, for that, as damaged.
    """
    rows = list(repository.index().packs[pack].rows) if wholly else wanted
    try:
        bad, unknown = _read_pack(repository, pack, rows)
    except StoreMissing:
        findings.lost(pack)
        findings.bad_chunks.update(chunk for chunk, _ in wanted)
        return
    if bad:
        findings.bad_packs.add(pack)
    findings.bad_chunks.update(bad.intersection(chunk for chunk, _ in wanted))
    if not bad.isdisjoint(chunk for chunk, _ in wanted):
        findings.broken(pack)
    for chunk, _ in wanted:
        findings.unknown = findings.unknown or unknown.get(chunk)
    if wholly and not unknown:
        findings.read_packs.add(pack)


def _try_the_rest(places: dict[bytes, Location], repository: "Repository", findings: _Findings) -> None:
    """Tell which chunks of packs that are gone, cut or without a table cannot be had; the index leads to the rest."""
    for pack, rows in by_pack(places).items():
        try:
            findings.bad_chunks.update(_read_pack(repository, pack, rows)[0])
        except StoreMissing:
            findings.bad_chunks.update(chunk for chunk, _ in rows)


def _choose(places: dict[bytes, Location], wholly: set[bytes], all_below: int, sample: int) -> dict[bytes, Location]:
    if sum(place.length for place in places.values()) < all_below:
        return places
    chosen = {chunk: place for chunk, place in places.items() if place.pack in wholly}
    import random

    rest = sorted(places.keys() - chosen.keys())
    drawn = random.SystemRandom().sample(rest, min(sample, len(rest)))
    return chosen | {chunk: places[chunk] for chunk in drawn}


def _read_pack(
    repository: "Repository", pack: bytes, rows: list[tuple[bytes, Location]]
) -> tuple[set[bytes], dict[bytes, RecordUnknown]]:
    """Read records of a pack; return the chunks whose records do not open, and those that newer versions can decode.

    Errors: StoreMissing; StoreError.
    """
    bad: set[bytes] = set()
    unknown: dict[bytes, RecordUnknown] = {}
    for run in spans(rows):
        start = run[0][1].offset
        length = run[-1][1].offset + run[-1][1].length - start
        view = memoryview(repository.store.get(pack_name(pack), start, length))
        reader = RecordReader(repository.sealer, view, start)
        for chunk, place in run:
            _try(reader, chunk, place, bad, unknown)
    return bad, unknown


class RecordReader:
    """Opens the chunks in a run of records of one pack; a group that several of them share is opened once.

    Without `hashed` ids are not computed again: for who does so from what was written. With `rooms` a chunk is good
    until the next one is opened.
    """

    def __init__(
        self, sealer: Sealer, view: memoryview, start: int, *, hashed: bool = True, rooms: Rooms | None = None
    ) -> None:
        self._hashed = hashed
        self._rooms = rooms
        self._sealer = sealer
        self._view = view
        self._start = start
        self._offset = -1
        self._raw: Raw = b""

    def open(self, chunk: bytes, place: Location) -> Raw:
        """Return a chunk, proven to be the one of that id.

        Errors: RecordDamaged if anything at all does not fit; RecordUnknown for a record of a newer version.
        """
        if self._offset != place.offset:
            at = place.offset - self._start
            record = self._view[at : at + place.length]
            self._raw = self._sealer.open(place.group or chunk, record, hashed=self._hashed, rooms=self._rooms)
            self._offset = place.offset
        if not place.group:
            return self._raw
        self._raw = whole(self._raw)  # once, not for each member
        member = memoryview(self._raw)[place.start : place.start + place.raw_length]
        if self._hashed and self._sealer.chunk_id(member) != chunk:
            raise RecordDamaged("A group holds other bytes than its table promises.")
        return member


def _try(
    reader: RecordReader, chunk: bytes, place: Location, bad: set[bytes], unknown: dict[bytes, RecordUnknown]
) -> None:
    try:
        if len(reader.open(chunk, place)) != place.raw_length:
            bad.add(chunk)
    except RecordDamaged:
        bad.add(chunk)
    except RecordUnknown as error:
        unknown[chunk] = error
