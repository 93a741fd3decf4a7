"""Freezing stops this machine's processes and nobody else's; they always go on afterwards."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import AgentFailed
from dumont.agent.freeze import Scope, scope_of

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def sleepers() -> Iterator[Any]:
    """Start processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(environ: dict[str, str]) -> int:
        process = subprocess.Popen(SLEEP, env=environ, start_new_session=True)
        started.append(process)
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_only_marked_processes_stop_and_they_go_on(machines: Any, sleepers: Any, wait_until: Any) -> None:
    """Two of this machine stop; one of another machine, one unmarked and one already stopped are left as they are."""
    machine = machines("first")
    marked = [sleepers(machine.environ), sleepers(machine.environ)]
    other = sleepers({**machine.environ, "DUMONT_MACHINE": machine.marker + "0"})
    plain = sleepers({"PATH": os.environ["PATH"]})
    held = sleepers(machine.environ)
    await wait_until(lambda: b"time.sleep" in Path(f"/proc/{held}/cmdline").read_bytes())
    os.kill(held, signal.SIGSTOP)
    await wait_until(lambda: state(held) == "T")
    link = await machine.link()
    (machine.home / "workspace" / "note").write_text("")
    assert await link.freeze("echo saved > note") == 2
    await wait_until(lambda: [state(pid) for pid in marked] == ["T", "T"])
    for pid in (other, plain, link.hello.pid):  # one that is stopped never comes to sleep
        await wait_until(lambda pid=pid: state(pid) == "S")
    assert (machine.workspace / "note").read_text() == "saved\n"
    assert await link.thaw("echo awake > note") == 2
    await wait_until(lambda: [state(pid) for pid in marked] == ["S", "S"])
    assert state(held) == "T" and (machine.workspace / "note").read_text() == "awake\n"


async def test_processes_go_on_when_the_wire_ends(machines: Any, sleepers: Any, wait_until: Any) -> None:
    """A control plane that disappears does not leave the user's job stopped."""
    machine = machines("first")
    pid = sleepers(machine.environ)
    link = await machine.link()
    assert await link.freeze() == 1
    await wait_until(lambda: state(pid) == "T")
    await link.close()
    await wait_until(lambda: state(pid) == "S")


async def test_a_hold_outlasts_the_wire_for_its_time(machines: Any, sleepers: Any, wait_until: Any) -> None:
    """What is held stays frozen when the wire ends, and goes on by itself when the hold is over."""
    machine = machines("first")
    pid = sleepers(machine.environ)
    link = await machine.link()
    await link.freeze()
    begun = time.monotonic()
    await link.hold(1.5)
    closing = asyncio.create_task(link.close())
    await wait_until(lambda: state(pid) == "S")
    assert time.monotonic() - begun >= 1.5
    await closing


async def test_the_next_agent_ends_a_hold(machines: Any, sleepers: Any, wait_until: Any) -> None:
    """A machine that was not stopped after all is not thawed by the old agent in the middle of the next save."""
    machine = machines("first")
    pid = sleepers(machine.environ)
    first = await machine.link()
    await first.freeze()
    await first.hold(120)
    closing = asyncio.create_task(first.close())
    second = await machine.link()
    await wait_until(lambda: state(pid) == "S")
    assert await second.freeze() == 1
    await wait_until(lambda: state(pid) == "T")
    await closing
    await wait_until(lambda: not Path(f"/proc/{first.hello.pid}").exists())
    assert state(pid) == "T"
    await second.close()
    await wait_until(lambda: state(pid) == "S")


async def test_processes_go_on_with_the_next_agent_after_kill_9(machines: Any, sleepers: Any, wait_until: Any) -> None:
    """A killed agent cannot thaw; the next one does it as it starts."""
    machine = machines("first")
    pid = sleepers(machine.environ)
    link = await machine.link()
    await link.freeze()
    await wait_until(lambda: state(pid) == "T")
    os.kill(link.hello.pid, signal.SIGKILL)
    await machine.wires[0].process.wait()
    assert state(pid) == "T"
    await machine.link()
    await wait_until(lambda: state(pid) == "S")


async def test_a_failing_command_freezes_nothing(machines: Any, sleepers: Any, wait_until: Any) -> None:
    """`before_hibernate` that fails is reported with its words; the job goes on."""
    machine = machines("first")
    pid = sleepers(machine.environ)
    link = await machine.link()
    with pytest.raises(AgentFailed) as failed:
        await link.freeze("echo checkpoint impossible >&2; exit 3")
    assert failed.value.code == "before_hibernate_failed"
    assert "status 3" in failed.value.detail and "checkpoint impossible" in failed.value.detail
    await wait_until(lambda: state(pid) == "S")


def test_outside_a_machine_nothing_may_be_frozen() -> None:
    """No marker and no container: refused. A marker wins over a container."""
    with pytest.raises(AgentFailed) as failed:
        scope_of({}, container_files=["/nowhere/at/all"])
    assert failed.value.code == "not_a_machine" and "nothing was frozen" in failed.value.detail
    assert scope_of({"DUMONT_MACHINE": "m1", "VAST_CONTAINERLABEL": "C.1"}) == Scope(b"DUMONT_MACHINE=m1")
    assert scope_of({"VAST_CONTAINERLABEL": "C.1"}, container_files=[]) == Scope(None)
