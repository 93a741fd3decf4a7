"""Machines bring their packs straight to a bucket by URLs of the service, and fetch them from there."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vault.s3_server import s3_server
from tests.vault.s3_stub import s3_stub

from dumont.snapshots.service import Vaults, restore, save, verify
from dumont.vault import BucketGate, KeyRing, Repository, S3Place, S3Store

Look = Callable[[Path], dict[str, tuple[object, ...]]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    """A real S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as place:
        yield place


def move(vault: Any, place: S3Place) -> None:
    """Let the vault of the test be kept at a place."""
    vault.store = S3Store(place, first_wait_seconds=0.001)
    vault.repository = Repository.create(vault.store, "wsp_test", vault.keyring)
    vault.gate.stop()
    vault.gate = BucketGate(vault.store, b"g" * 32)
    vault.port = 1


async def test_a_workspace_goes_through_a_real_bucket(
    gateway: S3Place, vault: Any, machines: Any, fill: Callable[[Path], None], look: Look
) -> None:
    """Saved and restored without a byte through the control plane, which reads it back itself; only packs are large."""
    move(vault, gateway._replace(prefix="team/wsp"))
    first, second = machines("first"), machines("second")
    fill(first.workspace)
    saved = await vault.save(await first.link())
    assert vault.reopened().verify(saved.name).chunks_checked == saved.chunks
    await vault.restore(await second.link(), saved.name)
    assert look(second.workspace) == look(first.workspace)


async def test_a_bucket_that_fails_meanwhile_costs_time_only(vault: Any, machines: Any, look: Look) -> None:
    """SlowDown, resets, lost answers and cut bodies, on the machine's side and on ours: the same tree in the end."""
    first, second = machines("first"), machines("second")
    (first.workspace / "big").write_bytes(random.Random(3).randbytes(5 << 20))
    with s3_stub() as (stub, place):
        move(vault, place)
        link = await first.link()
        stub.fail("PUT", "slow down", "reset", "lost", "slow down")
        saved = await vault.save(link)
        assert stub.faults["PUT"] == [] and len(vault.repository.packs_in_store()) == 1
        back = await second.link()
        stub.fail("GET", "slow down", "cut", "reset", "cut")
        await vault.restore(back, saved.name)
        assert look(second.workspace) == look(first.workspace)
        assert vault.reopened().verify(saved.name).chunks_checked == saved.chunks


async def test_another_key_opens_nothing(gateway: S3Place, vault: Any) -> None:
    """The bucket alone gives nobody the files."""
    move(vault, gateway._replace(prefix="team/other"))
    from dumont.vault import WrongKey

    with pytest.raises(WrongKey):
        Repository.open(vault.store, "wsp_test", KeyRing(b"x" * 32))


async def test_a_workspaces_vault_may_be_a_bucket(
    gateway: S3Place, machines: Any, tmp_path: Path, fill: Callable[[Path], None], look: Look
) -> None:
    """Saved, verified and restored by the verbs of snapshots; each workspace has a prefix of its own."""
    vaults = Vaults(tmp_path / "unused", KeyRing(b"k" * 32), b"g" * 32, gateway._replace(prefix="all"))
    machine, other = machines("first"), machines("second")
    fill(machine.workspace)
    gate = vaults.gate("wsp_7")
    gate.start()
    where = {"workspace_id": "wsp_7", "on_progress": lambda progress: None}
    try:
        link, back = await machine.link(), await other.link()
        saved = await save(vaults, link, gate, "http://127.0.0.1:1", host="x", parent=None, epoch=1, **where)
        assert (await verify(vaults, "wsp_7", saved.name)).chunks_checked == saved.chunks
        await restore(vaults, back, gate, "http://127.0.0.1:1", manifest=saved.name, **where)
    finally:
        gate.stop()
    assert look(other.workspace) == look(machine.workspace)
    names = [name for name, _ in S3Store(gateway).list("all/")]
    assert names and all(name.startswith("all/wsp_7/") for name in names)
    assert not (tmp_path / "unused").exists()
