"""An agent on this machine, so that a plain folder can be saved and restored as a rented machine's workspace is."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dumont.agent import AgentLink, Pipes
from dumont.snapshots.service import Vaults
from dumont.vault import Gate

_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH")


@asynccontextmanager
async def agent_here(vaults: Vaults, workspace_id: str, folder: Path) -> AsyncIterator[tuple[AgentLink, Gate, str]]:
    """Give an agent whose workspace is a folder of this machine, and the gate to one workspace's objects.

    Errors: StorageUnreachable; AgentFailed, AgentLost.
    """
    gate = vaults.gate(workspace_id)
    url = f"http://127.0.0.1:{gate.start()}"
    try:
        with tempfile.TemporaryDirectory(prefix="dumont-agent-") as home:
            environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
            wire = await Pipes.to([sys.executable, "-m", "dumont.agent"], {**environ, "HOME": home})
            link = await AgentLink.open(wire, workspace_root=str(folder))
            try:
                yield link, gate, url
            finally:
                await link.close()
    finally:
        gate.stop()
