"""Memory for whole chunks is asked for in large pages, other memory in those of the usual size."""

import ctypes
import re
from pathlib import Path

from dumont.vault import fresh_memory

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_only_what_is_asked_for_in_large_pages_may_have_them() -> None:
    """A kernel that has them says of each mapping whether it was advised so; all of it can be written to either way."""
    for large in (False, True):
        memory = fresh_memory(8 << 20, large=large)
        memory[-1:] = b"x"
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert ("hg" in flags_of(address)) == (large and LARGE_PAGES.exists())
        assert (memory[:1], memory[-1:]) == (b"\0", b"x")


def flags_of(address: int) -> list[str]:
    """Return the flags of the mapping that holds an address; source: proc_pid_smaps(5), VmFlags."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no such mapping")
