"""What a restore writes is read back: bytes that a disk changes, or somebody later, take no place in a tree."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dumont.agent import AgentFailed, writing
from dumont.agent.writing import Writer
from dumont.vault import CHUNK_BYTES, DataKeys, Entry, Kind, Sealer
from dumont.vault.planes import Floats, split_plainly
from dumont.vault.weaving import Woven

SEALER = Sealer(DataKeys.of(b"d" * 32), "wsp_1")
Look = Callable[[Path], dict[str, tuple[object, ...]]]
RUN = "from dumont.agent.main import main; main()"
FLIPPING = """
import os, dumont.agent.writing as writing
plain = writing._write
def flip(descriptor, view, offset):
    plain(descriptor, view, offset)
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith("%s") and offset >= %d:
        os.pwrite(descriptor, bytes([view[-1] ^ 1]), offset + len(view) - 1)
writing._write = flip
"""
MEDDLING = """
import os, dumont.agent.partial as partial
plain = partial.PartialTree.prove
def late(tree):
    path = tree.path + b"/%s"
    seen = os.stat(path)
    with open(path, "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"?")
    while os.stat(path).st_ctime_ns == seen.st_ctime_ns or os.stat(path).st_mtime_ns != seen.st_mtime_ns:
        os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
    plain(tree)
partial.PartialTree.prove = late
"""
BETWEEN = """
import os, threading, dumont.agent.writing as writing
plain, one_by_one = writing.Writer.write, threading.Lock()
def write(self, entry, offset, raw, chunk):
    with one_by_one:
        if entry.path == b"many" and self._making[entry.path].left == 1:
            with open(self.at(entry), "r+b") as stream:
                stream.seek(0 if offset else entry.size - 1)
                byte = stream.read(1)
                stream.seek(-1, 1)
                stream.write(bytes([byte[0] ^ 1]))
        plain(self, entry, offset, raw, chunk)
writing.Writer.write = write
"""
BREAKS = {
    "a small file": FLIPPING % ("/small", 0),
    "the last piece of a chunk": FLIPPING % ("/large", 3 << 20),
    "a file with several names": FLIPPING % ("/one", 0),
    "a small file, later": MEDDLING % "small",
    "a large file, later": MEDDLING % "large",
    "a chunk that was read back, before the last one": BETWEEN,
}


@pytest.mark.checklist("SNAP-24")
async def test_bytes_that_are_not_what_was_written_change_nothing(
    vault: Any, machines: Any, look: Look, leftovers: Any
) -> None:
    """Wherever it happens, the restore ends and says which file it was, and the old tree stays; else it succeeds."""
    source, target = machines("source"), machines("target")
    draw = random.Random(4)
    (source.workspace / "small").write_bytes(draw.randbytes(5000))
    (source.workspace / "large").write_bytes(draw.randbytes((3 << 20) + (9 << 18)))
    (source.workspace / "many").write_bytes(draw.randbytes(2 * CHUNK_BYTES + 70_000))
    (source.workspace / "one").write_bytes(draw.randbytes(70_000))
    (source.workspace / "two").hardlink_to(source.workspace / "one")
    (target.workspace / "old").write_text("old")
    saved = await vault.save(await source.link())
    before = look(target.workspace)
    for what, code in BREAKS.items():
        link = await target.link(code + RUN)
        with pytest.raises(AgentFailed) as failed:
            await vault.restore(link, saved.name)
        assert (failed.value.code, look(target.workspace)) == ("merkle_mismatch", before), what
        assert any(f": {name}." in failed.value.detail for name in ("small", "large", "many", "one")), what
        assert leftovers(target.workspace) == [], what
        await link.close()
    restored = await vault.restore(await target.link(), saved.name)
    assert look(target.workspace) == look(source.workspace)
    assert restored.hashes_compared >= saved.chunks


@pytest.mark.parametrize("foreign", [b"", b"foreign"])
def test_a_file_with_more_than_was_written_is_not_taken_as_read_back(
    foreign: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody appends to a small file after it came into being and before our first write."""
    sealer, raw = Sealer(DataKeys.of(b"d" * 32), "wsp_1"), b"x" * 1000
    chunk, plain = sealer.chunk_id(raw), writing._write
    entry = Entry(b"small", Kind.FILE, 0o644, os.getuid(), os.getgid(), 10**18, len(raw)).filled((chunk,), (len(raw),))

    def late(descriptor: int, view: memoryview, offset: int) -> None:
        os.pwrite(descriptor, foreign, entry.size)
        plain(descriptor, view, offset)

    monkeypatch.setattr(writing, "_write", late)
    writer = Writer(os.fsencode(tmp_path), sealer)
    writer.begin(entry)
    writer.write(entry, 0, raw, chunk)
    assert (tmp_path / "small").read_bytes() == raw + foreign
    assert list(writer.marks) == ([] if foreign else [b"small"])


@pytest.mark.parametrize("kind", Floats)
@pytest.mark.parametrize("length", [600, 90_001, (512 << 10) + 2, (1 << 20) + 3])
def test_floats_are_written_in_pieces_wherever_they_are_wanted(kind: Floats, length: int, tmp_path: Path) -> None:
    """A chunk that two files share, one of them with holes; both hold its bytes and one was read back meanwhile."""
    raw = np.random.default_rng(length).standard_normal(length // 4 + 1).astype("<f4").tobytes()[:length]
    chunk = SEALER.chunk_id(raw)
    entries = [
        Entry(b"plain", Kind.FILE, 0o644, 0, 0, 7, 2 * length, chunks=(chunk, chunk), lengths=(length, length)),
        Entry(b"holes", Kind.FILE, 0o644, 0, 0, 7, length, sparse=True, chunks=(chunk,), lengths=(length,)),
    ]
    writer = Writer(os.fsencode(tmp_path), SEALER)
    woven = Woven(bytes(split_plainly(raw, kind)), kind, length)
    for entry in entries:
        writer.begin(entry)
        for offset, _, _ in entry.pieces():
            writer.write(entry, offset, woven, chunk)
    assert (tmp_path / "plain").read_bytes() == 2 * raw
    assert (tmp_path / "holes").read_bytes() == raw
    assert [*writer.marks] == [b"plain"]
    wrong = Entry(b"wrong", Kind.FILE, 0o644, 0, 0, 7, length, chunks=(bytes(32),), lengths=(length,))
    with pytest.raises(AgentFailed, match="wrong"):
        writer.write(wrong, 0, woven, bytes(32))
