"""Machines are real: folders, processes, SSH, and a life that survives stops and crashes."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from tests.support.sandbox import SandboxProcess, wait_until

Start = Callable[..., SandboxProcess]
Login = Callable[[dict[str, Any]], Any]


async def _ran(login: Login, instance: dict[str, Any], command: str, **options: Any) -> asyncssh.SSHCompletedProcess:
    async with login(instance) as connection:
        return await connection.run(command, **options)


def _host_key(port: int) -> str:
    async def ask() -> str:
        key = await asyncssh.get_server_host_key("127.0.0.1", port)
        assert key is not None
        return key.export_public_key().decode()

    return asyncio.run(ask())


def _listens(port: int) -> bool:
    async def ask() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(ask())


def test_a_life_from_rent_to_destruction(shared: SandboxProcess, login: Login) -> None:
    """What is written stays through a stop and a start; a stop ends every process; destruction leaves nothing."""
    box = shared
    number = box.rent(env={"GREETING": "hello"}, label="life")
    up = box.wait_for(number, "running")
    hidden = "setsid sleep 600 >/dev/null 2>&1 & trap '' TERM; nohup sleep 600 >/dev/null 2>&1 &"
    done = asyncio.run(_ran(login, up, f'{hidden} echo "$GREETING" > workspace/said; pwd; echo "$DUMONT_MACHINE"'))
    assert (done.stdout, done.exit_status) == (f"{Path(up['workspace_root']).parent}\n{number}\n", 0)
    wait_until(lambda: len(box.processes(number)) == 2, what="two hidden processes")

    assert box.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"}) == (200, {"success": True})
    down = box.wait_for(number, "exited")
    assert "ports" not in down and down["ssh_port"] is None and down["cur_state"] == "stopped"
    assert box.processes(number) == [] and not _listens(up["ssh_port"])

    assert box.call("PUT", f"/api/v0/instances/{number}/", {"state": "running"}) == (200, {"success": True})
    again = box.wait_for(number, "running")
    assert again["ssh_port"] == up["ssh_port"]
    read = asyncio.run(_ran(login, again, "cat workspace/said; sleep 600 >/dev/null 2>&1 & exit 5"))
    assert (read.stdout, read.exit_status) == ("hello\n", 5)

    assert box.call("DELETE", f"/api/v0/instances/{number}/", {})[0] == 200
    assert box.instance(number) is None and box.processes(number) == []
    assert not (box.home / "machines" / str(number)).exists()
    assert box.call("DELETE", f"/api/v0/instances/{number}/", {})[1]["error"] == "no_such_instance"
    assert box.rent() > number


def test_only_root_with_a_known_key_gets_in(sandboxes: Start, login: Login, public_key: str) -> None:
    """A machine admits the keys of its creation and attached ones, at once, until they are detached."""
    box = sandboxes()
    number = box.rent()
    up = box.wait_for(number, "running")
    box.add_key(public_key)
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(_ran(login, up, "true"))
    assert box.call("POST", f"/api/v0/instances/{number}/ssh/", {"ssh_key": public_key + " a-comment"})[0] == 200
    assert asyncio.run(_ran(login, up, "echo in")).stdout == "in\n"
    key = box.call("GET", "/api/v0/ssh/")[1][0]["id"]
    assert box.call("DELETE", f"/api/v0/instances/{number}/ssh/{key}/", {})[0] == 200
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(_ran(login, up, "true"))


async def test_ssh_carries_commands_files_and_tunnels(shared: SandboxProcess, login: Login, tmp_path: Path) -> None:
    """Exec with stdin and status, a terminal, SFTP by both kinds of path, and forwarding in both directions."""
    box = shared
    up = box.wait_for(box.rent(), "running")
    async with login(up) as connection:
        data = os.urandom(2_000_000)
        echoed = await connection.run("cat; echo no >&2; kill -USR1 $$", input=data, encoding=None)
        assert (echoed.stdout, echoed.stderr, echoed.exit_signal[0]) == (data, b"no\n", "USR1")
        shell = await connection.run(
            term_type="xterm", term_size=(101, 37), input="test -t 0 && stty size; exit 3\n", stderr=asyncssh.STDOUT
        )
        assert "37 101" in str(shell.stdout) and shell.exit_status == 3
        await _check_sftp(connection, Path(up["workspace_root"]), data, tmp_path)
        await _check_tunnels(connection)


async def _check_sftp(connection: asyncssh.SSHClientConnection, workspace: Path, data: bytes, tmp_path: Path) -> None:
    async with connection.start_sftp_client() as files:
        assert await files.getcwd() == str(workspace.parent)
        async with files.open("workspace/blob", "wb") as stream:
            await stream.write(data)
        await files.symlink("/usr/bin/env", "workspace/link")
        assert await files.readlink("workspace/link") == "/usr/bin/env"
        await files.get(str(workspace / "blob"), tmp_path / "back")
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await files.put(tmp_path / "back", str(tmp_path / "stolen"))
    assert (tmp_path / "back").read_bytes() == data == (workspace / "blob").read_bytes()
    assert not (tmp_path / "stolen").exists()


async def _check_tunnels(connection: asyncssh.SSHClientConnection) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.readline())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port) as back:
            asked = await connection.run(f"exec 3<>/dev/tcp/127.0.0.1/{back.get_port()}; echo back >&3; cat <&3")
        async with connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", port) as there:
            reader, writer = await asyncio.open_connection("127.0.0.1", there.get_port())
            writer.write(b"there\n")
            assert await reader.read() == b"got there\n"
            writer.close()
    assert asked.stdout == "got back\n"
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_connection("192.0.2.1", 80)


def test_a_polite_restart_brings_machines_back(sandboxes: Start, login: Login, public_key: str) -> None:
    """Same folder, port and host key; stopped ones stay stopped; processes are gone; onstart ran again."""
    box = sandboxes()
    box.add_key(public_key)
    number, idle = box.rent(onstart="echo up >> starts; sleep 600"), box.rent()
    up = box.wait_for(number, "running")
    box.wait_for(idle, "running")
    box.call("PUT", f"/api/v0/instances/{idle}/", {"state": "stopped"})
    box.wait_for(idle, "exited")
    wait_until(lambda: box.processes(number), what="onstart to run")
    key = _host_key(up["ssh_port"])
    box.stop()
    assert box.processes() == [] and not _listens(up["ssh_port"])

    back = sandboxes(home=box.home)
    again = back.wait_for(number, "running")
    assert (again["ssh_port"], _host_key(again["ssh_port"])) == (up["ssh_port"], key)
    assert again["workspace_root"] == up["workspace_root"]
    wait_until(lambda: asyncio.run(_ran(login, again, "cat starts")).stdout == "up\nup\n", what="a second start")
    shown = back.instance(idle)
    assert shown is not None and shown["actual_status"] == "exited"


def test_after_a_crash_nothing_of_the_gap_is_billed(sandboxes: Start, login: Login, public_key: str) -> None:
    """kill -9 bills at most up to the last heartbeat; the restart ends the orphans and goes on billing from then."""
    box = sandboxes()
    box.add_key(public_key)
    number = box.rent()
    up = box.wait_for(number, "running")
    asyncio.run(_ran(login, up, "sleep 600 >/dev/null 2>&1 &"))
    orphan = wait_until(lambda: box.processes(number), what="a process")
    box.kill9()
    killed = time.time()
    assert len(orphan) == 1 and box.processes(number) == orphan
    back = sandboxes(home=box.home)
    back.wait_for(number, "running")
    assert back.processes(number) == []
    spans = back.control.line(number).spans
    assert all(span["to"] is not None for span in spans[:-1])
    before = [span for span in spans if span["from"] <= killed]
    assert before and before != spans and all(span["to"] <= killed for span in before)


def test_a_pulled_plug_and_its_return(sandboxes: Start, login: Login, public_key: str) -> None:
    """A dead host shows offline, answers no SSH, keeps no process, costs nothing and stays so until restored."""
    box = sandboxes(speed=3600)
    box.add_key(public_key)
    number = box.rent()
    up = box.wait_for(number, "running")
    asyncio.run(_ran(login, up, "echo kept > workspace/f; sleep 600 >/dev/null 2>&1 &"))
    box.control.kill_host(number)
    dark = box.wait_for(number, "offline")
    assert "ports" not in dark and dark["cur_state"] == "running"
    assert box.processes(number) == [] and not _listens(up["ssh_port"])
    cost = box.control.line(number).total_nanousd
    assert cost > 0 and up["machine_id"] not in {offer["machine_id"] for offer in box.offers()}
    later = box.control.state()["now"] + 600
    wait_until(lambda: box.control.state()["now"] > later)
    assert box.control.line(number).total_nanousd == cost
    box.control.restore_host(number)
    again = box.wait_for(number, "running")
    assert asyncio.run(_ran(login, again, "cat workspace/f")).stdout == "kept\n"


def test_frozen_processes_end_too(shared: SandboxProcess, login: Login) -> None:
    """A stop ends processes that were suspended, as the agent leaves them when it loses its connection."""
    box = shared
    number = box.rent()
    up = box.wait_for(number, "running")
    asyncio.run(_ran(login, up, "sleep 600 >/dev/null 2>&1 &"))
    for pid in box.processes(number):
        os.kill(pid, signal.SIGSTOP)
    box.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    box.wait_for(number, "exited")
    assert box.processes(number) == []


def test_nvidia_smi_shows_what_was_rented_and_the_load(shared: SandboxProcess, login: Login) -> None:
    """Names, counts, memory and load come from the offer and the load file; busy GPUs name a process."""
    box = shared
    offer = box.offers(gpu_name={"eq": "RTX_4090"}, num_gpus={"eq": 4})[0]
    up = box.wait_for(number := box.rent(offer["id"]), "running")
    listed = asyncio.run(_ran(login, up, "nvidia-smi -L")).stdout.splitlines()
    assert len(listed) == 4 and all("NVIDIA GeForce RTX 4090" in line for line in listed)
    query = "nvidia-smi --query-gpu=index,utilization.gpu,memory.total --format=csv,noheader,nounits"
    assert asyncio.run(_ran(login, up, query)).stdout.splitlines()[3] == "3, 0, 24564"
    apps = "sleep 600 & nvidia-smi --query-compute-apps=pid,name --format=csv,noheader; kill $!"
    assert asyncio.run(_ran(login, up, apps)).stdout == ""
    box.control.set_load(number, 73)
    assert asyncio.run(_ran(login, up, query)).stdout.splitlines()[0] == "0, 73, 24564"
    assert asyncio.run(_ran(login, up, apps)).stdout.count(", sleep") == 4
    header = asyncio.run(_ran(login, up, "nvidia-smi --query-gpu=utilization.gpu,power.draw --format=csv")).stdout
    assert header.splitlines()[:2] == ["utilization.gpu [%], power.draw [W]", "73 %, 325.00 W"]
    wrong = asyncio.run(_ran(login, up, "nvidia-smi --query-gpu=nonsense --format=csv,noheader"))
    assert wrong.exit_status == 2 and "not a valid field" in str(wrong.stdout)
