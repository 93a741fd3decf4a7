"""Stores: whole objects or none, never overwritten, and clear sentences when the disk or the service fails."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.vault.making import draft, file_entry, store_pack
from tests.vault.s3_server import s3_server
from tests.vault.s3_stub import Stub, s3_stub

from dumont.vault import KeyRing, LocalStore, Repository, S3Place, S3Store, Store, StoreError, StoreExists, StoreMissing
from dumont.vault.store import open_file


class Failing:
    """A file whose chosen call fails once `after` bytes were written."""

    def __init__(self, path: Path, mode: str, call: str, number: int, after: int) -> None:
        self.stream, self.call, self.number, self.left = open_file(path, mode), call, number, after

    def __enter__(self) -> "Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def _fail(self, call: str) -> None:
        if call == self.call:
            raise OSError(self.number, "injected")

    def write(self, data: bytes) -> int:
        if self.left <= 0:
            self._fail("write")
        part = data[: self.left] if self.call == "write" else data
        self.left -= len(part)
        return self.stream.write(part)

    def read(self, length: int) -> bytes:
        self._fail("read")
        return self.stream.read(length)

    def seek(self, offset: int) -> int:
        return self.stream.seek(offset)

    def fileno(self) -> int:
        self._fail("sync")
        return self.stream.fileno()


ERRORS = [
    (errno.ENOSPC, True, "no space"),
    (errno.EDQUOT, True, "no space"),
    (errno.EIO, False, "check the disk"),
    (errno.EACCES, False, "does not allow"),
    (errno.EROFS, False, "read-only"),
]


@pytest.mark.parametrize(("number", "full", "words"), ERRORS)
@pytest.mark.parametrize(("call", "after"), [("write", 0), ("write", 700), ("sync", 0)])
def test_a_failing_disk_leaves_no_half_object(
    tmp_path: Path, number: int, full: bool, words: str, call: str, after: int
) -> None:
    """The error says what to do; neither the object nor a temporary file is left."""
    store = LocalStore(tmp_path, opener=lambda path, mode: Failing(path, mode, call, number, after))  # type: ignore
    with pytest.raises(StoreError) as failed:
        store.put("data/aa/object", b"x" * 1000)
    assert (failed.value.full, words in failed.value.detail) == (full, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_unreadable_object_is_an_error_not_an_absence(tmp_path: Path) -> None:
    """EIO on reading is StoreError, never StoreMissing."""
    LocalStore(tmp_path).put("a", b"1")
    store = LocalStore(tmp_path, opener=lambda path, mode: Failing(path, mode, "read", errno.EIO, 0))  # type: ignore
    with pytest.raises(StoreError, match="check the disk") as failed:
        store.get("a")
    assert not isinstance(failed.value, StoreMissing)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    """A real S3 server, shared by the tests of this module."""
    with s3_server(tmp_path_factory.mktemp("s3")) as place:
        yield place


@pytest.fixture(params=["folder", "gateway", "stub"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each kind of store, empty."""
    with ExitStack() as stack:
        if request.param == "folder":
            yield LocalStore(tmp_path / "store")
        elif request.param == "stub":
            yield S3Store(stack.enter_context(s3_stub())[1])
        else:
            place = request.getfixturevalue("gateway")
            yield S3Store(place._replace(prefix=tmp_path.name))


def test_objects_are_never_overwritten(store: Store) -> None:
    """A second put is refused and the first bytes stay; ranges, sizes and lists are right."""
    store.put("data/aa/one", b"0123456789")
    with pytest.raises(StoreExists):
        store.put("data/aa/one", b"other")
    assert store.get("data/aa/one") == b"0123456789"
    ranges = [(3, 4), (8, 99), (99, None), (10, 5), (0, 0), (4, None)]
    assert [store.get("data/aa/one", *wanted) for wanted in ranges] == [b"3456", b"89", b"", b"", b"", b"456789"]
    assert (store.size("data/aa/one"), store.size("data/aa/two"), store.size("config")) == (10, None, None)
    store.put("config", b"c")
    store.put("data/ab/empty", b"")
    assert list(store.list("")) == [("config", 1), ("data/aa/one", 10), ("data/ab/empty", 0)]
    assert list(store.list("data/aa/")) == [("data/aa/one", 10)] and list(store.list("snap/")) == []
    store.delete("config")
    store.delete("config")
    with pytest.raises(StoreMissing):
        store.get("config")


def test_pieces_that_end_in_an_error_store_nothing(store: Store) -> None:
    """A body that is cut short leaves nothing behind; whole ones are stored."""

    def cut() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put_stream("a", cut())
    assert list(store.list("")) == []
    store.put_stream("a", iter((b"who", b"le")))
    assert store.get("a") == b"whole"


def test_a_cut_body_leaves_no_temporary_file(tmp_path: Path) -> None:
    """Of a local store, nothing at all is left."""

    def cut() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        LocalStore(tmp_path).put_stream("a", cut())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.b", ".tmp/x", "a\nb", "a" * 300])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    """No name reaches outside the store's folder or into its temporary files."""
    with s3_stub() as (stub, place):
        for store in (LocalStore(tmp_path / "store"), S3Store(place)):
            for act in (lambda: store.put(name, b"x"), lambda: store.get(name), lambda: store.delete(name)):  # noqa: B023
                verb: Any = act
                with pytest.raises(StoreError):
                    verb()
        assert stub.asked == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_repository_lives_in_a_bucket(gateway: S3Place) -> None:
    """Made, filled, read back and verified over S3; another prefix of the bucket sees nothing of it."""
    place = gateway._replace(prefix="team/wsp_1")
    keyring = KeyRing(b"k" * 32)
    repository = Repository.create(S3Store(place), "wsp_1", keyring)
    one, two = store_pack(repository, b"\x07" * 16, [b"some bytes" * 1000, b"more"])
    name = repository.commit(draft([file_entry(b"a", 10_000, [one]), file_entry(b"b", 4, [two])])).name
    again = Repository.open(S3Store(place), "wsp_1", keyring)
    assert again.verify(name).chunks_checked == 2
    with pytest.raises(StoreExists):
        Repository.create(S3Store(place), "wsp_1", keyring)
    assert list(S3Store(gateway._replace(prefix="team/wsp_2")).list("")) == []


@pytest.fixture
def stubbed() -> Iterator[tuple[Stub, S3Store]]:
    """A store over the service that fails as it is told, without long pauses."""
    with s3_stub() as (stub, place):
        yield stub, S3Store(place, first_wait_seconds=0.001)


@pytest.mark.parametrize("fault", ["slow down", "reset", "lost"])
def test_a_put_of_unknown_outcome_is_tried_again(stubbed: tuple[Stub, S3Store], fault: str) -> None:
    """503 SlowDown, a reset, an answer lost after the object was stored: in the end it is there once and whole."""
    stub, store = stubbed
    stub.fail("PUT", fault, fault)
    store.put("data/aa/x", b"bytes" * 1000)
    assert stub.objects == {"team/wsp/data/aa/x": b"bytes" * 1000}
    assert stub.asked.count("PUT") == 3
    with pytest.raises(StoreExists):
        store.put("data/aa/x", b"bytes" * 1000)


def test_another_writer_of_the_same_name_is_told_from_a_lost_answer(stubbed: tuple[Stub, S3Store]) -> None:
    """Bytes of somebody else under the name are not overwritten and not taken for ours."""
    stub, store = stubbed
    look = store.size
    store.size = lambda name: None  # type: ignore[method-assign]
    stub.objects["team/wsp/config"] = b"theirs"
    stub.fail("PUT", "slow down")
    with pytest.raises(StoreExists):
        store.put("config", b"ours!!")
    store.size = look  # type: ignore[method-assign]
    assert stub.objects == {"team/wsp/config": b"theirs"}


@pytest.mark.parametrize("fault", ["slow down", "reset", "cut"])
def test_a_read_that_breaks_is_tried_again(stubbed: tuple[Stub, S3Store], fault: str) -> None:
    """A body that is cut is never taken for a shorter object."""
    stub, store = stubbed
    store.put("x", b"0123456789" * 1000)
    stub.fail("GET", fault, fault)
    assert store.get("x", 5, 1000) == (b"0123456789" * 1000)[5:1005]
    stub.fail("GET", "slow down")
    assert list(store.list("")) == [("x", 10_000)]
    stub.fail("HEAD", "reset")
    assert store.size("x") == 10_000


def test_patience_ends_with_a_sentence(stubbed: tuple[Stub, S3Store]) -> None:
    """A service that never answers, has no space, or refuses the key: each says what it is, and is no absence."""
    stub, store = stubbed
    stub.fail("PUT", *["slow down"] * 6)
    with pytest.raises(StoreError, match="6 attempts") as failed:
        store.put("x", b"1")
    assert not failed.value.full and stub.asked.count("PUT") == 6 and stub.objects == {}
    stub.fail("PUT", "full")
    with pytest.raises(StoreError) as failed:
        store.put("x", b"1")
    assert failed.value.full
    stub.fail("HEAD", *["reset"] * 6)
    with pytest.raises(StoreError) as failed:
        store.size("x")
    assert not isinstance(failed.value, StoreMissing)


def test_a_wrong_key_or_bucket_is_told_at_once(gateway: S3Place) -> None:
    """No attempt is repeated that cannot succeed."""
    wrongs = {"refused the key": gateway._replace(secret="no"), "bucket": gateway._replace(bucket="nothing")}
    for words, wrong in wrongs.items():
        with pytest.raises(StoreError, match=words):
            S3Store(wrong).put("x", b"1")
