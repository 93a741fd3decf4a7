"""What the hands do: commands, files, the wire and the tunnel back."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from dumont.remote import RemoteError, RemoteUnreachable, SshIdentity, connect

from .conftest import ServerStarter, until


async def test_run_returns_streams_and_status(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """Standard streams and the exit status come back; a command that reads no input does not hurt."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        finished = await hands.run("cat; echo oops >&2; exit 3", timeout=60, input=b"line\xff\n")
        assert (finished.exit_status, finished.stdout, finished.stderr) == (3, "line\ufffd\n", "oops\n")
        assert (await hands.run("exit 0", timeout=60, input=b"x" * 3_000_000)).exit_status == 0


async def test_run_that_lasts_too_long_is_unknown(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """Past its time a command's outcome is unknown, and the login still serves the next one."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        began = time.monotonic()
        with pytest.raises(RemoteUnreachable, match="did not end"):
            await hands.run("sleep 600", timeout=0.3)
        assert time.monotonic() - began < 60
        assert (await hands.run("echo on", timeout=60)).stdout == "on\n"


async def test_command_without_a_status_is_unknown(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A channel that closes without saying how the command ended is no result, whatever was printed."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        with pytest.raises(RemoteUnreachable, match="lost"):
            await hands.run("vanish", timeout=60)


async def test_endless_output_is_refused(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A host that talks without end cannot fill our memory."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        with pytest.raises(RemoteError, match="16 MiB"):
            await hands.run("yes", timeout=120)


async def test_files_arrive_whole_with_mode(ssh_server: ServerStarter, identity: SshIdentity, tmp_path: Path) -> None:
    """Files land byte-exact under new folders with their mode, replace what was there, and leave nothing beside."""
    content = os.urandom(300_000)
    local = tmp_path / "local.bin"
    local.write_bytes(content)
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        assert await hands.home() == str(server.home)
        await hands.put_bytes(b"old", "deep/er/file")
        await hands.put_file(local, f"{await hands.home()}/deep/er/file", 0o750)
        await hands.put_bytes(b"secret", "deep/er/note", 0o600)
        assert await hands.exists("deep/er/file")
        assert not await hands.exists("deep/er/none")
    folder = server.home / "deep" / "er"
    assert (folder / "file").read_bytes() == content
    assert (folder / "file").stat().st_mode & 0o777 == 0o750
    assert (folder / "note").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["file", "note"]


async def test_refused_file_leaves_nothing(ssh_server: ServerStarter, identity: SshIdentity, tmp_path: Path) -> None:
    """A target that cannot be written, or a local file that is not there, is a refusal and no half file."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        (server.home / "folder").mkdir()
        with pytest.raises(RemoteError) as refusal:
            await hands.put_bytes(b"x", "folder")
        assert not isinstance(refusal.value, RemoteUnreachable)
        with pytest.raises(RemoteError, match="cannot be read"):
            await hands.put_file(tmp_path / "none", "there")
        assert [path.name for path in server.home.iterdir()] == ["folder"]


async def test_wire_carries_lines_both_ways(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """Login noise is skipped, lines of megabytes pass whole, and the end is None with the last error text kept."""
    command = "head -n 1; echo plain; echo dying >&2; printf '{\"cut'"
    async with ssh_server(profile="echo welcome; echo;\n") as server:
        async with connect(server.at, identity, host_key=None) as hands:
            wire = await hands.open_wire(command)
            message = json.dumps({"text": "x" * 3_000_000}).encode()
            await wire.send(message)
            assert await wire.receive() == message
            assert await wire.receive() == b"plain"
            assert await wire.receive() is None
            await until(lambda: wire.stderr_tail == "dying\n")
            with pytest.raises(ConnectionError):
                await until(lambda: _sent(wire))
            await wire.close()
            await wire.close()


async def _sent(wire: object) -> bool:
    await wire.send(b"{}")  # type: ignore[attr-defined]
    return False


async def test_wire_refuses_lines_that_are_too_long(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """More than 4 MiB in one line is refused in both directions, and so is a newline inside."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        wire = await hands.open_wire("printf '{'; head -c 6000000 /dev/zero; sleep 600")
        for line in (b"a\nb", b"x" * (4 << 20) + b"y"):
            with pytest.raises(ValueError, match="4 MiB"):
                await wire.send(line)
        with pytest.raises(RemoteError, match="4 MiB"):
            await asyncio.wait_for(wire.receive(), 60)


async def test_wire_ends_when_its_program_is_killed(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A killed program ends the wire instead of leaving the reader waiting."""
    async with ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        wire = await hands.open_wire("exec sleep 600")
        await until(lambda: len(server.children) == 1)
        server.children[0].kill()
        assert await asyncio.wait_for(wire.receive(), 60) is None


async def test_forward_back_reaches_our_port(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A program on the machine reaches our server through the tunnel, and no longer after the block."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"from home:" + await reader.readline())
        writer.close()

    ours = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with ours, ssh_server() as server, connect(server.at, identity, host_key=None) as hands:
        async with hands.forward_back("127.0.0.1", ours.sockets[0].getsockname()[1]) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            assert await asyncio.wait_for(reader.read(), 60) == b"from home:hello\n"
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_forward_back_may_be_forbidden(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A server that allows no tunnel is a refusal that says so."""
    async with ssh_server(tunnels=False) as server, connect(server.at, identity, host_key=None) as hands:
        with pytest.raises(RemoteError, match="tunnel"):
            async with hands.forward_back("127.0.0.1", 1):
                pass
