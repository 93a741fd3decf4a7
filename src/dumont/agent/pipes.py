"""The wire to an agent that is a process of ours on this machine, over its standard streams."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LINE_BYTES = 4 << 20
_END_SECONDS = 10.0


@dataclass
class Pipes:
    """Lines to and from a process; closing them ends it."""

    process: asyncio.subprocess.Process

    @classmethod
    async def to(cls, command: Sequence[str], environ: Mapping[str, str], folder: Path | None = None) -> "Pipes":
        """Start a process and return the wire to it."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=dict(environ), stdin=pipe, stdout=pipe, limit=_LINE_BYTES
        )
        return cls(process)

    async def send(self, line: bytes) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()

    async def receive(self) -> bytes | None:
        """Return the next line, None at the end."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return line.rstrip(b"\n") if line.endswith(b"\n") else None

    async def close(self) -> None:
        """End the conversation and, within a while, the process."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), _END_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
