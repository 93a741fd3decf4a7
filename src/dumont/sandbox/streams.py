"""Carries bytes between an SSH channel and the pipes or the terminal of a command, losing none at either end."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import IO

import asyncssh
from asyncssh.misc import BreakReceived, SignalReceived, TerminalSizeChanged

_CHUNK = 65_536


async def carry(
    process: "asyncssh.SSHServerProcess[bytes]",
    child: asyncio.subprocess.Process,
    stdin: int,
    outputs: "list[tuple[int, asyncssh.SSHWriter[bytes]]]",
    resized: Callable[[tuple[int, int, int, int]], None],
) -> int | None:
    """Carry until the command has ended and nobody holds its output, as sshd does, and return its status.

    Returns None when the client left before; the command goes on without it. The descriptors are closed here.
    """
    sink = os.fdopen(stdin, "wb", buffering=0)
    sources = [(os.fdopen(fd, "rb", buffering=0), writer) for fd, writer in outputs]
    for stream in (sink, *(source for source, _ in sources)):
        os.set_blocking(stream.fileno(), False)
    feeding = asyncio.create_task(_feed(process, child.pid, sink, resized))
    left = asyncio.create_task(process.wait_closed())
    done = asyncio.create_task(_ended(child, [_drain(source.fileno(), writer) for source, writer in sources]))
    try:
        await asyncio.wait({left, done}, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None
    finally:
        for task in (feeding, left, done):
            task.cancel()
        await asyncio.gather(feeding, left, done, return_exceptions=True)
        for stream in (sink, *(source for source, _ in sources)):
            stream.close()


async def _ended(child: asyncio.subprocess.Process, drains: list[Coroutine[None, None, None]]) -> int:
    await asyncio.gather(*drains)
    return await child.wait()


async def _feed(
    process: "asyncssh.SSHServerProcess[bytes]",
    pid: int,
    sink: IO[bytes],
    resized: Callable[[tuple[int, int, int, int]], None],
) -> None:
    reading = True
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except TerminalSizeChanged as change:
            resized(change.term_size)
            continue
        except SignalReceived as received:
            _send(pid, received.signal)
            continue
        except BreakReceived:
            _send(pid, "INT")
            continue
        if not data:
            break
        if reading:
            reading = await _write(sink.fileno(), data)
    sink.close()


async def _write(descriptor: int, data: bytes) -> bool:
    """Write all of it; False once nobody reads any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            await _ready(descriptor, writing=True)
        except OSError:
            return False
    return True


async def _drain(descriptor: int, writer: "asyncssh.SSHWriter[bytes]") -> None:
    while True:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            await _ready(descriptor, writing=False)
            continue
        except OSError:
            # A terminal whose last process is gone answers EIO where a pipe answers with an end.
            return
        if not data:
            return
        try:
            writer.write(data)
            await writer.drain()
        except (OSError, asyncssh.Error):
            return
        await asyncio.sleep(0)


async def _ready(descriptor: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_writer if writing else loop.add_reader)(descriptor, wake)
    try:
        await ready
    finally:
        (loop.remove_writer if writing else loop.remove_reader)(descriptor)


def _send(pid: int, name: str) -> None:
    number = getattr(signal, f"SIG{name}", None)
    if isinstance(number, signal.Signals):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
