"""kill -9 of the store while a machine saves to it or restores from it: nothing committed is lost, nothing is mixed."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vault.s3_server import Gateway

from dumont.agent import AgentFailed
from dumont.vault import BucketGate, Repository, S3Store, StoreError, VaultError

Look = Callable[[Path], dict[str, tuple[object, ...]]]
SMALL_PACKS = (
    "import dumont.vault.packs as packs; packs.PACK_TARGET_BYTES = 1 << 20\n"
    "import dumont.agent.transfer as transfer; transfer._FIRST_WAIT_SECONDS = 0.01\n"
    "from dumont.agent.main import main; main()"
)
"""An agent that makes a pack of each file of a mebibyte."""
POINTS, MANY = 2, 100


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A real S3 server that may be killed."""
    made = Gateway(tmp_path_factory.mktemp("s3"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def bucket(vault: Any, gateway: Gateway) -> Any:
    """The vault of the test, in that server's bucket."""
    vault.store = S3Store(gateway.place, first_wait_seconds=0.001)
    vault.repository = Repository.create(vault.store, "wsp_test", vault.keyring)
    vault.gate.stop()
    vault.gate = BucketGate(vault.store, b"g" * 32)
    return vault


class Deadly:
    """Signs addresses until its number is called; then the store dies, and comes again at once or later."""

    def __init__(self, gateway: Gateway, vault: Any, at: int, *, back: bool) -> None:
        self.gateway, self.vault, self.at, self.back = gateway, vault, at, back
        self.plain = BucketGate(vault.store, b"g" * 32).sign
        self.signed = 0
        vault.gate.sign = self.sign

    def sign(self, *args: Any, **more: Any) -> str:
        self.signed += 1
        if self.signed == self.at:
            self.gateway.kill()
            if self.back:
                self.gateway.start()
        return self.plain(*args, **more)

    def settle(self) -> None:
        """Let the store live and sign as ever."""
        self.vault.gate.sign = self.plain
        if self.signed >= self.at and not self.back:
            self.gateway.start()


async def lives(gateway: Gateway, vault: Any, machines: Any, look: Look, seeds: range) -> None:
    """Save and restore, with the store dying at a point that each seed says; then once more, undisturbed."""
    machine, other = machines("first"), machines("second")
    (machine.workspace / "old").write_bytes(random.Random(0).randbytes(1 << 20))
    link, back = await machine.link(SMALL_PACKS), await other.link(SMALL_PACKS)
    kept = [(await vault.save(link)).name]
    for number, seed in enumerate(seeds):
        draw = random.Random(seed)
        saves = number % 2 == 0
        for name in "abcd":
            (machine.workspace / name).write_bytes(draw.randbytes(1 << 20))
        if not saves:
            kept.append((await vault.save(link)).name)
        before = look(other.workspace)
        deadly = Deadly(gateway, vault, draw.randint(1, 3), back=number % 4 in (1, 2))
        try:
            if saves:
                kept.append((await vault.save(link)).name)
            else:
                await vault.restore(back, kept[-1])
        except (AgentFailed, StoreError) as failed:
            assert "store" in str(failed).lower() or isinstance(failed, VaultError), failed
            assert saves or look(other.workspace) == before
        assert deadly.signed >= deadly.at, "the store did not die"
        deadly.settle()
        vault.repository = vault.reopened()
        assert vault.repository.snapshots()[: len(kept)] == sorted(kept)
        kept.append((await vault.save(link)).name)
        for name, files in ((kept[0], 1), (kept[-1], 5)):
            assert vault.repository.verify(name, all_below=1 << 62).files == files
        await vault.restore(back, kept[-1])
        assert look(other.workspace) == look(machine.workspace)


async def test_the_store_dies_in_saves_and_restores(gateway: Gateway, bucket: Any, machines: Any, look: Look) -> None:
    """And comes again at once, or only after the work was given up: the next one succeeds without a person."""
    await lives(gateway, bucket, machines, look, range(POINTS))


@pytest.mark.long
async def test_the_store_dies_at_many_points(gateway: Gateway, bucket: Any, machines: Any, look: Look) -> None:
    """The same at a hundred points."""
    await lives(gateway, bucket, machines, look, range(1000, 1000 + MANY))
