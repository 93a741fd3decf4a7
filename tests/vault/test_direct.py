"""Objects of any pieces arrive whole, past the page cache where the file system allows it and plainly elsewhere."""

import errno
import fcntl
import io
import mmap
import os
import random
from pathlib import Path
from typing import Any

import pytest

from dumont.vault.direct import Sink

DRAW = random.Random(4)
MIB = 1 << 20


class Watched(io.FileIO):
    """A file that notes which of its writes were direct; `refuse` says what it does with those."""

    refuse = 0

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x")
        self.direct: list[int] = []

    def write(self, data: Any) -> int:
        if fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & os.O_DIRECT:
            if self.refuse:
                raise OSError(self.refuse, "injected")
            self.direct.append(len(data))
        return super().write(data)


def aligned(length: int) -> memoryview:
    memory = mmap.mmap(-1, length)
    memory[:] = DRAW.randbytes(length)
    return memoryview(memory)


PIECES: dict[str, tuple[list[bytes | memoryview], int]] = {
    "nothing": ([], 0),
    "small ones": ([b"a", b"", b"bc" * 3000], 0),
    "pieces of a request": ([DRAW.randbytes(MIB) for _ in range(5)] + [DRAW.randbytes(77)], 4 * MIB),
    "a pack in memory": ([aligned(5 * MIB + 4097)], 5 * MIB + 4096),
    "a pack, then its end": ([aligned(4 * MIB + 5), DRAW.randbytes(3 * MIB)], 6 * MIB),
    "odd ones": ([DRAW.randbytes(length) for length in (1, 3 * MIB, 4095, 2 * MIB - 1, 5)], 4 * MIB),
}


@pytest.mark.parametrize("refused", [0, errno.EINVAL])
@pytest.mark.parametrize("name", PIECES)
def test_pieces_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, refused: int) -> None:
    """Each byte in its place; where direct writes are refused, everything goes the plain way."""
    monkeypatch.setattr(Watched, "refuse", refused)
    pieces, direct = PIECES[name]
    with Watched(tmp_path / "object") as stream:
        sink = Sink(stream)
        for piece in pieces:
            sink.write(piece)
        sink.finish()
        assert sum(stream.direct) in ({0} if refused else {0, direct})
    assert (tmp_path / "object").read_bytes() == b"".join(pieces)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk refuses for another reason is told, not tried in another way."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "injected")

    monkeypatch.setattr(Watched, "write", refuse)
    with Watched(tmp_path / "object") as stream, pytest.raises(OSError, match="injected"):
        Sink(stream).write(aligned(4 * MIB))
