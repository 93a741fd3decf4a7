"""A selective restore: restic writes beside the workspace's files, and only what is whole is put in place."""

import re
import shlex
import time
from functools import partial
from typing import Any

from dumont.durable import Run
from dumont.instances import World, explain_remote, get_rental
from dumont.providers import Address
from dumont.remote import RemoteError, connect
from dumont.sync.endpoint import READER, Endpoint
from dumont.sync.machine import at_machine
from dumont.sync.model import SyncPointNotFound, SyncRestoreFailed
from dumont.sync.syncing import our_restic, unreachable

_PLACE_SECONDS = 3600
_SPECIAL = re.compile(r"([\\*?\[\]])")
_MISSING = 44


def _work(where: dict[str, Any]) -> str:
    """Name the folder beside the files: `.dumont` in front keeps it out of every snapshot."""
    return f".dumont-restore-{where['run_id'][-8:].lower()}"


async def fetch(run: Run, world: World, where: dict[str, Any]) -> dict[str, Any]:
    """Let restic write the chosen paths into a folder beside them and compare every file's content with its hash.

    Errors: SshUnreachable, SyncUnavailable, SyncRestoreFailed, StorageUnreachable, Cancelled.
    """
    program = await our_restic(world)
    async with world.session(run.team_id) as session:
        rental = await get_rental(session, where["rental_id"])
    began = time.monotonic()
    async with at_machine(world, rental, where["workspace_id"], READER, program) as bench:
        work = _work(where)
        await bench.hands.run(f"cd {shlex.quote(bench.root)} && rm -rf {work}", timeout=_PLACE_SECONDS)
        words = ["--no-lock", "restore", where["snapshot_id"], "--target", f"{work}/new", "--verify"]
        for path in where["paths"]:
            words += [] if path == "." else ["--include", "/" + _SPECIAL.sub(r"\\\1", path)]
        said = await bench.restic(words, partial(_ignore), partial(_look, run, bench.endpoint))
        if said.code != 0:
            if bench.endpoint.failure is not None:
                raise unreachable(bench.endpoint.failure)
            raise SyncRestoreFailed(f"restic on the machine ended with {said.code}. It said: {said.reason}")
        return {"bytes_fetched": bench.endpoint.sent, "seconds": round(time.monotonic() - began, 3)}


async def _ignore(status: dict[str, Any]) -> None:
    """Take no notice of status lines: this restic says nothing of a restore."""


async def _look(run: Run, endpoint: Endpoint) -> None:
    await run.check()
    await run.progress("fetch", done=endpoint.sent, total=None)


async def place(world: World, where: dict[str, Any]) -> dict[str, Any]:
    """Move what was fetched into place; where one move fails, everything is moved back. Runs again after a crash.

    Errors: SshUnreachable, SyncPointNotFound where the point had no such path, SyncRestoreFailed.
    """
    async with world.session(where["team_id"]) as session:
        rental = await get_rental(session, where["rental_id"])
    script = _script(rental.workspace_root or "", _work(where), where["paths"], where["to"])
    try:
        async with connect(Address(**(rental.address or {})), world.ssh, host_key=rental.host_key) as hands:
            done = await hands.run("exec sh", input=script.encode(), timeout=_PLACE_SECONDS)
    except RemoteError as error:
        raise explain_remote(error) from error
    if done.exit_status == _MISSING:
        raise SyncPointNotFound("The point has no such path, so nothing was restored. List the point and choose again.")
    if done.exit_status != 0:
        raise SyncRestoreFailed(f"The files could not be put in place: {done.stderr.strip()[-300:]}")
    return {"placed": True}


_FUNCTIONS = """\
there() { [ -e "$1" ] || [ -L "$1" ]; }
put() {
  there "$work/new/$1" || return 0
  mkdir -p "$(dirname "$to/$1")" "$(dirname "$work/old/$1")" || return 1
  if there "$to/$1"; then mv "$to/$1" "$work/old/$1" || return 1; fi
  mv "$work/new/$1" "$to/$1"
}
back() {
  if ! there "$work/new/$1" && there "$to/$1"; then mv "$to/$1" "$work/new/$1"; fi
  if there "$work/old/$1"; then mv "$work/old/$1" "$to/$1"; fi
}
"""


def _script(root: str, work: str, paths: list[str], to: str) -> str:
    """Write the shell's work. What was begun before a crash goes on: a path that is not in `new` any more is placed."""
    every = '"$work/new"/* "$work/new"/.[!.]* "$work/new"/..?*'
    whole = f'set --; for f in {every}; do there "$f" && set -- "$@" "${{f##*/}}"; done'
    named = f"set -- {' '.join(shlex.quote(path) for path in paths)}"
    check = f'for f in "$@"; do there "$work/new/$f" || exit {_MISSING}; done; '
    return (
        f"cd {shlex.quote(root)} || exit 1\nwork={work} to={shlex.quote(to)}\n{_FUNCTIONS}"
        f'[ -d "$work" ] || exit 0\n'
        + (f"{whole}\n" if paths == ["."] else f'{named}\n[ -e "$work/begun" ] || {{ {check} }}\n')
        + ': >"$work/begun"\nfor f in "$@"; do put "$f" || { for b in "$@"; do back "$b"; done; '
        'rm -rf "$work"; exit 1; }; done\nrm -rf "$work"\n'
    )
