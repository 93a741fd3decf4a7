"""restic on a rented machine: found or brought there, run under our eyes, and ended when we say so.

Secrets go through the shell's input into restic's environment; no command line ever holds one.
"""

import asyncio
import hashlib
import json
import platform
import posixpath
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dumont.instances import Rental, World, explain_remote
from dumont.providers import Address
from dumont.remote import Hands, RemoteError, connect
from dumont.sync.endpoint import Endpoint, Rights
from dumont.sync.model import SyncUnavailable
from dumont.sync.restic import FETCH, OLDEST, password_of, reason_of, store_of, version_of

PACK_MIB = 16
"""A cut loses what is in packs that are not full yet, so they are smaller than they could be."""
CONNECTIONS = 8
TOLD_A_SECOND = 3
_PROBE_SECONDS = 30
_FETCH_SECONDS = 300
_END_SECONDS = 20
_SESSION_SECONDS = 24 * 3600.0
_LOOK_SECONDS = 1.0
_LONGEST = 1000
_OWN_FOLDER = ".dumont/restic"
_INSTALL = "apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends restic"

OnStatus = Callable[[dict[str, Any]], Awaitable[None]]


async def find_on_machine(hands: Hands, ours: Path) -> str:
    """Return a restic of a machine that is new enough: its own, one that we brought, or one that apt brings.

    Errors: SyncUnavailable where none can be had; RemoteError.
    """
    folder = posixpath.join(await hands.home(), _OWN_FOLDER)
    own = f"{folder}/restic"
    for place in ("restic", own):
        if await _is_fit(hands, place):
            return place
    if await _like_ours(hands):
        digest = await asyncio.to_thread(_digest, ours)
        brought = f"{folder}/{digest}/restic"
        if not await hands.exists(brought):
            await hands.put_file(ours, brought, 0o700)
        if await _is_fit(hands, brought):
            return brought
    fetch = f"sh -c {shlex.quote(FETCH)} sh {shlex.quote(folder)}"
    for command, place in ((fetch, own), (_INSTALL, "restic")):
        done = await hands.run(command, timeout=_FETCH_SECONDS)
        if await _is_fit(hands, place):
            return place
    reason = reason_of(done.stderr) or "no reason given"
    raise SyncUnavailable(
        "Versioned sync is not available here: the machine has no restic 0.14 or newer, and none can be had "
        f"({reason}). Choose an image that has restic or apt; hibernation and its snapshots work all the same."
    )


async def _is_fit(hands: Hands, place: str) -> bool:
    """Ask a restic for its version."""
    done = await hands.run(f"{shlex.quote(place)} version", timeout=_PROBE_SECONDS)
    found = version_of(done.stdout)
    return done.exit_status == 0 and found is not None and found >= OLDEST


async def _like_ours(hands: Hands) -> bool:
    """Tell whether what runs on this computer can run there; a restic that cannot is found out by its version."""
    done = await hands.run("uname -sm", timeout=_PROBE_SECONDS)
    return done.stdout.split() == [platform.system(), platform.machine()]


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@dataclass
class Said:
    """What a restic on a machine said until it ended: its summary, what it could not read, and its last words."""

    code: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Its last words in one line."""
        return " ".join(" ".join(self.words).split())[-300:] or "it gave no reason"


class Bench:
    """A machine that we are logged in to, with restic and a way back to the workspace's repository."""

    def __init__(self, hands: Hands, rental: Rental, program: str, endpoint: Endpoint, secrets: dict[str, str]) -> None:
        self.hands = hands
        self.root = rental.workspace_root or ""
        self.endpoint = endpoint
        self._program = program
        self._secrets = secrets

    async def restic(self, words: Sequence[str], on_status: OnStatus, look: Callable[[], Awaitable[None]]) -> Said:
        """Run restic in the workspace to its end; `look` is called every second, and what it raises ends restic too.

        Errors: RemoteError when the connection was lost: restic then ends by itself, for its repository is gone.
        """
        wire = await self.hands.open_wire("exec sh")
        said = Said()
        try:
            await wire.send(self._script(words).encode())
            reading = asyncio.create_task(_listen(wire.receive, said, on_status))
            try:
                while not reading.done():
                    await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
                    await look()
                await reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        finally:
            if said.code is None:
                await self._end()
            await wire.close()
        if said.code is None:
            raise RemoteError("The machine ended the work without a word.")
        return said

    def _script(self, words: Sequence[str]) -> str:
        """Write the line for the shell: end what an earlier run left, then run restic and say how it ended."""
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in self._secrets.items())
        program = shlex.join([self._program, *words])
        return (
            f'umask 077; d="$HOME/{_OWN_FOLDER}"; mkdir -p "$d"; {_END_OLD}; '
            f'export {exports} RESTIC_CACHE_DIR="$d/cache" RESTIC_PROGRESS_FPS={TOLD_A_SECOND}; '
            f'printf \'{{"message_type":"begun"}}\\n\'; c=97; if cd {shlex.quote(self.root)}; then '
            f'{program} </dev/null 2>&1 & p=$!; echo "$p" >"$d/pid"; wait "$p"; c=$?; rm -f "$d/pid"; fi; '
            'printf \'\\n{"message_type":"ended","code":%d}\\n\' "$c"'
        )

    async def _end(self) -> None:
        with suppress(RemoteError):
            await self.hands.run(f'd="$HOME/{_OWN_FOLDER}"; {_END_OLD}', timeout=_END_SECONDS)


_END_OLD = (
    'if read -r o 2>/dev/null <"$d/pid"; then '
    'if grep -q restic "/proc/$o/cmdline" 2>/dev/null; then kill -KILL "$o"; fi; rm -f "$d/pid"; fi'
)


async def _listen(receive: Callable[[], Awaitable[bytes | None]], said: Said, on_status: OnStatus) -> None:
    while (line := await receive()) is not None:
        message = _message(line)
        kind = message.get("message_type")
        if kind == "status":
            await on_status(message)
        elif kind == "summary":
            said.summary = message
        elif kind == "error":
            said.unreadable.append(str(message.get("item") or "?")[:_LONGEST])
            said.words.append(str(message.get("error") or "")[:_LONGEST])
        elif kind == "ended":
            said.code = count_of(message.get("code"), 255)
            return
        elif kind is None and line.strip():
            said.words.append(line[:_LONGEST].decode(errors="replace"))
        del said.words[:-20], said.unreadable[1000:]


def count_of(value: Any, otherwise: int | None) -> Any:
    """Return a number that a machine has told, if it is one that there can be."""
    return value if type(value) is int and 0 <= value < 1 << 63 else otherwise


def _message(line: bytes) -> dict[str, Any]:
    if not line.startswith(b"{"):
        return {}
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@asynccontextmanager
async def at_machine(
    world: World, rental: Rental, workspace_id: str, rights: Rights, ours: Path
) -> AsyncIterator[Bench]:
    """Log in to a rental's machine, find restic there and open its way back to the repository with these rights.

    Errors: SshUnreachable, HostKeyMismatch, SyncUnavailable.
    """
    endpoint = Endpoint(store_of(world.vaults, workspace_id), workspace_id, rights, seconds=_SESSION_SECONDS)
    local = await asyncio.to_thread(endpoint.start)
    try:
        address = Address(**(rental.address or {}))
        async with connect(address, world.ssh, host_key=rental.host_key) as hands:
            program = await find_on_machine(hands, ours)
            async with hands.forward_back("127.0.0.1", local) as port:
                secrets = {
                    "RESTIC_REPOSITORY": endpoint.address(port),
                    "RESTIC_PASSWORD": password_of(world.vaults, workspace_id),
                }
                yield Bench(hands, rental, program, endpoint, secrets)
    except RemoteError as error:
        raise explain_remote(error) from error
    finally:
        await asyncio.to_thread(endpoint.stop)


def backup_words(
    *, host: str, run_id: str, parent: str | None, paths: Sequence[str], exclude: Sequence[str], limit_kib: int | None
) -> list[str]:
    """Return restic's words for a sync. Shapes: `paths` are relative to the workspace, where it runs."""
    words = ["backup", "--json", "--host", host, "--tag", run_id, "--compression", "auto"]
    words += ["--pack-size", str(PACK_MIB), "-o", f"rest.connections={CONNECTIONS}", "--exclude", ".dumont*"]
    words += ["--parent", parent] if parent else []
    words += ["--limit-upload", str(limit_kib)] if limit_kib else []
    for pattern in exclude:
        words += ["--exclude", pattern]
    return [*words, "--", *paths]
