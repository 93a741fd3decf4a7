"""Files that go under the reader, clocks that jump, keys that are others, packs that are short: told, and survived."""

import os
import random
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import AgentFailed
from dumont.agent.partial import RestorePlan
from dumont.agent.restore import dump_plan
from dumont.agent.workspace import _session_args
from dumont.vault import VerificationFailed, pack_columns, pack_name

Look = Callable[[Path], dict[str, tuple[object, ...]]]
RUN = "from dumont.agent.main import main; main()"
VANISHING = f"""
import os, dumont.agent.save as save
plain = save.open_regular
def late(path):
    if path.endswith((b'/small', b'/large')): os.unlink(path)
    return plain(path)
save.open_regular = late
{RUN}
"""
FAILING = f"""
import dumont.agent.pipeline as pipeline
plain = pipeline.read_into
def broken(descriptor, offset, view):
    if offset: raise OSError(5, 'Input/output error')
    return plain(descriptor, offset, view)
pipeline.read_into = broken
{RUN}
"""


def clock(days: int) -> str:
    """Return the code of an agent whose clock is so many days off."""
    shift = f"lambda: plain() + {days * 86_400 * 10**9}"
    return f"import time\nplain = time.time_ns\ntime.time_ns = {shift}\ntime.time = lambda: time.time_ns() / 1e9\n{RUN}"


async def test_files_that_vanish_are_named_and_the_rest_is_saved(vault: Any, machines: Any) -> None:
    """Between the look and the reading, small and large: unstable, so that no machine is destroyed on their account."""
    machine = machines("first")
    (machine.workspace / "small").write_text("small")
    (machine.workspace / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    (machine.workspace / "stays").write_text("stays")
    saved = await vault.save(await machine.link(VANISHING))
    assert (sorted(saved.unstable), saved.read_errors, saved.files) == (["large", "small"], [], 1)
    assert vault.reopened().verify(saved.name).files == 1


async def test_a_disk_that_fails_in_the_middle_of_a_file_is_told(vault: Any, machines: Any) -> None:
    """A file whose later parts cannot be read is no file of the snapshot, and is named with the reason."""
    machine = machines("first")
    (machine.workspace / "broken").write_bytes(random.Random(1).randbytes(9 << 20))
    (machine.workspace / "whole").write_text("whole")
    saved = await vault.save(await machine.link(FAILING))
    assert (saved.read_errors, saved.files) == ([("broken", "Input/output error")], 1)
    assert vault.reopened().verify(saved.name).files == 1


async def test_no_clock_makes_a_change_invisible(vault: Any, machines: Any, look: Look) -> None:
    """Years back, years ahead, and right again: what was written in between is in each snapshot."""
    machine, other = machines("first"), machines("second")
    back = await other.link()
    for number, days in enumerate((0, -4000, 4000, -1, 0)):
        (machine.workspace / f"new{number}").write_text(str(number))
        (machine.workspace / "same").write_text(f"{number:03}")
        os.utime(machine.workspace / "same", ns=(10**18, 10**18))
        saved = await vault.save(await machine.link(clock(days)))
        await vault.restore(back, saved.name)
        assert look(other.workspace) == look(machine.workspace)


async def test_addresses_that_are_too_old_are_asked_for_again(vault: Any, machines: Any, look: Look) -> None:
    """The control plane's clock jumped ahead between an address and its use: a new one is asked for."""
    machine, other = machines("first"), machines("second")
    (machine.workspace / "big").write_bytes(random.Random(1).randbytes(2 << 20))
    plain, asked = vault.gate.sign, []

    def sign(method: str, name: str, *, max_bytes: int, expires_in: float) -> str:
        old = method not in asked
        asked.append(method)
        return str(plain(method, name, max_bytes=max_bytes, expires_in=-60 if old else expires_in))

    vault.gate.sign = sign
    saved = await vault.save(await machine.link())
    await vault.restore(await other.link(), saved.name)
    assert look(other.workspace) == look(machine.workspace)
    assert asked == ["PUT", "PUT", "GET", "GET"]


async def test_another_key_or_a_short_pack_changes_nothing(
    vault: Any, machines: Any, look: Look, leftovers: Any
) -> None:
    """The target stays as it was, and the one who asks is told which pack it is."""
    machine, other = machines("first"), machines("second")
    (machine.workspace / "file").write_bytes(random.Random(1).randbytes(1 << 20))
    (other.workspace / "old").write_text("old")
    saved = await vault.save(await machine.link())
    before = look(other.workspace)
    back = await other.link()
    manifest = vault.repository.manifest(saved.name)
    places, _ = vault.repository.locate(manifest.chunks())
    data = dump_plan(RestorePlan([], places, manifest.merkle_root, []), pack_columns(manifest.entries))
    args = {**_session_args(vault.repository), "data_key": b64encode(b"x" * 32).decode()}

    async def answer(_: str, asked: dict[str, Any]) -> str:
        return f"{vault.url}{vault.gate.sign('GET', asked['name'], max_bytes=asked['size'], expires_in=60)}"

    with pytest.raises(AgentFailed) as failed:
        await back.request("restore", args, data=data, on_ask=answer)
    assert failed.value.code == "damaged"
    assert (look(other.workspace), leftovers(other.workspace)) == (before, [])
    ((pack, size),) = vault.repository.packs_in_store().items()
    os.truncate(vault.store.root / pack_name(pack), size - 1)
    with pytest.raises(VerificationFailed) as short:
        await vault.restore(back, saved.name)
    assert short.value.missing == [pack_name(pack)]
    assert (look(other.workspace), leftovers(other.workspace)) == (before, [])
