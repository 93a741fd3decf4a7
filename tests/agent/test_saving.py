"""Later snapshots, interrupted saves, full stores and files that move under the reader."""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dumont.agent import AgentLost
from dumont.vault import Gate, LocalStore, StaleEpoch, StoreError, VerificationFailed, pack_name

SMALL_PACKS = (
    "import dumont.vault.packs as packs; packs.PACK_TARGET_BYTES = 1 << 20\nfrom dumont.agent.main import main; main()"
)


@pytest.mark.checklist("SNAP-12", "SNAP-13", "SNAP-15", "SNAP-16")
async def test_later_snapshots_store_only_what_is_new(vault: Any, machines: Any, fill: Callable[[Path], None]) -> None:
    """Nothing changed: no pack. A changed byte: the chunk around it. The first snapshot can still be restored."""
    machine = machines("first")
    fill(machine.workspace)
    link = await machine.link()
    first = await vault.save(link)
    packs = vault.repository.packs_in_store()
    second = await vault.save(link)
    assert (second.bytes_stored, second.chunks_new) == (0, 0) and second.ratio is None
    assert vault.repository.packs_in_store() == packs
    assert second.merkle_root == first.merkle_root
    model = machine.workspace / "models" / "m.safetensors"
    with model.open("r+b") as stream:
        stream.seek(5 << 20)
        stream.write(b"changed")
    third = await vault.save(link)
    assert third.chunks_new == 1 and 6_200_000 < third.bytes_stored < 6_400_000
    assert vault.repository.snapshots() == [first.name, second.name, third.name]
    for saved in (first, second, third):
        assert vault.reopened().verify(saved.name).merkle_root == saved.merkle_root


class Blocked(LocalStore):
    """A store that takes the first packs, and the others only when it is let go."""

    def __init__(self, root: Path, first: int) -> None:
        super().__init__(root)
        self.left, self.go = threading.Semaphore(first), threading.Event()

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> None:
        """Store an object, or wait."""
        assert self.left.acquire(blocking=False) or self.go.wait(60)
        super().put_stream(name, chunks)


async def test_a_killed_save_goes_on_with_the_packs_that_are_stored(vault: Any, machines: Any, wait_until: Any) -> None:
    """kill -9 of the agent in mid-save commits nothing; the next save stores only what was missing."""
    machine = machines("first")
    size = 24 << 20
    (machine.workspace / "big").write_bytes(random.Random(1).randbytes(size))
    link = await machine.link(SMALL_PACKS)
    whole, vault.gate.store = vault.gate.store, Blocked(vault.store.root, 8)
    saving = asyncio.create_task(vault.save(link))
    await wait_until(lambda: len(vault.repository.index().packs) >= 2)
    os.kill(link.hello.pid, signal.SIGKILL)
    with pytest.raises(AgentLost):
        await saving
    vault.gate.store.go.set()
    vault.gate.store = whole
    assert vault.repository.snapshots() == []
    before = sum(vault.repository.packs_in_store().values())
    assert 0 < before < size
    saved = await vault.save(await machine.link(SMALL_PACKS))
    assert saved.bytes_stored < size - (before * 0.9)
    assert vault.reopened().verify(saved.name, all_below=0, sample=0).merkle_root == saved.merkle_root
    packs = vault.repository.packs_in_store().keys()
    assert packs > set(vault.repository.manifest(saved.name).packs_new)
    assert vault.reopened().index().unread(packs) == set()
    assert vault.reopened().verify(saved.name).chunks_checked == saved.chunks


async def test_a_pack_left_by_a_killed_control_plane_is_taken_in(vault: Any, machines: Any) -> None:
    """A whole pack without an index segment is used; a half one is left alone."""
    machine = machines("first")
    (machine.workspace / "big").write_bytes(random.Random(2).randbytes(3 << 20))
    link = await machine.link()
    await vault.save(link)
    for name, _ in [*vault.store.list("idx/"), *vault.store.list("snap/")]:
        vault.store.delete(name)
    vault.store.put(pack_name(b"h" * 16), b"half a pack")
    vault.repository = vault.reopened()
    saved = await vault.save(link)
    assert (saved.chunks_new, saved.bytes_stored) == (0, 0)
    assert vault.reopened().verify(saved.name).chunks_checked == saved.chunks > 0


def flip(vault: Any, spot: int = 100) -> str:
    """Flip one bit in the only pack; return the pack's name."""
    ((pack, _),) = vault.repository.packs_in_store().items()
    path = vault.store.root / pack_name(pack)
    whole = path.read_bytes()
    path.write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
    return str(pack_name(pack))


@pytest.mark.checklist("SNAP-17")
async def test_damage_in_the_store_is_mended_by_the_next_save(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Any
) -> None:
    """A flipped bit fails one verification; the next save stores the chunks anew and all snapshots are whole again."""
    machine, other = machines("first"), machines("second")
    fill(machine.workspace)
    link = await machine.link()
    first = await vault.save(link)
    vault.reopened().verify(first.name)
    damaged = flip(vault)
    vault.repository = vault.reopened()
    second = await vault.save(link)
    assert second.chunks_new == 0
    with pytest.raises(VerificationFailed) as failed:
        vault.reopened().verify(second.name)
    assert failed.value.damaged == [damaged]
    vault.repository = vault.reopened()
    third = await vault.save(link)
    assert third.chunks_new == third.chunks and third.bytes_stored > 0
    for saved in (first, second, third):
        assert vault.reopened().verify(saved.name).chunks_checked == third.chunks
    (vault.store.root / damaged).unlink()
    vault.repository = vault.reopened()
    fourth = await vault.save(link)
    assert fourth.chunks_new == 0 and vault.reopened().verify(fourth.name).files == first.files
    await vault.restore(await other.link(), third.name)
    assert look(other.workspace) == look(machine.workspace)


async def test_a_left_pack_is_read_before_it_is_used(vault: Any, machines: Any) -> None:
    """A bit flipped in a pack that an interrupted save left: its chunk is stored anew and the snapshot is whole."""
    machine = machines("first")
    (machine.workspace / "big").write_bytes(random.Random(6).randbytes(3 << 20))
    link = await machine.link()
    await vault.save(link)
    for name, _ in [*vault.store.list("idx/"), *vault.store.list("snap/")]:
        vault.store.delete(name)
    flip(vault)
    vault.repository = vault.reopened()
    saved = await vault.save(link)
    assert saved.chunks_new == saved.chunks > 0
    assert vault.reopened().verify(saved.name).chunks_checked == saved.chunks


async def test_a_full_store_is_told_and_commits_nothing(vault: Any, machines: Any) -> None:
    """ENOSPC in the store reaches the caller as StoreError with `full`; a later save works."""
    machine = machines("first")
    (machine.workspace / "big").write_bytes(random.Random(3).randbytes(2 << 20))
    link = await machine.link()
    plain = vault.store._open

    class Full:
        def __init__(self, path: Path, mode: str) -> None:
            self.stream = plain(path, mode)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, data: bytes) -> int:
            self.stream.write(data[:10])
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            return int(self.stream.fileno())

    def opener(path: Path, mode: str) -> BinaryIO:
        return Full(path, mode) if "x" in mode else plain(path, mode)  # type: ignore[return-value]

    vault.store._open = opener
    with pytest.raises(StoreError) as failed:
        await vault.save(link)
    assert failed.value.full and "space" in failed.value.detail
    vault.store._open = plain
    assert vault.repository.packs_in_store() == {} and vault.repository.snapshots() == []
    assert list((vault.store.root / ".tmp").iterdir()) == []
    again = await vault.save(link)
    assert again.chunks_new == again.chunks > 0


async def test_an_older_writer_is_refused(vault: Any, machines: Any) -> None:
    """After epoch 5 wrote, epoch 4 may neither begin nor commit."""
    machine = machines("first")
    (machine.workspace / "a").write_text("a")
    link = await machine.link()
    await vault.save(link, epoch=5)
    with pytest.raises(StaleEpoch):
        await vault.save(link, epoch=4)
    assert len(vault.repository.snapshots()) == 1
    assert vault.repository.manifest(vault.repository.snapshots()[0]).epoch == 5


async def test_a_file_that_never_stays_the_same_is_listed_as_unstable(vault: Any, machines: Any) -> None:
    """The snapshot still verifies, and says which file cannot be trusted."""
    machine = machines("first")
    (machine.workspace / "calm").write_text("calm")
    (machine.workspace / "log").write_bytes(bytes(5 << 20))
    touching = (
        "import os, dumont.agent.pipeline as pipeline\n"
        "read = pipeline.read_into\n"
        "def moving(descriptor, offset, view):\n"
        "    os.truncate('workspace/log', os.path.getsize('workspace/log') + 1)\n"
        "    return read(descriptor, offset, view)\n"
        "pipeline.read_into = moving\n"
        "from dumont.agent.main import main; main()"
    )
    saved = await vault.save(await machine.link(touching))
    assert saved.unstable == ["log"] and saved.read_errors == []
    assert vault.reopened().verify(saved.name).files == 2


async def test_what_cannot_be_read_is_listed_and_odd_things_are_skipped(vault: Any, machines: Any) -> None:
    """A read error names its path; a pipe is skipped without waiting on it; excluded paths stay out."""
    machine = machines("first")
    for name in ("good", "bad", "cache/x", "deep/cache/y", "deep/keep.tmp", "deep/keep"):
        (machine.workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.workspace / name).write_text(name)
    os.mkfifo(machine.workspace / "pipe")
    broken = (
        "import dumont.agent.save as save\n"
        "plain = save.open_regular\n"
        "def refuse(path):\n"
        "    if path.endswith(b'/bad'): raise OSError(5, 'Input/output error')\n"
        "    return plain(path)\n"
        "save.open_regular = refuse\n"
        "from dumont.agent.main import main; main()"
    )
    saved = await vault.save(await machine.link(broken), exclude=("cache", "deep/*.tmp"))
    assert saved.read_errors == [("bad", "Input/output error")] and saved.skipped == ["pipe"]
    manifest = vault.repository.manifest(saved.name)
    assert [entry.path for entry in manifest.entries] == [b"deep", b"deep/keep", b"good"]


async def test_the_agent_cannot_get_a_path_to_anything_else(vault: Any, machines: Any) -> None:
    """Signed paths are only given for packs of this very save; a lying agent gets nothing."""
    machine = machines("first")
    (machine.workspace / "a").write_text("a")
    lying = (
        "import dumont.agent.transfer as transfer\n"
        "def put(self, pack, data): self._sign('PUT', b'x' * 16, 10)\n"
        "transfer.Blobs.put = put\n"
        "from dumont.agent.main import main; main()"
    )
    with pytest.raises(Exception, match="does not need"):
        await vault.save(await machine.link(lying))
    assert vault.repository.packs_in_store() == {}


async def test_a_broken_connection_is_tried_again(vault: Any, machines: Any, tmp_path: Path) -> None:
    """The gate drops the first answer after it stored the pack: the repeat is accepted and nothing is stored twice."""
    machine = machines("first")
    (machine.workspace / "big").write_bytes(random.Random(4).randbytes(1 << 20))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", straight)
        cut = not seen
        seen.append(cut)

        async def back() -> None:
            while data := await inner.read(65536):
                if cut:
                    break
                writer.write(data)
            writer.close()

        task = asyncio.create_task(back())
        while data := await reader.read(65536):
            outer.write(data)
        outer.close()
        await task

    seen: list[bool] = []
    straight = vault.port
    async with await asyncio.start_server(carry, "127.0.0.1", 0) as server:
        vault.port = server.sockets[0].getsockname()[1]
        saved = await vault.save(await machine.link())
    assert len(seen) >= 2 and len(vault.repository.packs_in_store()) == 1
    assert vault.reopened().verify(saved.name).chunks_checked == 1


async def test_packs_that_are_told_of_at_once_are_all_counted(vault: Any, machines: Any) -> None:
    """What a save stored is the size of its packs, also where the index is slow and several packs wait for it."""
    machine = machines("first")
    (machine.workspace / "big").write_bytes(random.Random(5).randbytes(24 << 20))
    inside, most, index = set[int](), set[int](), vault.repository.index

    def slowly(*, fresh: bool = False) -> Any:
        inside.add(threading.get_ident())
        most.update({len(inside)})
        time.sleep(0.02)
        inside.discard(threading.get_ident())
        return index(fresh=fresh)

    vault.repository.index = slowly
    saved = await vault.save(await machine.link(SMALL_PACKS))
    sizes = vault.repository.packs_in_store()
    assert len(sizes) >= 10 and max(most) >= 2, "several packs were told of at once"
    assert saved.bytes_stored == sum(sizes.values())


@pytest.mark.parametrize("megabytes", [160])
async def test_memory_does_not_grow_with_the_file(vault: Any, machines: Any, megabytes: int) -> None:
    """A file much larger than the limit is saved and restored below 300 MB of memory."""
    machine, other = machines("first"), machines("second")
    with (machine.workspace / "big").open("wb") as stream:
        for number in range(megabytes):  # no two alike, wherever the cuts fall: a chunk of two would be packed as one
            stream.write(random.Random(number).randbytes(1 << 20))

    def peak(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    link, back = await machine.link(), await other.link()
    saved = await vault.save(link)
    await vault.restore(back, saved.name)
    assert saved.bytes_stored > megabytes << 20
    assert peak(link.hello.pid) < 300_000 and peak(back.hello.pid) < 300_000


def test_the_gate_of_another_secret_does_not_open(vault: Any) -> None:
    """A path signed with one secret means nothing to a gate with another."""
    from dumont.vault.gate import Refused

    path = vault.gate.sign("GET", "config", max_bytes=1000, expires_in=60)
    assert vault.gate.admit("GET", path) == ("config", 1000)
    with pytest.raises(Refused):
        Gate(vault.store, b"another").admit("GET", path)
