"""A machine for the agent: a subprocess with its own home, spoken to over its standard streams."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dumont.agent import AgentLink, Pipes, Progress, Restored, SavedSnapshot, restore_workspace, save_workspace
from dumont.vault import Choice, Gate, KeyRing, LocalStore, Repository

SOURCES = str(Path(__file__).resolve().parents[2] / "src")
MAIN = "import sys; from dumont.agent.main import main; main()"


@dataclass
class Machine:
    """A folder that plays a rented machine."""

    home: Path
    marker: str
    links: list[AgentLink] = field(default_factory=list)
    wires: list[Pipes] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        return self.home / "workspace"

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": SOURCES, "DUMONT_MACHINE": self.marker}

    async def wire(self, code: str = MAIN) -> Pipes:
        """Start an agent, which ends with the test."""
        return self.adopt(await Pipes.to([sys.executable, "-c", code], self.environ, self.home))

    def adopt(self, wire: Pipes) -> Pipes:
        """Take in the wire to an agent's process, so that it ends with the test."""
        self.wires.append(wire)
        return wire

    async def link(self, code: str = MAIN) -> AgentLink:
        link = await AgentLink.open(await self.wire(code), workspace_root=str(self.workspace))
        self.links.append(link)
        return link

    async def close(self) -> None:
        for link in self.links:
            await link.close()
        for wire in self.wires:
            if wire.process.returncode is None:
                wire.process.send_signal(signal.SIGKILL)
                await wire.process.wait()


@dataclass
class Vault:
    """A repository in a local store with its gate, and the verbs of the agent's room bound to them."""

    store: LocalStore
    repository: Repository
    gate: Gate
    port: int
    keyring: KeyRing
    progress: list[Progress] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def save(self, link: AgentLink, *, exclude: tuple[str, ...] = (), epoch: int = 1) -> SavedSnapshot:
        return await save_workspace(
            link,
            self.repository,
            self.gate,
            self.url,
            host="test",
            parent=None,
            exclude=exclude,
            epoch=epoch,
            on_progress=self.progress.append,
        )

    async def restore(self, link: AgentLink, snapshot: str, choice: Choice | None = None, **more: Any) -> Restored:
        on_progress = self.progress.append
        return await restore_workspace(
            *(link, self.repository, self.gate, self.url, snapshot), on_progress=on_progress, choice=choice, **more
        )

    def reopened(self) -> Repository:
        return Repository.open(self.store, self.repository.repository_id, self.keyring)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """An empty repository behind a running gate."""
    store = LocalStore(tmp_path / "store")
    keyring = KeyRing(b"s" * 32)
    repository = Repository.create(store, "wsp_test", keyring)
    gate = Gate(store, b"g" * 32)
    yield Vault(store, repository, gate, gate.start(), keyring)
    gate.stop()


@pytest_asyncio.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Callable[[str], Machine]]:
    """Make machines by name; their agents end with the test."""
    made: list[Machine] = []

    def make(name: str) -> Machine:
        machine = Machine(tmp_path / name, f"{tmp_path.name}-{name}")
        machine.workspace.mkdir(parents=True)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        await machine.close()


@pytest.fixture
def fill() -> Callable[[Path], None]:
    """Fill a workspace with a mixed tree."""
    return fill_tree


def fill_tree(root: Path, seed: int = 7) -> None:
    """Write what a real workspace holds: a model, sources, links, odd names, modes and times."""
    draw = random.Random(seed)
    (root / "models").mkdir()
    header = b'{"w":{"dtype":"BF16","shape":[8,8],"data_offsets":[0,128]}}'
    body = draw.randbytes(6 << 20) + bytes(9 << 20) + draw.randbytes((1 << 20) + 13)
    (root / "models" / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + body)
    sparse = root / "models" / "holes.bin"
    with sparse.open("wb") as stream:
        stream.seek(5 << 20)
        stream.write(b"end")
        stream.truncate(11 << 20)
    for number in range(40):
        path = root / "src" / f"pkg{number % 5}" / f"mod{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def f{number}():\n    return {number}\n" * 30)
    (root / "empty-folder" / "inner").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "link-to-model").symlink_to("models/m.safetensors")
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "link-to-folder").symlink_to("src")
    (root / "hard-a").write_bytes(b"shared" * 100)
    os.link(root / "hard-a", root / "src" / "hard-b")
    odd = os.fsencode(root)
    for name in (b"caf\xe9 not utf-8", b"new\nline", "olá 日本".encode(), b"-dash", b" lead", b"quote\"'", b"a" * 200):
        Path(os.fsdecode(odd + b"/" + name)).write_bytes(name)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "secret").write_text("x")
    (root / "secret").chmod(0o600)
    (root / "readonly").mkdir()
    (root / "readonly" / "f").write_text("locked")
    os.utime(root / "run.sh", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    os.utime(root / "dangling", ns=(1_500_000_000_000_000_001, 1_500_000_000_000_000_001), follow_symlinks=False)
    os.utime(root / "empty-folder", ns=(1_400_000_000_000_000_007, 1_400_000_000_000_000_007))
    (root / "readonly").chmod(0o555)


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that must survive, read independently of the product: mode, time, bytes, target, link group."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        relative = str(path.relative_to(root))
        if relative.startswith(".dumont"):
            continue
        seen = path.lstat()
        content: object = None
        group = ""
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = path.read_bytes()
            group = inodes.setdefault(seen.st_ino, relative) if seen.st_nlink > 1 else ""
        found[relative] = (seen.st_mode, seen.st_mtime_ns, content, group)
    return found


def own_leftovers(root: Path) -> list[str]:
    """Return the product's own names left in a workspace."""
    return sorted(path.name for path in root.iterdir() if path.name.startswith(".dumont"))


async def eventually(check: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until something is so."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
def look() -> Callable[[Path], dict[str, tuple[object, ...]]]:
    return picture


@pytest.fixture
def leftovers() -> Callable[[Path], list[str]]:
    return own_leftovers


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return eventually
