"""Collection: dead bytes go, after a grace period; what anybody needs stays, whoever writes or reads meanwhile."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tests.vault.books import Books, Writer, save, some_files
from tests.vault.making import draft, file_entry, store_newer
from tests.vault.s3_server import s3_server

from dumont.vault import (
    Collection,
    KeyRing,
    Limits,
    LocalStore,
    Repository,
    RepositoryDamaged,
    S3Place,
    S3Store,
    Store,
    collect,
    pack_name,
)
from dumont.vault.sealed import MARK_MAGIC, seal_object

LIMITS = Limits(grace=timedelta(hours=1), repack_below=0.6, least_waste=64)
KEYS = KeyRing(b"k" * 32)


@dataclass
class Kept:
    """A repository, its database, and how to collect in it."""

    store: Store
    books: Books

    @property
    def repository(self) -> Repository:
        """Open it anew, as every process does."""
        return Repository.open(self.store, "wsp_1", KEYS)

    def collect(self, *, dry_run: bool = False) -> Collection:
        return collect(self.repository, self.books, LIMITS, dry_run=dry_run)

    def collect_wholly(self) -> None:
        """Mark, and carry out, until there is nothing left to do."""
        for _ in range(6):
            self.collect()
            self.books.later(hours=2)

    def pack_bytes(self) -> int:
        return sum(size for _, size in self.store.list("data/"))

    def names(self, prefix: str) -> set[str]:
        return {name for name, _ in self.store.list(prefix)}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    store = LocalStore(tmp_path / "store")
    Repository.create(store, "wsp_1", KEYS)
    return Kept(store, Books())


@pytest.fixture
def draw() -> random.Random:
    return random.Random(5)


@pytest.mark.parametrize("grouped", [False, True])
def test_dead_bytes_go_and_shared_ones_stay(kept: Kept, draw: random.Random, grouped: bool) -> None:
    """What only a forgotten snapshot held leaves the folder after the grace period; the rest reads back."""
    old = some_files(draw, 6)
    first = save(kept.books, kept.repository, old, grouped=grouped)
    new = {**old, **some_files(draw, 3)}
    save(kept.books, kept.repository, new, grouped=grouped)
    (whole,) = [save(kept.books, kept.repository, some_files(draw, 9), grouped=grouped)]
    before = kept.pack_bytes()
    kept.books.forget(kept.repository, whole)
    kept.books.forget(kept.repository, first)
    packs = kept.names("data/")
    foreseen = kept.collect(dry_run=True)
    marked = kept.collect()
    assert (foreseen.packs_marked, foreseen.packs_repacked) == (marked.packs_marked, marked.packs_repacked)
    assert foreseen.bytes_marked == marked.bytes_marked > 0
    assert packs <= kept.names("data/"), "nothing goes before its time"
    kept.books.later(minutes=59)
    assert kept.collect().packs_deleted == 0
    kept.books.later(minutes=2)
    done = kept.collect()
    assert done.packs_deleted == marked.packs_marked and done.bytes_freed == marked.bytes_marked
    assert kept.pack_bytes() <= before - done.bytes_freed + 9 * 600
    kept.books.intact(kept.repository)
    kept.collect_wholly()
    kept.books.intact(kept.repository)
    assert kept.names("gc/") == set() and len(kept.names("idx/")) == 1
    assert kept.repository.index().packs.keys() == kept.repository.packs_in_store().keys()
    assert 6 * 400 < kept.pack_bytes() < 6 * 600


def test_nothing_is_left_when_all_is_forgotten(kept: Kept, draw: random.Random) -> None:
    """The last byte of every pack goes; config and keys stay, and the next save works."""
    for _ in range(3):
        save(kept.books, kept.repository, some_files(draw, 3))
    for name in list(kept.books.live):
        kept.books.forget(kept.repository, name)
    kept.collect_wholly()
    assert kept.names("data/") == kept.names("snap/") == kept.names("gc/") == set()
    save(kept.books, kept.repository, some_files(draw, 3))
    kept.books.intact(kept.repository)


def test_a_dry_run_changes_no_object(kept: Kept, draw: random.Random) -> None:
    kept.books.forget(kept.repository, save(kept.books, kept.repository, some_files(draw, 3)))
    before = list(kept.store.list(""))
    foreseen = kept.collect(dry_run=True)
    assert foreseen.bytes_marked == kept.pack_bytes() and foreseen.dry_run
    assert list(kept.store.list("")) == before


def test_a_writer_that_meets_a_marked_pack_stores_its_chunks_again(kept: Kept, draw: random.Random) -> None:
    """So what it commits stands, although the pack that held the same bytes is deleted."""
    files = some_files(draw, 3)
    kept.books.forget(kept.repository, save(kept.books, kept.repository, files))
    assert kept.collect().packs_marked == 1
    (marked,) = kept.names("data/")
    save(kept.books, kept.repository, files)
    assert len(kept.names("data/")) == 2
    kept.collect_wholly()
    assert len(kept.names("data/")) == 1 and marked not in kept.names("data/")
    kept.books.intact(kept.repository)


def test_a_writer_that_began_before_is_waited_for_and_what_it_uses_stays(kept: Kept, draw: random.Random) -> None:
    """It looked before the mark was made: the sweep waits for its end, and then spares what it committed."""
    files = some_files(draw, 3)
    old = save(kept.books, kept.repository, files)
    kept.collect()
    kept.books.forget(kept.repository, old)
    assert kept.collect().packs_marked == 1
    writer = Writer(kept.books, kept.repository)
    writer.known = set(kept.repository.index().chunks)
    kept.books.later(hours=3)
    waiting = kept.collect()
    assert (waiting.waiting, waiting.packs_deleted) == ([writer.name], 0) and waiting.bytes_pending > 0
    writer.commit(files, writer.store(files))
    done = kept.collect()
    assert (done.packs_deleted, done.waiting) == (0, [])
    kept.books.intact(kept.repository)
    kept.collect_wholly()
    kept.books.intact(kept.repository)


def test_what_a_running_save_has_stored_is_not_marked(kept: Kept, draw: random.Random) -> None:
    """Packs that no manifest names yet, in the index and outside of it: neither is touched while the save goes on."""
    writer = Writer(kept.books, kept.repository)
    writer.begin()
    one, two = some_files(draw, 2), {b"z": b"z" * 500}
    ids = writer.store(one) + writer.store(two, adopt=False)
    for _ in range(3):
        kept.books.later(hours=2)
        assert kept.collect().packs_marked == 0
    writer.repository.adopt_left_packs(writer.epoch)
    writer.commit({**one, **two}, ids)
    kept.books.intact(kept.repository)


def test_a_reader_keeps_what_it_was_told_to_read(kept: Kept, draw: random.Random) -> None:
    """A restore that was planned before a pack was packed anew reads it to its end."""
    files = some_files(draw, 6)
    old = save(kept.books, kept.repository, files)
    name = save(kept.books, kept.repository, {b"f000": files[b"f000"]})
    reader = kept.repository
    places, _ = reader.locate(reader.manifest(name).chunks())
    kept.books.forget(kept.repository, old)
    assert kept.collect().packs_repacked == 1
    kept.books.work["read one"] = kept.books.at
    kept.books.later(hours=3)
    assert kept.collect().waiting == ["read one"]
    ((chunk, place),) = places.items()
    assert reader.store.size(pack_name(place.pack)) is not None
    kept.books.work.clear()
    assert kept.collect().packs_deleted == 1 and reader.store.size(pack_name(place.pack)) is None
    fresh, _ = kept.repository.locate({chunk})
    assert fresh[chunk].pack != place.pack
    kept.books.intact(kept.repository)


def test_packs_that_nobody_took_in_go(kept: Kept, draw: random.Random) -> None:
    """A save that died left a whole pack and something that is no pack: one goes, the other is named and stays."""
    writer = Writer(kept.books, kept.repository)
    writer.store(some_files(draw, 2), adopt=False)
    writer.end()
    kept.store.put("data/ab/" + "ab" * 16, b"no pack at all")
    done = kept.collect()
    assert done.packs_marked == 1 and done.unreadable == ["data/ab/" + "ab" * 16]
    kept.books.later(hours=2)
    assert kept.collect().packs_deleted == 1
    assert kept.names("data/") == {"data/ab/" + "ab" * 16}


def test_manifests_of_saves_that_ended_without_them_go_and_unknown_ones_stay(kept: Kept, draw: random.Random) -> None:
    """One was written by a save that failed afterwards; the other by a database that was lost since."""
    lost = save(kept.books, kept.repository, some_files(draw, 2))
    del kept.books.ended[1]
    failed = save(kept.books, kept.repository, some_files(draw, 2))
    contents = kept.books.live.pop(lost)
    del kept.books.live[failed]
    assert kept.collect().unknown == [lost]
    kept.books.later(hours=2)
    kept.collect()
    assert kept.names("snap/") == {f"snap/{lost}"}
    kept.collect_wholly()
    kept.books.live[lost] = contents
    kept.books.intact(kept.repository)
    assert len(kept.names("data/")) == 1


@pytest.mark.parametrize("kind", ["snap/", "idx/"])
def test_what_cannot_be_read_stops_a_collection(kept: Kept, draw: random.Random, kind: str) -> None:
    """A flipped bit in a manifest or in the index: nobody knows what is needed, so nothing is marked or deleted."""
    kept.books.forget(kept.repository, save(kept.books, kept.repository, some_files(draw, 2)))
    save(kept.books, kept.repository, some_files(draw, 2))
    kept.collect()
    kept.books.later(hours=2)
    name = sorted(kept.names(kind))[0]
    path = kept.store.root / name  # type: ignore[attr-defined]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    before = kept.names("")
    with pytest.raises(RepositoryDamaged):
        kept.collect()
    assert kept.names("") == before


def test_a_missing_manifest_that_the_database_names_stops_a_collection(kept: Kept, draw: random.Random) -> None:
    name = save(kept.books, kept.repository, some_files(draw, 2))
    kept.store.delete(f"snap/{name}")
    with pytest.raises(RepositoryDamaged, match="is gone"):
        kept.collect()
    assert len(kept.names("data/")) == 1


def test_a_damaged_mark_makes_writers_store_everything_and_goes(kept: Kept, draw: random.Random) -> None:
    """Nobody knows which packs it names, so none is used again until a collector took it away."""
    files = some_files(draw, 2)
    save(kept.books, kept.repository, files)
    kept.store.put("gc/20260101T000000.000000Z-" + "0" * 32, b"?" * 100)
    assert kept.repository.reusable_chunks() == set()
    bad = seal_object(kept.repository.keys, "wsp_1", "gc/x", MARK_MAGIC, b"\x80")
    kept.store.put("gc/x", bad)
    kept.collect()
    assert kept.names("gc/") == set() and len(kept.repository.reusable_chunks()) == 2


def test_a_damaged_stand_in_never_lets_the_last_sound_copy_go(kept: Kept, draw: random.Random) -> None:
    """The pack that was to replace a marked one rotted meanwhile: it is read back before, and the old one stays."""
    files = some_files(draw, 6)
    old = save(kept.books, kept.repository, files)
    save(kept.books, kept.repository, {b"f000": files[b"f000"]})
    (first,) = kept.names("data/")
    kept.books.forget(kept.repository, old)
    kept.collect()
    (second,) = kept.names("data/") - {first}
    path = kept.store.root / second  # type: ignore[attr-defined]
    path.write_bytes(path.read_bytes()[:20] + b"\x00\x00" + path.read_bytes()[22:])
    for note in kept.names("note/"):
        kept.store.delete(note)
    kept.books.later(hours=2)
    assert kept.collect().packs_deleted == 0
    kept.books.intact(kept.repository)


def test_a_stand_in_of_a_newer_version_never_lets_the_last_readable_copy_go(kept: Kept) -> None:
    """Only a newer version can say whether it is sound: the marked pack stays, and no damage is noted."""
    raw = b"weights " * 50
    kept.books.forget(kept.repository, save(kept.books, kept.repository, {b"f": raw}))
    assert kept.collect().packs_marked == 1
    repository = kept.repository
    ids = store_newer(repository, b"n" * 16, raw)
    kept.books.live[repository.commit(draft([file_entry(b"f", len(raw), ids)])).name] = {b"f": raw}
    kept.books.later(hours=2)
    assert kept.collect().packs_deleted == 0
    assert kept.repository.index().damaged == set()


def test_the_index_and_the_notes_are_written_anew_when_they_are_many(kept: Kept, draw: random.Random) -> None:
    """Forty saves leave forty segments and notes; after a collection few of each say the same."""
    for number in range(40):
        save(kept.books, kept.repository, {b"f": b"%d" % number * 50})
    kept.books.intact(kept.repository)
    packs = kept.repository.index().packs
    assert len(kept.names("idx/")) == 40 and len(kept.names("note/")) > 32
    kept.collect_wholly()
    assert len(kept.names("idx/")) == 1 and len(kept.names("note/")) == 1
    assert kept.repository.index().packs == packs and kept.repository.index().unread(packs) == set()
    kept.books.intact(kept.repository)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.mark.checklist("SNAP-06")
def test_a_bucket_is_collected_too(place: S3Place, draw: random.Random) -> None:
    """Mark, sweep, packing anew and the index's merging over the S3 protocol."""
    store = S3Store(place)
    Repository.create(store, "wsp_1", KEYS)
    kept = Kept(store, Books())
    files = some_files(draw, 6)
    old = save(kept.books, kept.repository, files)
    save(kept.books, kept.repository, {b"f000": files[b"f000"]})
    before = kept.pack_bytes()
    kept.books.forget(kept.repository, old)
    kept.collect_wholly()
    assert kept.pack_bytes() < before / 2 and kept.names("gc/") == set()
    kept.books.intact(kept.repository)
