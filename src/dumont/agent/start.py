"""Start the agent on a machine: find its Python, bring the bundle once, open the wire."""

import asyncio
import json
import secrets
import shlex
from pathlib import Path
from typing import Protocol

from dumont.agent.bundle import OLDEST_PYTHON, Interpreter, bundle_for, bundle_key, numbers
from dumont.agent.errors import AgentFailed
from dumont.agent.link import WireLike

_PROBE_SECONDS = 60.0
_UNPACK_SECONDS = 180.0
_PYTHONS = (
    *("python3", "/usr/bin/python3", "/usr/local/bin/python3", "/opt/conda/bin/python3"),
    *("python3.13", "python3.12", "python3.11", "python3.10", "/venv/main/bin/python3"),
)
_PROBE = (
    "import sys,platform,json,sysconfig;n,v=platform.libc_ver();"
    "u=sys.implementation.name=='cpython' and not sysconfig.get_config_var('Py_GIL_DISABLED');"
    "print(json.dumps([sys.executable,sys.version_info[0],sys.version_info[1],platform.machine(),n or 'musl',v,u]));"
    f"sys.exit(not u or sys.version_info[:2]<{OLDEST_PYTHON})"
)
_UNPACK = (
    "import sys,tarfile,os;a,t,d=sys.argv[1:];k={'filter':'data'} if hasattr(tarfile,'data_filter') else {};"
    "tarfile.open(a).extractall(t,**k);os.path.isdir(d) or os.rename(t,d)"
)


class Done(Protocol):
    """A command that ran to its end."""

    @property
    def exit_status(self) -> int: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...


class HandsLike(Protocol):
    """What we need to be able to do on the machine."""

    async def run(self, command: str, *, timeout: float, input: bytes | None = None) -> Done: ...  # noqa: A002
    async def put_file(self, local: Path, remote: str, mode: int | None = None) -> None: ...
    async def exists(self, remote: str) -> bool: ...
    async def home(self) -> str: ...
    async def open_wire(self, command: str) -> WireLike: ...


async def start_agent(hands: HandsLike, *, cache: Path) -> WireLike:
    """Start the agent and return the wire to it; the bundle is pushed only where it is not there yet.

    Guarantees: needs nothing on the machine but a Python >= 3.10; may be repeated at any point.
    Errors: AgentFailed `no_python`, `no_wheels`, `no_bundle`; whatever `hands` raises.
    """
    interpreter = await probe(hands)
    key = await asyncio.to_thread(bundle_key, interpreter)
    folder = f"{(await hands.home()).rstrip('/')}/.dumont/agent/{key}"
    if not await hands.exists(folder):
        archive = await asyncio.to_thread(bundle_for, interpreter, cache)
        await _push(hands, interpreter, archive, folder)
    return await hands.open_wire(start_command(interpreter.path, folder))


def start_command(python: str, folder: str) -> str:
    """Return the command that runs the agent from its folder, apart from all else that the machine's Python has.

    Neither packages nor hooks of the image are looked at (-S); what is loaded is not searched for garbage.
    """
    run = f"sys.path.insert(0,{folder!r});from dumont.agent.main import main;main()"
    code = f"import gc,sys;gc.set_threshold(500000,20,20);{run}"
    return f"exec {shlex.quote(python)} -I -S -c {shlex.quote(code)}"


async def probe(hands: HandsLike) -> Interpreter:
    """Find a Python on the machine that can run the agent; those after the first fit one are not started.

    Errors: AgentFailed `no_python`.
    """
    tries = " ".join(shlex.quote(path) for path in _PYTHONS)
    asked = f'"$p" -I -c {shlex.quote(_PROBE)} && break'
    command = f'for p in {tries}; do command -v "$p" >/dev/null 2>&1 && {asked}; done; true'
    done = await hands.run(command, timeout=_PROBE_SECONDS)
    found = []
    for line in done.stdout.splitlines():
        if line.startswith("["):
            path, major, minor, arch, libc, libc_version, usable = json.loads(line)
            found.append((major, minor))
            if usable and (major, minor) >= OLDEST_PYTHON:
                return Interpreter(path, (major, minor), arch, libc, numbers(libc_version))
    seen = ", ".join(sorted({f"{major}.{minor}" for major, minor in found})) or "none"
    raise AgentFailed(
        "no_python", f"The machine has no Python 3.10 or newer (found: {seen}). Choose an image that has one."
    )


async def _push(hands: HandsLike, interpreter: Interpreter, archive: Path, folder: str) -> None:
    unique = secrets.token_hex(6)
    packed, unpacked = f"{folder}.{unique}.tar.gz", f"{folder}.{unique}"
    await hands.put_file(archive, packed, 0o600)
    words = [interpreter.path, "-I", "-c", _UNPACK, packed, unpacked, folder]
    command = " ".join(map(shlex.quote, words))
    done = await hands.run(
        f"{command}; status=$?; rm -rf {shlex.quote(packed)} {shlex.quote(unpacked)}; exit $status",
        timeout=_UNPACK_SECONDS,
    )
    if done.exit_status != 0 or not await hands.exists(folder):
        tail = done.stderr.strip()[-300:]
        raise AgentFailed("no_bundle", f"The agent could not be unpacked on the machine: {tail or 'no reason given'}")
