"""The ground on which saves and restores are measured: the same for all who take turns, whatever was done on it before.

Pages cost up to ten times as much where a machine gave them back to its host and must have them again. And ext4 without
a journal looks, for each new file, at every inode near it that was freed in the last minutes. Whoever comes next pays.
Source: mm/page_reporting.c (two seconds after they were freed), fs/ext4/ialloc.c (`recently_deleted`).
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_TRIES = 24
_FILES = 8
_SLOW_SECONDS = 100e-6
_GET_FLAGS, _SET_FLAGS, _TOP = 0x80086601, 0x40086602, 0x00020000
"""Source: ioctl_iflags(2), FS_TOPDIR_FL."""
_TOUCH = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANON)
memory.madvise(mmap.MADV_HUGEPAGE)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
"""


def have_memory(length: int) -> None:
    """Have so much memory of the host, for seconds: a process touches it, half of what there is at most, and ends."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    subprocess.run([sys.executable, "-c", _TOUCH, str(min(length, available // 2))], check=True)


def spread(folder: Path) -> None:
    """Have ext4 look for another place on the disk for each folder right below; other file systems need it not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        number = int.from_bytes(flags[:4], sys.byteorder) | _TOP
        fcntl.ioctl(descriptor, _SET_FLAGS, number.to_bytes(4, sys.byteorder) + bytes(4))
    except OSError as error:
        print(f"Places are taken as they come: {error.strerror}.", file=sys.stderr)  # noqa: T201
    finally:
        os.close(descriptor)


def even_place(fresh: Callable[[], Path]) -> tuple[Path, float]:
    """Make a new folder where a new file costs little, if there is such a place; return it and what a file costs."""
    found: list[tuple[float, Path]] = []
    for _ in range(_TRIES):
        folder = fresh()
        folder.mkdir()
        found.append((_new_file_seconds(folder), folder))
        if found[-1][0] < _SLOW_SECONDS:
            break
    seconds, folder = min(found)
    return folder, seconds


def _new_file_seconds(folder: Path) -> float:
    took = []
    for number in range(_FILES):
        path = folder / f"probe-{number}"
        started = time.perf_counter()
        path.touch()
        took.append(time.perf_counter() - started)
    for number in range(_FILES):
        (folder / f"probe-{number}").unlink()
    return min(took)
