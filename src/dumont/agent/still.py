"""Tell quickly that a tree is still what it was: the marks of all of its paths as one array, and the names in folders.

The kernel writes what it knows of a path straight into our memory, so that nothing is made of it path by path.
"""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from dumont.agent.walk import MARK_NUMBERS, Found
from dumont.vault import load_numpy

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray[Any, np.dtype[np.uint64]]

_BLOCK = 4096
_ROW_BYTES = 256
_WORDS = (2, 3, 4, 5, 12, 13, 14, 15, 17)
"""Where a row of `struct statx` says, as 64-bit words: links and owner, group and mode, inode, size, change and
modification times in two words each, and the device. Source: statx(2)."""
_NO_FOLLOW = 0x100
_BASIC = 0x7FF
_NS = 1_000_000_000


class Look(NamedTuple):
    """What another look at a tree told: whether it holds, what of it is the same, and the names in its folders now."""

    holds: bool
    same: list[Found]
    names: dict[bytes, list[bytes]]


NO_LOOK = Look(False, [], {})


class Still:
    """A tree as it was seen.

    Guarantees: it holds only where every folder has the same names and every path the same mark; what cannot be told
    (an old C library, a path that is gone) counts as changed.
    """

    def __init__(self, found: Sequence[Found], names: Mapping[bytes, list[bytes]]) -> None:
        self._found = found
        self._names = names
        self._rows: Rows | None = None

    def look(self, root: bytes) -> Look:
        """Look at the tree below `root` again."""
        names = {folder: now for folder in self._names if (now := _listed(root, folder)) is not None}
        statx = _statx()
        try:
            held = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return Look(False, [], names)
        try:
            same = list(compress(self._found, self._same(statx, held))) if statx is not None else []
        finally:
            os.close(held)
        whole = statx is not None and len(same) == len(self._found)
        return Look(whole and names == self._names, same, names)

    def _same(self, statx: Callable[..., int], held: int) -> list[bool]:
        load_numpy()
        import numpy as np

        if self._rows is None:
            self._rows = _rows([item.mark for item in self._found])
        same = np.zeros(len(self._found), bool)
        memory = bytearray(_BLOCK * _ROW_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        seen = np.frombuffer(memory, np.uint64).reshape(_BLOCK, _ROW_BYTES // 8)
        for at in range(0, len(self._found), _BLOCK):
            paths = [item.entry.path for item in self._found[at : at + _BLOCK]]
            rooms = range(start, start + len(paths) * _ROW_BYTES, _ROW_BYTES)
            asked = map(statx, repeat(held), paths, repeat(_NO_FOLLOW), repeat(_BASIC), rooms)
            answered = np.fromiter(asked, np.int64, len(paths)) == 0
            equal = (seen[: len(paths), _WORDS] == self._rows[at : at + len(paths)]).all(axis=1)
            same[at : at + len(paths)] = answered & equal
        told: list[bool] = same.tolist()
        return told


def _listed(root: bytes, folder: bytes) -> list[bytes] | None:
    try:
        return os.listdir(root + b"/" + folder if folder else root)
    except OSError:
        return None


def _rows(marks: list[tuple[int, ...]]) -> "Rows":
    """Return marks as the kernel would write them."""
    import numpy as np

    columns = [*zip(*marks, strict=True)] or [()] * MARK_NUMBERS
    device, inode, changed, modified, size, mode, uid, gid, links = columns
    split = {number: os.major(number) | os.minor(number) << 32 for number in set(device)}
    times = [np.array(column, np.int64) for column in (changed, modified)]
    whole = [
        *(_joined(links, uid), _joined(gid, mode), np.array(inode, np.uint64), np.array(size, np.uint64)),
        *(part.view(np.uint64) for column in times for part in np.divmod(column, _NS)),
        np.array([split[number] for number in device], np.uint64),
    ]
    rows: Rows = np.stack(whole, axis=1)
    return rows


def _joined(low: Sequence[int], high: Sequence[int]) -> "Rows":
    import numpy as np

    joined: Rows = np.array(low, np.uint64) | np.array(high, np.uint64) << np.uint64(32)
    return joined


@lru_cache(maxsize=1)
def _statx() -> "Callable[..., int] | None":
    """Return the C library's statx; those before glibc 2.28 have none."""
    found: Any = getattr(ctypes.CDLL(None), "statx", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    return found  # type: ignore[no-any-return]
