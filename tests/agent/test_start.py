"""The agent is brought to a machine once, runs from its own bundle, and says clearly where it cannot."""

import asyncio
import os
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import source_from_cache
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import AgentFailed, AgentLink, Pipes, start_agent
from dumont.agent.bundle import DISTRIBUTIONS, LOCK
from dumont.agent.start import probe

from .conftest import eventually


@dataclass
class Ran:
    exit_status: int
    stdout: str
    stderr: str


class ShellHands:
    """Hands over a local shell with its own home: what an SSH login would do."""

    def __init__(self, machine: Any, path: str | None = None) -> None:
        self.machine = machine
        self.pushed: list[str] = []
        self.environ = {**machine.environ, **({"PATH": path} if path else {})}
        self.environ.pop("PYTHONPATH")

    async def run(self, command: str, *, timeout: float, input: bytes | None = None) -> Ran:  # noqa: A002
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", command), env=self.environ, cwd=self.machine.home, stdout=-1, stderr=-1, stdin=-3
        )
        out, err = await asyncio.wait_for(process.communicate(input), timeout)
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def put_file(self, local: Path, remote: str, mode: int | None = None) -> None:
        Path(remote).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(local, remote)
        self.pushed.append(remote)

    async def exists(self, remote: str) -> bool:
        return Path(remote).exists()

    async def home(self) -> str:
        return str(self.machine.home)

    async def open_wire(self, command: str) -> Any:
        return self.machine.adopt(await Pipes.to(["/bin/sh", "-c", command], self.environ, Path("/")))


async def loaded(pid: int) -> str:
    """Return what an agent has loaded once it is ready for work."""
    maps = Path(f"/proc/{pid}/maps")
    await eventually(lambda: "/_rust." in maps.read_text())
    return maps.read_text()


async def test_the_bundle_is_pushed_once_and_runs_isolated(machines: Callable[[str], Any], tmp_path: Path) -> None:
    """The second start finds the bundle; a module of the user's that shadows ours does not get in.

    All of it is compiled already: nothing is when an agent starts.
    """
    machine = machines("first")
    hands = ShellHands(machine)
    (machine.home / "msgpack.py").write_text("raise SystemExit('shadowed')")
    for _ in range(2):
        link = await AgentLink.open(
            await start_agent(hands, cache=tmp_path / "cache"), workspace_root=str(machine.workspace)
        )
        modules = await loaded(link.hello.pid)
        assert str(machine.home / ".dumont" / "agent") in modules
        assert "site-packages/cryptography" not in modules
        await link.close()
    assert len(hands.pushed) == 1
    (folder,) = (machine.home / ".dumont" / "agent").iterdir()
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import numpy\n"
        "from dumont.vault.codecs import WIDTHS, Codec, _encoded, decode\n"
        "for codec, parameter in ((1, 0), (2, 2)):\n"
        "    body = b''.join(_encoded(bytes(range(256)), Codec(codec), parameter))\n"
        "    assert decode(codec, parameter, body, 256) == bytes(range(256))\n"
        "from dumont.vault.planes import Floats, split\n"
        "assert all(decode(3, *split(bytes(range(256)), Floats(kind)), 256) == bytes(range(256)) for kind in (1, 3))\n"
        "from dumont.vault.coder import _coder\n"
        "print(numpy.__file__, type(_coder()).__name__)"
    )
    ran = await hands.run(f"{shlex.quote(sys.executable)} -I -c {shlex.quote(code)}", timeout=30)
    assert ran.stdout.startswith(str(folder)) and ran.stdout.endswith("_Whole\n"), ran.stderr
    (archive,) = (tmp_path / "cache").iterdir()
    with tarfile.open(archive) as opened:
        compiled = {
            str(folder / member.name): opened.extractfile(member).read()  # type: ignore[union-attr]
            for member in opened.getmembers()
            if member.name.endswith(".pyc")
        }
    assert {str(path): path.read_bytes() for path in folder.rglob("*.pyc")} == compiled
    used = {f"{folder}/dumont/agent/verbs.py", f"{folder}/numpy/exceptions.py"}
    assert used <= {source_from_cache(path) for path in compiled}
    assert [path.name for path in (machine.home / ".dumont" / "agent").iterdir()] == [
        Path(hands.pushed[0]).name.partition(".")[0]
    ]


async def test_a_machine_without_a_fit_python_is_told_so(machines: Callable[[str], Any], tmp_path: Path) -> None:
    """An old Python is named; nothing is pushed."""
    machine = machines("old")
    old = machine.home / "bin" / "python3"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\necho \'["/usr/bin/python3", 3, 8, "x86_64", "glibc", "2.31", true]\'\n')
    old.chmod(0o755)
    hands = ShellHands(machine, path=str(old.parent))
    run = hands.run

    async def only_ours(command: str, *, timeout: float, input: bytes | None = None) -> Ran:  # noqa: A002
        return await run(re.sub(r"for p in .*?;", "for p in python3;", command), timeout=timeout)

    hands.run = only_ours  # type: ignore[method-assign]
    with pytest.raises(AgentFailed) as failed:
        await start_agent(hands, cache=tmp_path / "cache")
    assert failed.value.code == "no_python" and "3.8" in failed.value.detail
    assert hands.pushed == []


async def test_the_first_fit_python_is_the_last_one_asked(machines: Callable[[str], Any]) -> None:
    """One that is too old is passed over; the first that fits ends the search, so later ones are not even started."""
    machine = machines("many")
    places = machine.home / "bin"
    places.mkdir()
    for name, script in (
        ("python3", 'echo \'["/old/python3", 3, 8, "x86_64", "glibc", "2.31", true]\'; exit 1'),
        ("python3.13", f'exec {sys.executable} "$@"'),
        ("python3.12", f'touch {machine.home}/asked; exec {sys.executable} "$@"'),
    ):
        (places / name).write_text(f"#!/bin/sh\n{script}\n")
        (places / name).chmod(0o755)
    hands = ShellHands(machine, path=f"{places}:{os.environ['PATH']}")
    run = hands.run

    async def only_ours(command: str, *, timeout: float, input: bytes | None = None) -> Ran:  # noqa: A002
        return await run(re.sub(r"for p in .*?;", "for p in python3 python3.13 python3.12;", command), timeout=timeout)

    hands.run = only_ours  # type: ignore[method-assign]
    found = await probe(hands)
    assert (found.version, Path(found.path).resolve()) == (sys.version_info[:2], Path(sys.executable).resolve())
    assert not (machine.home / "asked").exists()


def test_the_agents_lock_is_part_of_the_whole_lock() -> None:
    """After `requirements.lock` changed, `agent/requirements.txt` must repeat its lines for these packages."""
    whole = (Path(__file__).resolve().parents[2] / "requirements.lock").read_text()
    wanted = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", whole):
        if re.match(r"[A-Za-z0-9._-]+", block).group(0) in DISTRIBUTIONS:  # type: ignore[union-attr]
            wanted.append("\n".join(line for line in block.splitlines() if not line.strip().startswith("#")))
    assert LOCK.read_text() == "\n".join(wanted) + "\n"
    assert len(wanted) == len(DISTRIBUTIONS)
