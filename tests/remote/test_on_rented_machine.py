"""The hands on a machine of the sandbox: the same work as on a rented one, with stop and start in between."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.sandbox import SandboxProcess

from dumont.remote import Hands, RemoteUnreachable, SshIdentity, connect

from .conftest import At


def _at(sandbox: SandboxProcess, number: int) -> At:
    shown = sandbox.wait_for(number, "running")
    return At(shown["ssh_host"], int(shown["ssh_port"]))


async def test_files_wire_and_tunnel(
    sandboxes: Callable[..., SandboxProcess],
    identity: SshIdentity,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files, a wire and a tunnel work on a rented machine; host key and files outlive a stop; no command is logged."""
    caplog.set_level(logging.INFO)
    sandbox = await asyncio.to_thread(sandboxes)
    await asyncio.to_thread(sandbox.add_key, identity.public_key)
    number = await asyncio.to_thread(sandbox.rent)
    at = await asyncio.to_thread(_at, sandbox, number)
    local = tmp_path / "bundle"
    local.write_bytes(os.urandom(200_000))

    async with connect(at, identity, host_key=None) as hands:
        home, host_key = await hands.home(), hands.host_key
        await hands.put_file(local, f"{home}/.dumont/bundle", 0o700)
        await hands.put_bytes(b"kept", "workspace/note")
        assert (Path(home) / ".dumont" / "bundle").read_bytes() == local.read_bytes()
        wire = await hands.open_wire("cat")
        await wire.send(b'{"hello": "there"}')
        assert await asyncio.wait_for(wire.receive(), 60) == b'{"hello": "there"}'
        await _reach_us_from_there(hands)

    await asyncio.to_thread(sandbox.call, "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    await asyncio.to_thread(sandbox.wait_for, number, "exited")
    with pytest.raises(RemoteUnreachable):
        async with connect(at, identity, host_key=host_key):
            pass
    await asyncio.to_thread(sandbox.call, "PUT", f"/api/v0/instances/{number}/", {"state": "running"})
    at = await asyncio.to_thread(_at, sandbox, number)
    async with connect(at, identity, host_key=host_key) as hands:
        assert (await hands.run("cat workspace/note; : signed-address", timeout=60)).stdout == "kept"
        sandbox.control.kill_host(number)
        with pytest.raises(RemoteUnreachable):
            await hands.run("echo still here", timeout=60)
    assert "signed-address" not in caplog.text


async def _reach_us_from_there(hands: Hands) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + (await reader.readline()))
        writer.close()

    ours = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with ours, hands.forward_back("127.0.0.1", ours.sockets[0].getsockname()[1]) as port:
        script = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/blob').read().decode())"
        finished = await hands.run(f'python3 -c "{script}"', timeout=60)
        assert finished.stdout.startswith("GET /blob"), finished
