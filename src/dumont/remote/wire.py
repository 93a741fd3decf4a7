"""A wire of JSON lines to a program on the machine, over the standard streams of one SSH command."""

import asyncio
from contextlib import suppress

import asyncssh

from dumont.remote.errors import RemoteError, RemoteUnreachable, translated

MAX_LINE = 4 << 20
_MAX_NOISE = 1 << 20
_STDERR_KEPT = 8 << 10
_CLOSE_SECONDS = 3.0


class Wire:
    """One line is one message. One task may receive while others send.

    Guarantees: whatever a login shell prints before the first line that begins with "{" is skipped.
    """

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]", where: str) -> None:
        self._process = process
        self._where = where
        self._buffer = bytearray()
        self._speaking = False
        self._noise = 0
        self._stderr = bytearray()
        self._sending = asyncio.Lock()
        self._drain = asyncio.create_task(self._keep_stderr())

    @property
    def stderr_tail(self) -> str:
        """The last 8 KiB that the program wrote to its standard error."""
        return self._stderr.decode(errors="replace")

    async def send(self, line: bytes) -> None:
        """Send one line, given without its newline; waits while the other side does not read.

        Errors: ValueError for a newline inside or more than 4 MiB; RemoteUnreachable when the wire has ended.
        """
        if b"\n" in line or len(line) > MAX_LINE:
            raise ValueError("a line of the wire holds no newline and at most 4 MiB")
        with translated(self._where):
            async with self._sending:
                if self._process.is_closing():
                    raise RemoteUnreachable(f"The program on {self._where} has ended.")
                self._process.stdin.write(line + b"\n")
                await self._process.stdin.drain()

    async def receive(self) -> bytes | None:
        """Return the next line without its newline, or None when the program or the connection has ended.

        Guarantees: never returns a line that was cut off. Why it ended is unknown here; see `stderr_tail`.
        Errors: RemoteError for a line longer than 4 MiB, or endless noise before the first message.
        """
        while True:
            line = self._next_line()
            if line is not None and self._is_message(line):
                return line
            if line is None and not await self._fill():
                return None

    def _next_line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end > MAX_LINE or (end < 0 and len(self._buffer) > MAX_LINE):
            raise RemoteError(f"The program on {self._where} sent a line of more than 4 MiB.")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _is_message(self, line: bytes) -> bool:
        if not self._speaking and not line.startswith(b"{"):
            self._noise += len(line) + 1
            if self._noise > _MAX_NOISE:
                raise RemoteError(f"The program on {self._where} sent noise only.")
            return False
        self._speaking = True
        return True

    async def _fill(self) -> bool:
        try:
            piece = await self._process.stdout.read(256 << 10)
        except (asyncssh.Error, OSError):
            return False
        self._buffer += piece
        return bool(piece)

    async def _keep_stderr(self) -> None:
        with suppress(asyncssh.Error, OSError):
            while piece := await self._process.stderr.read(64 << 10):
                self._stderr += piece
                del self._stderr[:-_STDERR_KEPT]

    async def close(self) -> None:
        """End the program's input and close the channel. May be called twice."""
        with suppress(asyncssh.Error, OSError):
            if not self._process.is_closing():
                self._process.stdin.write_eof()
            self._process.close()
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._process.wait_closed()
        self._drain.cancel()
        with suppress(asyncio.CancelledError):
            await self._drain
