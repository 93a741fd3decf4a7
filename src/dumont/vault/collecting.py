"""Collection: free what no snapshot needs, beside writers and readers, in two steps with a grace period between them.

First what nothing needs is named in a mark, with the time from which on it may go. From then on writers store again
what only a marked pack holds, and readers prefer other packs. When that time has come, and every writer has ended who
began before it and so may not have seen the mark, and nobody reads, all snapshots are looked through once more; only
what still nobody needs is deleted. Being absent from a list is never a reason to delete: what a list does not show
costs space, no data.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from dumont.vault.errors import RecordDamaged, RepositoryDamaged, StoreMissing
from dumont.vault.manifest import Manifest
from dumont.vault.marks import Mark
from dumont.vault.notes import Note
from dumont.vault.packs import PackTable, pack_name
from dumont.vault.repack import live_bytes, repack
from dumont.vault.repository import Repository
from dumont.vault.verify import read_back

MOST_SEGMENTS = 16
MOST_NOTES = 32
ROWS_IN_SEGMENT = 1 << 19
_ALL = 1 << 62


@dataclass(frozen=True)
class Named:
    """What the database says of a workspace's snapshots, by the names of their manifests.

    `live` must be readable; `forgotten` need nothing any more. `ended` gives the epochs of saves that have ended, with
    the time at which each began: another manifest of such a save belongs to nobody.
    """

    live: frozenset[str]
    forgotten: frozenset[str] = frozenset()
    ended: Mapping[int, datetime] = field(default_factory=dict)


class Authority(Protocol):
    """The database, as a collector needs it; its clock is the one that counts. Methods block."""

    def now(self) -> datetime:
        """Return the time."""

    def open_work(self, before: datetime) -> list[str]:
        """Return who reads now, and who began to write before that time and has not ended.

        Who is overdue is fenced off: nothing that he does counts any more.
        """

    def named(self) -> Named:
        """Return which snapshots there are."""


@dataclass(frozen=True)
class Limits:
    """When what is done. `grace` must be longer than lists of the store can be old; the rest only saves work.

    A pack is packed anew when less than `repack_below` of it is needed and that frees `least_waste` bytes.
    """

    grace: timedelta = timedelta(days=1)
    repack_below: float = 0.5
    least_waste: int = 1 << 20


@dataclass
class Collection:
    """What a collection did, or in a dry run would do. Units: bytes as they lie in the store.

    `waiting` names who must end before what is marked can go; `unknown` manifests that no row names, which are kept;
    `unreadable` packs outside of the index that do not open, which are kept too.
    """

    dry_run: bool = False
    packs_marked: int = 0
    bytes_marked: int = 0
    packs_deleted: int = 0
    bytes_freed: int = 0
    packs_repacked: int = 0
    bytes_pending: int = 0
    objects_deleted: int = 0
    waiting: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass
class _Living:
    chunks: set[bytes] = field(default_factory=set)
    abandoned: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)


def collect(repository: Repository, authority: Authority, limits: Limits, *, dry_run: bool = False) -> Collection:
    """Delete what was marked long enough ago, and mark what nothing needs now.

    Guarantees: may be killed at any point and begun again; never deletes what a committed snapshot, or a writer or
    reader that is under way, needs. A dry run marks and deletes nothing.
    Errors: RepositoryDamaged when a snapshot or an index segment cannot be read: then nothing is deleted; StoreError.
    """
    collector = _Collector(repository, authority, limits, Collection(dry_run))
    collector.carry_out()
    collector.mark()
    return collector.done


class _Collector:
    def __init__(self, repository: Repository, authority: Authority, limits: Limits, done: Collection) -> None:
        self.done = done
        self._repository = repository
        self._authority = authority
        self._limits = limits
        self._living = _Living()
        self._index = repository.index(fresh=True)
        self._here = repository.packs_in_store()

    def carry_out(self) -> None:
        """Carry out the marks whose time has come. One that was carried out stays as long as lists may be old."""
        marks = sorted(self._index.marks.items())
        carried_out = {other for _, mark in marks if mark and mark.gone for other in mark.objects}
        for name, mark in marks:
            if mark is None:
                self._delete(name)
            elif mark.not_before > self._authority.now():
                self.done.bytes_pending += 0 if mark.gone else self._size(mark.packs)
            elif mark.gone:
                self._forget(name, mark)
            elif name in carried_out:
                continue
            elif waiting := self._authority.open_work(mark.not_before):
                self.done.waiting = sorted({*self.done.waiting, *waiting})
                self.done.bytes_pending += self._size(mark.packs)
            else:
                self._sweep(name, mark)

    def mark(self) -> None:
        """Mark what nothing needs, and what was copied elsewhere; not while somebody writes, who may need it again."""
        self._index = self._repository.index(fresh=True)
        self._here = self._repository.packs_in_store()
        waiting = self._authority.open_work(self._authority.now())
        self.done.waiting = sorted({*self.done.waiting, *waiting})
        self._look()
        dead: set[bytes] = set()
        if not waiting or self.done.dry_run:
            dead = self._dead()
            dead |= self._repacked(dead)
        objects = {f"snap/{name}" for name in self._living.abandoned} | self._merged_segments() | self._merged_notes()
        objects -= self._marked_objects()
        self.done.packs_marked = len(dead)
        self.done.bytes_marked = self._size(dead)
        if (dead or objects) and not self.done.dry_run:
            self._write(frozenset(dead), frozenset(objects))

    def _write(self, packs: frozenset[bytes], objects: frozenset[str], *, gone: bool = False) -> None:
        """Write a mark that all who begin after its time can see, however slow the store was."""
        while True:
            began = self._authority.now()
            name = self._repository.mark(Mark(began + self._limits.grace, packs, objects, gone))
            if self._authority.now() - began <= self._limits.grace / 2:
                return
            self._repository.store.delete(name)

    def _sweep(self, name: str, mark: Mark) -> None:
        self._look()
        gone = mark.packs - self._needed(mark.packs)
        for pack in sorted(gone):
            self._delete(pack_name(pack))
        self.done.bytes_freed += self._size(gone)
        self.done.packs_deleted += len(gone)
        for other in sorted(mark.objects):
            if self._superfluous(other, gone):
                self.done.objects_deleted += 1
                self._delete(other)
        if self.done.dry_run:
            return
        if gone:
            self._write(gone, frozenset({name}), gone=True)
        else:
            self._delete(name)

    def _forget(self, name: str, mark: Mark) -> None:
        """Take the marks of what is gone away, once no segment leads there any more."""
        if all(mark.packs.isdisjoint(packs) for packs in self._index.segments.values()):
            for other in (*sorted(mark.objects), name):
                self._delete(other)

    def _look(self) -> None:
        """Read the manifests that were not read yet. Whoever was under way must have ended before.

        Errors: RepositoryDamaged when one cannot be read.
        """
        named, living = self._authority.named(), self._living
        listed = set(self._repository.snapshots())
        unknown = listed - named.live - named.forgotten
        self.done.unknown = sorted(unknown - living.abandoned)
        for name in sorted((named.live | unknown) - living.read):
            try:
                manifest = self._repository.manifest(name)
            except StoreMissing as error:
                if name in named.live:
                    raise RepositoryDamaged(f"The manifest of snapshot {name} is gone.", [f"snap/{name}"]) from error
                continue
            living.read.add(name)
            if name in unknown and _abandoned(manifest, named):
                living.abandoned.add(name)
                self.done.unknown.remove(name)
                continue
            living.chunks |= manifest.chunks()

    def _dead(self) -> set[bytes]:
        homes = self._homes()
        unmarked = self._here.keys() - self._index.marked
        dead = {pack for pack in unmarked if pack in self._index.packs and pack not in homes}
        for pack in sorted(unmarked - self._index.packs.keys()):
            try:
                if not self._serves(self._repository.pack_table(pack)):
                    dead.add(pack)
            except RecordDamaged:
                self.done.unreadable.append(pack_name(pack))
            except StoreMissing:
                continue
        return dead

    def _needed(self, doomed: frozenset[bytes]) -> set[bytes]:
        """Return those of the packs that must stay; packs that are to stand in for others are read back first."""
        index, repository = self._index, self._repository
        held = {pack: self._wanted(pack) for pack in doomed & index.packs.keys()}
        known: set[bytes] | None = None
        unsure: set[bytes] = set()
        while known != index.damaged:
            known = set(index.damaged)
            twins = {index.chunks[chunk].pack for chunks in held.values() for chunk in chunks} - doomed
            absent = {pack for pack in twins if repository.store.size(pack_name(pack)) != index.packs[pack].size}
            repository.note(set(), absent)
            unsure = read_back(repository, index.unread(twins - absent - index.damaged), _ALL)
        poor = doomed | index.damaged | unsure
        stay = {pack for pack, chunks in held.items() if any(index.chunks[chunk].pack in poor for chunk in chunks)}
        return stay | {pack for pack in doomed - index.packs.keys() if self._may_serve(pack)}

    def _wanted(self, pack: bytes) -> set[bytes]:
        return {chunk for chunk, _ in self._index.packs[pack].rows if chunk in self._living.chunks}

    def _homes(self) -> set[bytes]:
        places = self._index.chunks
        return {places[chunk].pack for chunk in self._living.chunks if chunk in places}

    def _may_serve(self, pack: bytes) -> bool:
        try:
            return self._serves(self._repository.pack_table(pack))
        except RecordDamaged:
            return True
        except StoreMissing:
            return False

    def _serves(self, table: PackTable) -> bool:
        """Tell whether a pack outside of the index holds something that no sound pack of the index does."""
        index = self._index
        wanted = (chunk for chunk, _ in table.rows if chunk in self._living.chunks)
        return any(chunk not in index.chunks or index.chunks[chunk].pack in index.damaged for chunk in wanted)

    def _repacked(self, dead: set[bytes]) -> set[bytes]:
        """Copy what is needed out of packs that are mostly dead, and return those packs."""
        index, chosen = self._index, {}
        for pack in (self._here.keys() & index.packs.keys()) - dead - index.marked - index.damaged:
            table = index.packs[pack]
            wanted = {chunk for chunk in self._wanted(pack) if index.chunks[chunk].pack == pack}
            kept, whole = live_bytes(table, wanted), live_bytes(table, None)
            if kept < self._limits.repack_below * whole and whole - kept >= self._limits.least_waste:
                chosen[pack] = wanted
        done = set(chosen) if self.done.dry_run else repack(self._repository, chosen)
        self.done.packs_repacked = len(done)
        return done

    def _merged_segments(self) -> set[str]:
        """Write the index anew where it is in many pieces or names packs that are gone; return what that replaces."""
        index, marked = self._index, self._marked_objects()
        gone = {pack for mark in index.marks.values() if mark and mark.gone for pack in mark.packs}
        pieces = {name: packs for name, packs in index.segments.items() if name not in marked}
        if len(pieces) <= MOST_SEGMENTS and all(packs.isdisjoint(gone) for packs in pieces.values()):
            return set()
        if not self.done.dry_run:
            self._write_segments(sorted(frozenset().union(*pieces.values()) - gone))
        return set(pieces)

    def _write_segments(self, packs: list[bytes]) -> None:
        epoch = self._repository.newest_epoch()
        tables: list[PackTable] = []
        rows = 0
        for pack in packs:
            tables.append(self._index.packs[pack])
            rows += len(tables[-1].rows)
            if rows >= ROWS_IN_SEGMENT or pack == packs[-1]:
                self._repository.write_segment(epoch, tables)
                tables, rows = [], 0

    def _merged_notes(self) -> set[str]:
        index = self._index
        pieces = index.notes.keys() - self._marked_objects()
        if len(pieces) <= MOST_NOTES:
            return set()
        if not self.done.dry_run:
            known = index.packs.keys()
            self._repository.write_note(Note(frozenset(index.read & known), frozenset(index.damaged & known)))
        return set(pieces)

    def _marked_objects(self) -> set[str]:
        return {other for mark in self._index.marks.values() if mark and not mark.gone for other in mark.objects}

    def _superfluous(self, other: str, gone: frozenset[bytes]) -> bool:
        """Tell whether an object that was marked can go: others say what it says, or nobody asks."""
        if other.startswith("note/"):
            return True
        if other.startswith("snap/"):
            return other.removeprefix("snap/") in self._living.abandoned
        marked = self._marked_objects()
        told = frozenset().union(*(packs for name, packs in self._index.segments.items() if name not in marked))
        gone = gone.union(*(mark.packs for mark in self._index.marks.values() if mark and mark.gone))
        return self._index.segments.get(other, frozenset()) <= told | gone

    def _size(self, packs: Set[bytes]) -> int:
        return sum(self._here.get(pack, 0) for pack in packs)

    def _delete(self, name: str) -> None:
        if not self.done.dry_run:
            self._repository.store.delete(name)


def _abandoned(manifest: Manifest, named: Named) -> bool:
    """Tell whether a manifest that no row names was left by a save that has ended, rather than by a lost database."""
    began = named.ended.get(manifest.epoch)
    return began is not None and datetime.fromisoformat(manifest.created) >= began
