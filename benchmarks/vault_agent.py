"""A restore as the product does it: the control plane's half here, the machine's in an agent of its own bundle."""

import asyncio
import os
import resource
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.vault_peers import Ran


@dataclass(frozen=True)
class Brought:
    """What a restore took. Units: `ran` from the start of the agent's process to its answer, CPU of both halves and of
    the agent's end too; `call` wall seconds from its greeting to the answer."""

    ran: Ran
    call: float


class Agents:
    """Agents on this computer, each started for one restore, as for a machine that is reached over SSH."""

    def __init__(self, place: dict[str, Any], folder: Path) -> None:
        from dumont.agent.bundle import Interpreter, bundle_for
        from dumont.agent.start import start_command
        from dumont.vault import BucketGate, S3Place, S3Store

        self._home = folder / "agent-home"
        interpreter, unpacked = Interpreter.ours(), self._home / "agent"
        with tarfile.open(bundle_for(interpreter, folder / "agent-cache")) as archive:
            archive.extractall(unpacked, filter="data")
        self._command = start_command(interpreter.path, str(unpacked))
        self._store = S3Store(S3Place(**place))
        self._gate = BucketGate(self._store, os.urandom(32))
        self._newest()  # control planes run, and have spoken to their store before

    def restore(self, target: Path) -> Brought:
        """Restore the newest snapshot into a folder."""
        burned = _cpu_seconds()
        wall, call = asyncio.run(self._restore(target))
        return Brought(Ran(_cpu_seconds() - burned, wall, ""), call)

    async def _restore(self, target: Path) -> tuple[float, float]:
        from dumont.agent import AgentLink, Pipes, restore_workspace

        started = time.monotonic()
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._home)}
        link = await AgentLink.open(
            await Pipes.to(["/bin/sh", "-c", self._command], environ, self._home), workspace_root=str(target)
        )
        try:
            greeted = time.monotonic()
            repository, newest = await asyncio.to_thread(self._newest)
            await restore_workspace(link, repository, self._gate, "", newest, on_progress=lambda told: None)
            answered = time.monotonic()
        finally:
            await link.close()
        return answered - started, answered - greeted

    def _newest(self) -> tuple[Any, str]:
        from benchmarks.vault_engine import REPOSITORY, SECRET
        from dumont.vault import KeyRing, Repository

        repository = Repository.open(self._store, REPOSITORY, KeyRing(SECRET))
        return repository, repository.snapshots()[-1]


def _cpu_seconds() -> float:
    """Return the CPU of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
