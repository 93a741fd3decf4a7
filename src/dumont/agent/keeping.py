"""How a process of ours holds its memory."""

import ctypes
import gc


def keep_memory() -> None:
    """Have the C library keep large blocks for the next use, in one heap: fetching them anew costs as much as coding.

    And have lists of many thousand entries looked through for garbage less often: there is none.
    Source: mallopt(3); M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD -3, M_ARENA_MAX -8. Other libraries have no mallopt.
    """
    gc.set_threshold(500_000, 20, 20)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-1, 64 << 20), (-3, 32 << 20), (-8, 1)):
            mallopt(option, value)
