"""An agent on this machine, so that a plain folder can be saved and restored as a rented machine's workspace is."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dumont.agent import AgentLink
from dumont.snapshots.service import Vaults
from dumont.vault import Gate

_LINE_BYTES = 4 << 20
_END_SECONDS = 10.0
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH")


@dataclass
class _Pipes:
    """The wire to a process of ours."""

    process: asyncio.subprocess.Process

    async def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()

    async def receive(self) -> bytes | None:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return line.rstrip(b"\n") if line.endswith(b"\n") else None

    async def close(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), _END_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def agent_here(vaults: Vaults, workspace_id: str, folder: Path) -> AsyncIterator[tuple[AgentLink, Gate, str]]:
    """Give an agent whose workspace is a folder of this machine, and the gate to one workspace's objects.

    Errors: StorageUnreachable; AgentFailed, AgentLost.
    """
    gate = vaults.gate(workspace_id)
    url = f"http://127.0.0.1:{gate.start()}"
    try:
        with tempfile.TemporaryDirectory(prefix="dumont-agent-") as home:
            environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dumont.agent"),
                env={**environ, "HOME": home},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
            )
            link = await AgentLink.open(_Pipes(process), workspace_root=str(folder))
            try:
                yield link, gate, url
            finally:
                await link.close()
    finally:
        gate.stop()
