"""The control plane's own restic: found or fetched once, and run with its secrets in the environment only."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dumont.core import derive_password
from dumont.snapshots import Vaults
from dumont.sync.endpoint import OWNER, Endpoint
from dumont.sync.model import SyncUnavailable
from dumont.vault import Store

OLDEST = (0, 14)
"""The first restic that compresses, which is also what Debian 12 has."""
_VERSION = re.compile(r"^restic (\d+)\.(\d+)", re.M)
_FETCH_SECONDS = 300
_PROBE_SECONDS = 20
_SESSION_SECONDS = 24 * 3600.0
_MOST_LINE = 4 << 20

FETCH = """\
set -e
if ! command -v apt-get || ! command -v dpkg-deb; then
  echo "E: apt-get and dpkg-deb are not there" >&2
  exit 1
fi >/dev/null
mkdir -p "$1"
find "$1" -maxdepth 1 -name "fetch.*" -mmin +60 -exec rm -rf {} + 2>/dev/null || true
work=$(mktemp -d "$1/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
cd "$work"
get="apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3"
if ! $get download restic; then
  get="$get -o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache -o Debug::NoLocking=1"
  $get update
  $get download restic
fi
dpkg-deb -x restic_*.deb "$work"
mv -f "$work/usr/bin/restic" "$1/restic"
"""
"""Fetches Debian's package into the folder $1, which has a whole path, without root.

Several may fetch at once, each in a folder of its own; the system's own package lists stay as they are.
"""


def version_of(text: str) -> tuple[int, int] | None:
    """Read the version out of what `restic version` prints."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else None


def reason_of(errors: str) -> str:
    """Return why a package manager failed: its errors rather than its warnings, 200 characters of them at most."""
    lines = errors.strip().splitlines()
    return " ".join([line for line in lines if line.startswith("E:")] or lines)[-200:]


def find_restic(folder: Path) -> Path:
    """Return a restic of this machine that is new enough, else our own copy in a folder, fetched where it is missing.

    Blocking. Errors: SyncUnavailable.
    """
    own = folder / "restic"
    for place in (shutil.which("restic"), own):
        if place is not None and _is_fit(Path(place)):
            return Path(place)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        done = subprocess.run(
            ["sh", "-c", FETCH, "sh", str(folder.absolute())], capture_output=True, text=True, timeout=_FETCH_SECONDS
        )
        reason = reason_of(done.stderr)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if not _is_fit(own):
        raise SyncUnavailable(
            "Versioned sync is not available here: this installation has no restic 0.14 or newer, and apt does not "
            f"bring one ({reason or 'no reason given'}). Install restic beside dumont and try again."
        )
    return own


def _is_fit(path: Path) -> bool:
    try:
        done = subprocess.run([str(path), "version"], capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = version_of(done.stdout)
    return done.returncode == 0 and found is not None and found >= OLDEST


def store_of(vaults: Vaults, workspace_id: str) -> Store:
    """Return the store of a workspace's restic repository, which lies beside those of the vault."""
    return vaults.store(f"restic/{workspace_id}")


def password_of(vaults: Vaults, workspace_id: str) -> str:
    """Return the password that opens a workspace's repository; it follows from the installation's secret."""
    return derive_password(vaults.gate_secret, f"restic {workspace_id}")


@dataclass(frozen=True)
class Ran:
    """How a restic ended, with the last lines of what it said."""

    code: int
    out: str
    err: str


class Restic:
    """Our restic, with every right on one workspace's repository, through an endpoint of its own."""

    def __init__(self, program: Path, environment: dict[str, str]) -> None:
        self._program = program
        self._environment = environment

    async def run(self, *words: str) -> Ran:
        """Run it to its end, whatever that is; killed when the caller is cancelled."""
        out: list[str] = []
        err: list[str] = []
        async with self._started(words) as process:
            assert process.stdout is not None and process.stderr is not None
            await asyncio.gather(_keep(process.stdout, out), _keep(process.stderr, err))
            code = await process.wait()
        return Ran(code, "\n".join(out), "\n".join(err))

    async def documents(self, *words: str) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the JSON lines that it prints; whoever stops reading ends it. Errors: ResticFailed."""
        err: list[str] = []
        async with self._started(words) as process:
            assert process.stdout is not None and process.stderr is not None
            drain = asyncio.create_task(_keep(process.stderr, err))
            async for line in process.stdout:
                if line.startswith(b"{"):
                    yield json.loads(line)
            await drain
            code = await process.wait()
        if code != 0:
            raise ResticFailed(Ran(code, "", "\n".join(err)))

    @asynccontextmanager
    async def _started(self, words: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            str(self._program),
            *("--no-cache", "--quiet", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            limit=_MOST_LINE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class ResticFailed(Exception):
    """A restic of ours ended badly; `ran` has what it said."""

    def __init__(self, ran: Ran) -> None:
        self.ran = ran
        super().__init__(ran.err)


async def _keep(stream: asyncio.StreamReader, lines: list[str]) -> None:
    async for line in stream:
        lines.append(line.decode(errors="replace").rstrip("\n"))
        del lines[:-200]


@asynccontextmanager
async def owning(vaults: Vaults, program: Path, workspace_id: str) -> AsyncIterator[tuple[Restic, Endpoint]]:
    """Yield our restic on a workspace's repository, for whoever holds the workspace's only live run."""
    endpoint = Endpoint(store_of(vaults, workspace_id), workspace_id, OWNER, seconds=_SESSION_SECONDS)
    port = await asyncio.to_thread(endpoint.start)
    environment = {
        "PATH": os.defpath,
        "HOME": "/nonexistent",
        "RESTIC_REPOSITORY": endpoint.address(port),
        "RESTIC_PASSWORD": password_of(vaults, workspace_id),
    }
    try:
        yield Restic(program, environment), endpoint
    finally:
        await asyncio.to_thread(endpoint.stop)
