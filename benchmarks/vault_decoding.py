"""How quickly chunks come back from the form in which they are stored, codec by codec, and how that is timed."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.installation import BenchmarkError
from benchmarks.metrics import Metric


def decoding(raw: bytes, times: int = 12) -> Metric:
    """Decode a bitshuffled chunk over and over, on one core and on all of them; what comes out is compared first.

    Units: GB of the chunk for each second of CPU; `all_cores_gb_s` for each second that passes.
    Errors: BenchmarkError where anything else comes out.
    """
    from dumont.vault import Rooms
    from dumont.vault.codecs import Codec, _encoded, decode

    packed = b"".join(_encoded(raw, Codec.BITSHUFFLE, 2))

    def act(rooms: Rooms) -> object:
        return decode(Codec.BITSHUFFLE, 2, packed, len(raw), rooms)

    if act(Rooms()) != raw:
        raise BenchmarkError("a chunk does not decode to what it was")
    rooms = Rooms()
    seconds = least_seconds(lambda: act(rooms), times)
    more: dict[str, float | str] = {"kind": "bitshuffle and LZ4", "bytes": len(raw), "cpu_s": seconds}
    together = len(raw) / _passed(act, times) / 1e9
    return Metric("decode_gb_per_cpu_s", len(raw) / seconds / 1e9, "GB/s", more={**more, "all_cores_gb_s": together})


def least_seconds(act: Callable[[], object], times: int = 12) -> float:
    """Return the CPU seconds that an act takes when nothing disturbs it: the least of some tries."""
    act()
    found = []
    for _ in range(times):
        started = time.process_time()
        act()
        found.append(time.process_time() - started)
    return min(found)


def _passed(act: Callable[..., object], times: int) -> float:
    """Return the seconds that pass for each decoding while every core has one after the other."""
    from dumont.vault import Rooms

    cores = os.cpu_count() or 1

    def many(rooms: Rooms) -> None:
        for _ in range(times):
            act(rooms)

    with ThreadPoolExecutor(cores) as pool:
        rooms = [Rooms() for _ in range(cores)]
        [*pool.map(act, rooms)]
        started = time.monotonic()
        [*pool.map(many, rooms)]
        return (time.monotonic() - started) / (cores * times)
