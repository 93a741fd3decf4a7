"""What has not changed is not read again, and nothing that has changed is ever taken for the same; and many sizes."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from dumont.agent.pipeline import Packer
from dumont.agent.save import save_tree
from dumont.agent.seen import Seen
from dumont.agent.walk import Excluder, scan
from dumont.vault import KeyRing, LocalStore, Repository, pack_name, unpack_columns

SETTLED = "import dumont.agent.seen as s; s.SETTLED_SECONDS = 0\nfrom dumont.agent.main import main; main()"
Look = Callable[[Path], dict[str, tuple[object, ...]]]


@pytest.mark.checklist("SNAP-13")
async def test_a_tree_that_did_not_change_is_not_read(vault: Any, machines: Any, fill: Callable[[Path], None]) -> None:
    """Not one byte, by the same agent or the next one; then only the file that changed."""
    machine = machines("first")
    fill(machine.workspace)
    link = await machine.link(SETTLED)
    first = await vault.save(link)
    second = await vault.save(link)
    third = await vault.save(await machine.link(SETTLED))
    assert first.bytes_read == first.bytes_total
    for saved in (second, third):
        assert (saved.bytes_read, saved.chunks_new, saved.bytes_stored) == (0, 0, 0)
        assert saved.merkle_root == first.merkle_root
    (machine.workspace / "secret").write_text("changed")
    fourth = await vault.save(link)
    assert fourth.bytes_read == len("changed") and fourth.chunks_new == 1
    assert vault.reopened().verify(fourth.name).merkle_root == fourth.merkle_root


async def test_an_agent_that_goes_on_sees_what_came_and_went(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look
) -> None:
    """A file changed, one gone, a folder new, another moved, one become a file: the rest is taken over as it was."""
    machine, other = machines("first"), machines("second")
    root = machine.workspace
    fill(root)
    (root / "folder/below").mkdir(parents=True)
    link = await machine.link(SETTLED)
    first = await vault.save(link)
    (root / "secret").write_text("changed")
    (root / "-dash").unlink()
    (root / "new/deep").mkdir(parents=True)
    (root / "new/deep/file").write_text("new")
    (root / "src/pkg1").rename(root / "src/moved")
    (root / "folder/below").rmdir()
    (root / "folder/below").write_text("a file now")
    saved = await vault.save(link)
    moved = sum(path.stat().st_size for path in (root / "src/moved").rglob("*") if path.is_file())
    assert 0 < moved < first.bytes_total // 2
    assert saved.bytes_read == moved + len("changed" + "new" + "a file now")
    await vault.restore(await other.link(), saved.name)
    assert look(other.workspace) == look(root)
    assert (await vault.save(link)).bytes_read == 0


@pytest.mark.checklist("SNAP-11")
async def test_a_change_that_hides_is_seen(vault: Any, machines: Any, look: Look) -> None:
    """The same size and the old modification time; another file under the name; a list that lies: all are read."""
    machine, other = machines("first"), machines("second")
    paths = [machine.workspace / name for name in ("touched", "replaced", "calm")]
    for path in paths:
        path.write_text("before")
        os.utime(path, ns=(10**18, 10**18))
    link = await machine.link(SETTLED)
    await vault.save(link)
    paths[0].write_text("after!")
    (machine.workspace / "new").write_text("other!")
    (machine.workspace / "new").rename(paths[1])
    for path in paths[:2]:
        os.utime(path, ns=(10**18, 10**18))
    saved = await vault.save(link)
    assert saved.bytes_read == 12
    await vault.restore(await other.link(), saved.name)
    assert look(other.workspace) == look(machine.workspace)
    (listed,) = (machine.home / ".dumont" / "agent").glob("seen-*")
    for damage in (b"", b"\xc1", listed.read_bytes()[:-3], b"\x93\x01\xa1x\x90"):
        listed.write_bytes(damage)
        assert (await vault.save(await machine.link(SETTLED))).bytes_read == 18


async def test_a_restored_tree_is_not_read_again(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look, wait_until: Any
) -> None:
    """The first save after a wake reads what changed since, however well it hides, and nothing else."""
    machine, other = machines("first"), machines("second")
    fill(machine.workspace)
    os.utime(machine.workspace / "models/m.safetensors", ns=(10**18, 10**18))
    for path in machine.workspace.rglob("*"):
        if not path.is_symlink() and path.is_file():
            os.utime(path, ns=(10**18, 10**18))
    saved = await vault.save(await machine.link())
    back = await other.link()
    await vault.restore(back, saved.name)
    assert (await vault.save(back)).bytes_read == 0
    assert (await vault.save(await other.link())).bytes_read == 0
    changed = [other.workspace / name for name in ("secret", "src/pkg1/mod1.py", "-dash")]
    for path in changed:
        seen = path.stat()
        path.write_bytes(bytes(seen.st_size))
        os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
    later = await vault.save(await other.link())
    assert later.bytes_read == sum(path.stat().st_size for path in changed)
    await vault.restore(await machine.link(), later.name)
    assert look(machine.workspace) == look(other.workspace)


async def test_what_changed_just_now_is_read_once_more(vault: Any, machines: Any) -> None:
    """A page that is mapped may be written again without a trace: so young a file is not believed."""
    machine = machines("first")
    (machine.workspace / "young").write_text("young")
    link = await machine.link()
    assert [(await vault.save(link)).bytes_read for _ in range(2)] == [5, 5]


async def test_chunks_that_the_store_lost_are_read_and_stored_again(vault: Any, machines: Any) -> None:
    """An unchanged file whose pack is gone is not taken for saved."""
    machine = machines("first")
    (machine.workspace / "a").write_text("content")
    link = await machine.link(SETTLED)
    await vault.save(link)
    ((pack, _),) = vault.repository.packs_in_store().items()
    vault.store.delete(pack_name(pack))
    saved = await vault.save(link)
    assert (saved.bytes_read, saved.chunks_new) == (7, 1)
    assert vault.reopened().verify(saved.name).chunks_checked == 1


@pytest.mark.checklist("SNAP-08")
async def test_nothing_at_all_and_very_many_small_files(vault: Any, machines: Any, look: Look) -> None:
    """An empty workspace is a snapshot; 1,000 small files are one pack of few records."""
    empty, many, other = machines("empty"), machines("many"), machines("other")
    saved = await vault.save(await empty.link())
    assert (saved.files, saved.bytes_total, saved.chunks) == (0, 0, 0)
    assert vault.reopened().verify(saved.name).files == 0
    draw = random.Random(2)
    for number in range(1000):
        path = many.workspace / f"folder{number % 50}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(draw.randbytes(number % 700))
    saved = await vault.save(await many.link())
    (pack,) = vault.repository.packs_in_store()
    records = [place for _, place in vault.repository.pack_table(pack).rows if not place.group]
    assert saved.files == 1000 and saved.chunks_new > 900 and len(records) <= 3
    await vault.restore(await other.link(), saved.name)
    assert look(other.workspace) == look(many.workspace)


def test_a_save_that_failed_is_no_answer_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that left a file out and did not end takes nothing from what is asked for afterwards."""
    monkeypatch.setattr("dumont.agent.seen.SETTLED_SECONDS", 0)
    root, packs, known = tmp_path / "root", tmp_path / "packs", set[bytes]()
    root.mkdir()
    for name in ("keep", "b.log"):
        (root / name).write_text(name)
    repository = Repository.create(LocalStore(packs), "wsp_seen", KeyRing(b"seen" * 8))
    seen = Seen(str(tmp_path / "seen"), "about")

    def save(exclude: list[str], finish: Callable[[Packer], None] = Packer.finish) -> set[bytes]:
        blobs = SimpleNamespace(put=lambda pack, data: None)
        packer = Packer(repository.sealer, known, blobs, lambda: os.urandom(16), lambda pack, size: None)  # type: ignore[arg-type]
        monkeypatch.setattr(packer, "finish", lambda: finish(packer))
        try:
            _, report = save_tree(os.fsencode(root), exclude, [], packer, seen, lambda progress: None)
        finally:
            packer.close()
        known.update(chunk for found in seen.found.values() for chunk in found.entry.chunks)
        return {entry.path for entry in unpack_columns(msgpack.unpackb(report)["entries"])}

    def fail(_: Packer) -> None:
        failed.set()
        raise OSError("the store is gone")

    plain, failed = Seen._store, threading.Event()

    def late(self: Seen) -> None:
        assert failed.wait(60)
        plain(self)

    assert save([]) == {b"keep", b"b.log"}
    monkeypatch.setattr(Seen, "_store", late)
    with pytest.raises(OSError, match="gone"):
        save(["*.log"], fail)
    assert list(Seen(str(tmp_path / "seen"), "about").found) == [b"keep"]  # what was begun is on the disk by then
    assert save([]) == {b"keep", b"b.log"}


def test_what_was_seen_is_kept_where_no_thread_is_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its time then, and the next agent finds it."""
    monkeypatch.setattr("dumont.agent.seen.SETTLED_SECONDS", 0)
    (tmp_path / "file").write_text("file")
    (item,) = scan(os.fsencode(tmp_path), Excluder([]), known={}).found

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen = Seen(str(tmp_path / "seen"), "about")
    seen.begin()
    assert seen.keep([item._replace(read=True)])
    seen.kept()
    assert list(Seen(str(tmp_path / "seen"), "about").found) == [b"file"]


def test_small_files_do_not_pile_up_before_those_who_code_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At most as many groups wait as are worth having under way, and one more; here nobody codes until one waits."""
    repository = Repository.create(LocalStore(tmp_path), "wsp_groups", KeyRing(b"seen" * 8))
    blobs = SimpleNamespace(put=lambda pack, data: None)
    packer = Packer(repository.sealer, set(), blobs, lambda: os.urandom(16), lambda pack, size: None)  # type: ignore[arg-type]
    draw, go, waiting = random.Random(5), threading.Event(), list[int]()
    plain = packer._workers.submit

    def submit(*work: Any) -> Any:
        future: Any = plain(*work)
        result = future.result
        future.result = lambda: go.set() or result()
        return future

    monkeypatch.setattr(packer, "_seal_group", lambda group: go.wait(60))
    monkeypatch.setattr(packer._workers, "submit", submit)
    for _ in range(30 * packer.depth):
        packer.small(draw.randbytes(200 << 10))
        waiting.append(sum(not group.done() for group in packer._grouped))
    go.set()
    packer.close()
    assert len(packer._grouped) > 2 * packer.depth and max(waiting) <= packer.depth + 1
