"""Memory does not grow with the size of files, and little with their number: at most 400 MB, whatever is saved."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.vault_workspace import bf16, write_safetensors

Look = Callable[[Path], dict[str, tuple[object, ...]]]
MOST_KB = 400_000
FILE_BYTES = 3640
"""With less for each of 100,000 files an agent, which takes 44 MB without any, stays below the limit; the long form
measures that many."""


def peak_kb(link: Any) -> int:
    """Return the most memory that an agent ever had."""
    status = Path(f"/proc/{link.hello.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def many(root: Path, numbers: range) -> None:
    """Write small files with these numbers, 200 to a folder, all different."""
    block = random.Random(1).randbytes(1 << 20)
    for number in numbers:
        folder = root / f"folder{number // 200}"
        if number % 200 == 0:
            folder.mkdir()
        (folder / f"file{number}").write_bytes(
            number.to_bytes(8, "little") + block[number * 97 % 10**6 :][: number % 999]
        )


async def test_memory_for_each_of_many_small_files(vault: Any, machines: Any) -> None:
    """What one more file costs an agent that has saved, and saved unchanged, 3,000 before.

    Of 9,000 more, for what an allocator takes at once for all of them comes and goes by a megabyte.
    """
    machine = machines("first")
    link = await machine.link()
    peaks = []
    for numbers in (range(3000), range(3000, 12_000)):
        many(machine.workspace, numbers)
        saved = await vault.save(link)
        await vault.save(link)
        peaks.append(peak_kb(link))
    assert saved.files == 12_000
    cost = (peaks[1] - peaks[0]) * 1024 / 9000
    assert 0 < cost < FILE_BYTES, f"{cost:.0f} bytes for a file"


@pytest.mark.long
async def test_a_hundred_thousand_small_files(vault: Any, machines: Any, look: Look) -> None:
    """Saved, saved again and restored."""
    machine, other = machines("first"), machines("second")
    many(machine.workspace, range(100_000))
    link, back = await machine.link(), await other.link()
    saved = await vault.save(link)
    await vault.save(link)
    await vault.restore(back, saved.name)
    assert look(other.workspace) == look(machine.workspace)
    print("peaks", peak_kb(link), peak_kb(back))
    assert max(peak_kb(link), peak_kb(back)) < MOST_KB


@pytest.mark.long
async def test_a_model_of_5_gb(vault: Any, machines: Any) -> None:
    """Saved and restored; every hash is compared by the agent."""
    machine, other = machines("first"), machines("second")
    for shard in range(10):
        draw = np.random.default_rng(shard)
        tensors = {
            f"layer{n}": bf16(draw.standard_normal(25_000_000, dtype=np.float32) * np.float32(0.02)) for n in range(10)
        }
        write_safetensors(machine.workspace / f"shard-{shard}.safetensors", tensors, {})
    link, back = await machine.link(), await other.link()
    saved = await vault.save(link)
    assert saved.bytes_total > 5 * 10**9 and saved.ratio is not None and saved.ratio > 1.5
    restored = await vault.restore(back, saved.name)
    places = sum(len(entry.chunks) for entry in vault.repository.manifest(saved.name).entries)
    assert restored.hashes_compared == places >= saved.chunks
    print("peaks", peak_kb(link), peak_kb(back))
    assert max(peak_kb(link), peak_kb(back)) < MOST_KB
