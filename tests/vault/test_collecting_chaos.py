"""Collection under fire: killed anywhere, the store dying anywhere, writers and readers in between, lists that are old.

After each of these every snapshot that there is reads back wholly, and nothing dead stays for good.
"""

import os
import random
import secrets
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from tests.vault.books import Books, Writer, read_chunk, save, some_files

from dumont.vault import (
    KeyRing,
    Limits,
    LocalStore,
    Repository,
    StaleEpoch,
    Store,
    StoreError,
    StoreExists,
    StoreMissing,
    VerificationFailed,
    collect,
    collecting,
    pack_name,
)

KEYS = KeyRing(b"k" * 32)
LIMITS = Limits(grace=timedelta(hours=1), least_waste=64)


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that was written; only a power cut would, and that is not tried here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def names_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of objects decide the order of every list: with drawn ones a seed is the same life each time."""
    draw = random.Random(20261122)
    monkeypatch.setattr(secrets, "token_bytes", draw.randbytes)
    monkeypatch.setattr(secrets, "token_hex", lambda count: draw.randbytes(count).hex())


class Watched:
    """A store that calls `at` before and after every change; what that does, happens there."""

    def __init__(self, store: Store, at: Callable[[str], None]) -> None:
        self._store, self._at = store, at
        self.get, self.size, self.list = store.get, store.size, store.list

    def put(self, name: str, data: bytes) -> None:
        self._at(name)
        self._store.put(name, data)
        self._at(name)

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        self.put(name, b"".join(pieces))

    def delete(self, name: str) -> None:
        self._at(name)
        self._store.delete(name)
        self._at(name)


def prepare(root: Path, seed: int) -> Books:
    """Make a repository with dead packs, mostly dead ones, orphans, many segments and a mark that is due."""
    draw = random.Random(seed)
    store = LocalStore(root)
    repository = Repository.create(store, "wsp_1", KEYS)
    books = Books()
    files = some_files(draw, 8, 300)
    names = [save(books, repository, files, grouped=bool(seed % 2))]
    for number in range(draw.randint(3, 9)):
        files = {**files, **some_files(draw, draw.randint(1, 3), 250), b"n": b"%d" % number}
        names.append(save(books, repository, files, grouped=draw.random() < 0.5))
    for name in draw.sample(names, len(names) // 2):
        books.forget(repository, name)
    collect(repository, books, LIMITS)
    books.later(hours=2)
    for name in draw.sample(sorted(books.live), len(books.live) // 2):
        books.forget(repository, name)
    left = Writer(books, repository)
    left.store(some_files(draw, 2, 300), adopt=False)
    left.end()
    return books


def collect_wholly(store: Store, books: Books) -> None:
    for _ in range(6):
        collect(Repository.open(store, "wsp_1", KEYS), books, LIMITS)
        books.later(hours=2)


def expect_whole_and_clean(root: Path, books: Books, draw: random.Random) -> None:
    """See that all reads back, that work goes on, and that in the end nothing dead is left."""
    store = LocalStore(root)
    books.intact(Repository.open(store, "wsp_1", KEYS))
    save(books, Repository.open(store, "wsp_1", KEYS), some_files(draw, 2, 300))
    books.later(hours=20)
    collect_wholly(store, books)
    repository = Repository.open(store, "wsp_1", KEYS)
    books.intact(repository)
    living = {chunk for name in books.live for chunk in repository.manifest(name).chunks()}
    used = {repository.index().chunks[chunk].pack for chunk in living}
    assert repository.packs_in_store().keys() == used and not list(store.list("gc/"))


def count_changes(root: Path, books: Books) -> int:
    seen: list[str] = []
    collect_wholly(Watched(LocalStore(root), seen.append), books)
    return len(seen)


def die_at(root: Path, books: Books, point: int) -> None:
    """Collect in a process of its own, which is killed at the given change."""
    child = os.fork()
    if child == 0:
        left = [point]

        def at(_: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        with suppress(BaseException):
            collect_wholly(Watched(LocalStore(root), at), books)
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def kill_everywhere(folder: Path, seeds: Iterable[int], points: int) -> None:
    """Kill the collector of each seed's repository at that many points."""
    for seed in seeds:
        draw = random.Random(seed)
        made = folder / f"made{seed}"
        books = prepare(made, seed)
        shutil.copytree(made, folder / f"whole{seed}")
        changes = count_changes(folder / f"whole{seed}", copied(books))
        assert changes >= points
        for point in draw.sample(range(changes), points):
            root = folder / f"killed{seed}-{point}"
            shutil.copytree(made, root)
            die_at(root, copied(books), point)
            expect_whole_and_clean(root, copied(books), draw)
            shutil.rmtree(root)


def copied(books: Books) -> Books:
    """Return the same books, to be changed apart from the first."""
    same = {name: dict(files) for name, files in books.live.items()}
    return Books(books.at, dict(books.work), same, set(books.forgotten), dict(books.ended), books.epoch)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_at_many_points_nothing_is_lost_and_nothing_stays(tmp_path: Path) -> None:
    """kill -9 before and after puts and deletions, sixty of them over four repositories."""
    kill_everywhere(tmp_path, range(4), 15)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_at_very_many_points_nothing_is_lost_and_nothing_stays(tmp_path: Path) -> None:
    kill_everywhere(tmp_path, range(100, 120), 20)


def test_a_store_that_dies_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """From some change on every request fails; when the store is back, the next collection goes on."""
    made = tmp_path / "made"
    books = prepare(made, 3)
    shutil.copytree(made, tmp_path / "whole")
    changes = count_changes(tmp_path / "whole", copied(books))
    for point in range(0, changes, 3):
        root = tmp_path / f"failed{point}"
        shutil.copytree(made, root)
        left = [point]

        def at(_: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise StoreError("The store is gone.")

        with suppress(StoreError):
            collect_wholly(Watched(LocalStore(root), at), copied(books))
        expect_whole_and_clean(root, copied(books), random.Random(point))
        shutil.rmtree(root)


class OldLists:
    """Objects in memory. What was put or deleted within `lag` may or may not show in a list; reading is never old."""

    def __init__(self, books: Books, draw: random.Random, lag: timedelta) -> None:
        self.objects: dict[str, bytes] = {}
        self._put: dict[str, tuple[int, object]] = {}
        self._deleted: dict[str, object] = {}
        self._books, self._draw, self._lag = books, draw, lag

    def put(self, name: str, data: bytes) -> None:
        if name in self.objects:
            raise StoreExists(name)
        self.objects[name] = bytes(data)
        self._put[name] = (len(data), self._books.at)

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        self.put(name, b"".join(pieces))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name not in self.objects:
            raise StoreMissing(name)
        return self.objects[name][offset : None if length is None else offset + length]

    def size(self, name: str) -> int | None:
        return len(self.objects[name]) if name in self.objects else None

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            self._deleted[name] = self._books.at

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield from [(n, size) for n, (size, _) in sorted(self._put.items()) if n.startswith(prefix) and self._shows(n)]

    def _shows(self, name: str) -> bool:
        changed = self._deleted.get(name, self._put[name][1])
        return (name in self.objects) ^ (self._books.at - changed < self._lag and self._draw.random() < 0.5)  # type: ignore


class OldFolder:
    """The same objects with lists that are never old: what a judge sees."""

    def __init__(self, store: OldLists) -> None:
        self._store = store
        self.put, self.get, self.size, self.delete = store.put, store.get, store.size, store.delete

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        self._store.put_stream(name, pieces)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield from sorted((n, len(body)) for n, body in self._store.objects.items() if n.startswith(prefix))


class Life:
    """Writers, readers, forgetting and collecting in one random order; each reader and in the end all must read."""

    def __init__(self, seed: int, limits: Limits = LIMITS) -> None:
        self.draw = random.Random(seed)
        self.books, self.limits = Books(), limits
        self.store = OldLists(self.books, self.draw, timedelta(minutes=20))
        Repository.create(self.store, "wsp_1", KEYS)
        self.books.later(hours=1)
        self.pool = [self.draw.randbytes(200) for _ in range(14)]
        self.writer: Writer | None = None
        self.files: dict[bytes, bytes] = {}
        self.ids: dict[bytes, bytes] = {}
        self.readers: dict[str, tuple[Repository, dict[bytes, object]]] = {}
        self.swept = 0

    def run(self, steps: int) -> None:
        acts = [self.wait, self.wait, self.write, self.write, self.write, self.end, self.forget, self.read, self.gather]
        for _ in range(steps):
            self.draw.choice(acts)()
        self.judge()

    def repository(self) -> Repository:
        return Repository.open(self.store, "wsp_1", KEYS)

    def judge(self) -> None:
        self.books.intact(Repository.open(OldFolder(self.store), "wsp_1", KEYS))

    def wait(self) -> None:
        self.books.later(minutes=self.draw.choice([1, 5, 30, 70]))

    def write(self) -> None:
        """Begin a save, or store one or two more files of it."""
        if self.writer is None:
            self.writer, self.files, self.ids = Writer(self.books, self.repository()), {}, {}
            self.writer.begin()
            return
        for _ in range(self.draw.randint(1, 3)):
            raw = self.draw.choice(self.pool)
            path = b"f%d" % self.pool.index(raw)
            self.files[path] = raw
            (self.ids[path],) = self.writer.store({path: raw})
            self.writer.known.add(self.ids[path])

    def end(self) -> None:
        """Commit the save, or let it die."""
        if self.writer is None or not self.files:
            return
        with suppress(StaleEpoch):
            if self.draw.random() < 0.8:
                paths = sorted(self.files)
                self.writer.commit({p: self.files[p] for p in paths}, [self.ids[p] for p in paths])
        self.writer.end()
        self.writer = None

    def forget(self) -> None:
        free = [name for name in self.books.live if name not in self.readers]
        if len(free) > 1:
            self.books.forget(self.repository(), self.draw.choice(sorted(free)))

    def read(self) -> None:
        """Plan a restore, or carry out one that was planned."""
        if self.readers and self.draw.random() < 0.6:
            name = self.draw.choice(sorted(self.readers))
            repository, places = self.readers.pop(name)
            for chunk in places:
                read_chunk(repository, places, chunk)
            del self.books.work[f"read {name}"]
        elif fresh := sorted(self.books.live.keys() - self.readers.keys()):
            name, repository = self.draw.choice(fresh), self.repository()
            self.books.work[f"read {name}"] = self.books.at
            places, missing = repository.locate(repository.manifest(name).chunks())
            if missing or not all(self.store.size(pack_name(at.pack)) for at in places.values()):
                del self.books.work[f"read {name}"]  # a list was too old to plan by; later it is not
                return
            self.readers[name] = (repository, dict(places))

    def gather(self) -> None:
        self.swept += collect(self.repository(), self.books, self.limits).packs_deleted
        seen = Repository.open(OldFolder(self.store), "wsp_1", KEYS)
        for name in self.books.live:
            places, missing = seen.locate(seen.manifest(name).chunks())
            assert missing == [] and all(self.store.size(pack_name(at.pack)) for at in places.values())


def live(seeds: Iterable[int], steps: int, limits: Limits = LIMITS) -> int:
    swept = 0
    for seed in seeds:
        one = Life(seed, limits)
        one.run(steps)
        swept += one.swept
    return swept


def test_in_any_order_and_with_old_lists_nothing_that_is_needed_goes() -> None:
    """Twelve random lives; together they delete many packs."""
    assert live(range(12), 200) >= 20


@pytest.mark.long
def test_in_very_many_orders_nothing_that_is_needed_goes() -> None:
    assert live(range(1000, 1400), 200) > 1000


@pytest.mark.parametrize("broken", ["leases", "grace", "second look"])
def test_without_any_one_of_its_guards_something_is_lost(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lives above would notice: each guard taken away, some snapshot or reader loses a pack."""
    limits = LIMITS
    if broken == "leases":
        monkeypatch.setattr(Books, "open_work", lambda self, before: [])
    elif broken == "grace":
        limits = Limits(grace=timedelta(0), least_waste=64)
    else:
        monkeypatch.setattr(collecting._Collector, "_needed", lambda self, doomed: set())
    with pytest.raises((AssertionError, StoreMissing, VerificationFailed)):
        live(range(200), 120, limits)
