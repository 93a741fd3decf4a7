"""The conversation with an agent: what it refuses, and what counts as lost."""

import asyncio
import os
import signal
from typing import Any

import pytest

from dumont.agent import AgentFailed, AgentLink, AgentLost, Progress
from dumont.agent.protocol import data_messages, join_data


class Scripted:
    """The far end of a wire, played by the test."""

    def __init__(self, lines: list[bytes | None]) -> None:
        self.lines = lines
        self.closed = False

    async def send(self, line: bytes) -> None:
        if self.closed:
            raise ConnectionResetError

    async def receive(self) -> bytes | None:
        if not self.lines:
            await asyncio.Event().wait()
        return self.lines.pop(0)

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("lines", [[], [None], [b"not json"], [b"[1]"]], ids=["silence", "end", "junk", "list"])
async def test_silence_an_end_and_junk_all_mean_lost(lines: list[bytes | None]) -> None:
    """None of them says that something failed: what the agent did is unknown. The wire is closed."""
    wire = Scripted(lines)
    with pytest.raises(AgentLost):
        await AgentLink.open(wire, workspace_root="/w", silence_seconds=0.2)
    assert wire.closed


async def test_the_agent_refuses_what_it_does_not_know(machines: Any) -> None:
    """Unknown operations, requests before the greeting and broken data are answered, and the session goes on."""
    machine = machines("first")
    link = AgentLink(await machine.wire(), "x", 20.0)
    machine.links.append(link)
    with pytest.raises(AgentFailed) as failed:
        await link.request("compare", {"exclude": [], "data_key": "AAAA", "repository_id": "r"})
    assert failed.value.code == "no_hello"
    with pytest.raises(AgentFailed) as failed:
        await link.request("hello", {"protocol": 99, "workspace_root": str(machine.workspace)})
    assert failed.value.code == "wrong_protocol"
    with pytest.raises(AgentFailed) as failed:
        await link.request("dance", {})
    assert failed.value.code == "unknown_op"
    result, _ = await link.request("hello", {"protocol": 1, "workspace_root": str(machine.workspace)})
    assert result["free_bytes"] > 0 and result["recovered"] == "none"
    with pytest.raises(AgentFailed) as failed:
        await link.request("restore", {"data_key": "AAAA", "repository_id": "r"}, data=b"junk")
    assert failed.value.code == "bad_message"


async def test_requests_after_the_end_say_lost(machines: Any) -> None:
    """A killed agent fails the request under way and every later one."""
    link = await machines("first").link()
    waiting = asyncio.create_task(link.freeze("sleep 60"))
    await asyncio.sleep(0)
    os.kill(link.hello.pid, signal.SIGKILL)
    with pytest.raises(AgentLost):
        await waiting
    with pytest.raises(AgentLost):
        await link.thaw()


async def test_a_failing_progress_callback_is_the_callers_failure(vault: Any, machines: Any) -> None:
    """It ends that request with its own error; the conversation goes on."""
    machine = machines("first")
    (machine.workspace / "a").write_text("a" * 1000)
    link = await machine.link()
    kept = vault.progress

    class Full(list[Progress]):
        def append(self, _: Progress) -> None:
            raise RuntimeError("no room for progress")

    vault.progress = Full()
    with pytest.raises(RuntimeError, match="no room"):
        await vault.save(link)
    vault.progress = kept
    saved = await vault.save(link)
    assert vault.reopened().verify(saved.name).files == 1
    last = kept[-1]
    assert (last.phase, last.bytes_done, last.bytes_total) == ("save", 1000, 1000)


def test_data_of_any_size_survives_its_lines() -> None:
    """Bytes are cut into lines that a wire carries and joined again; broken ones are refused."""
    for data in (b"", b"x", os.urandom(3 << 20)):
        parts = [message["data"] for message in data_messages(1, data)]
        assert join_data(parts) == data and all(len(part) < 1 << 20 for part in parts)
    with pytest.raises(AgentFailed):
        join_data(["AAAA"])
    with pytest.raises(AgentFailed):
        join_data(["?"])


async def test_an_agent_whose_libraries_do_not_load_says_so(machines: Any) -> None:
    """It greets without them; whoever asks for work is told, and does not wait beside processes that stay frozen."""
    machine = machines("first")
    code = "import sys; sys.modules['cryptography'] = None; from dumont.agent.main import main; main()"
    link = await machine.link(code)
    for _ in range(2):
        with pytest.raises(AgentFailed) as failed:
            async with asyncio.timeout(60):
                await link.request("compare", {"exclude": [], "data_key": "AAAA", "repository_id": "r"})
        assert failed.value.code == "agent_bug" and "cryptography" in failed.value.detail
