"""A restore that goes wrong at any point leaves the old tree or the new one, never a mixture."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import AgentFailed, AgentLost
from dumont.agent.partial import RestorePlan
from dumont.agent.restore import dump_plan
from dumont.agent.workspace import _session_args
from dumont.vault import Entry, Kind, RepositoryDamaged, VerificationFailed, pack_columns, pack_name

Look = Callable[[Path], dict[str, tuple[object, ...]]]


def killed_at(target: str, call: int) -> str:
    """Return the code of an agent that is killed as it calls `target` for the n-th time."""
    module = target.rpartition(".")[0]
    return (
        f"import os, signal, {module.partition('.')[0]}, {module}\n"
        f"plain, left = {target}, [{call}]\n"
        "def deadly(*args, **kwargs):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(*args, **kwargs)\n"
        f"{target} = deadly\n"
        "from dumont.agent.main import main; main()"
    )


def old_tree(root: Path) -> None:
    """Write a workspace that differs from what `fill` writes, with some names in common."""
    (root / "models").mkdir()
    (root / "models" / "m.safetensors").write_bytes(random.Random(9).randbytes(1 << 20))
    (root / "src").mkdir()
    (root / "src" / "only-old.py").write_text("old")
    (root / "run.sh").write_text("old")
    (root / "aaa-only-old").write_text("old")
    (root / "locked").mkdir()
    (root / "locked").chmod(0o500)


DEATHS = [
    *[("os.pwrite", 2), ("dumont.agent.partial._sync", 1), ("dumont.agent.exchange.remove_tree", 1)],
    *[("os.rename", call) for call in (1, 2, 5, 18)],
]


@pytest.mark.checklist("SNAP-24")
async def test_kill_9_anywhere_in_a_restore_never_leaves_a_mixed_tree(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look, leftovers: Any
) -> None:
    """After each death the next agent settles the tree as wholly old or wholly new; restoring again gives the new."""
    source = machines("source")
    fill(source.workspace)
    (source.workspace / "models" / "holes.bin").unlink()
    (source.workspace / "models" / "m.safetensors").write_bytes(random.Random(8).randbytes((4 << 20) + 99))
    wanted = look(source.workspace)
    saved = await vault.save(await source.link())
    outcomes = set()
    for number, (target, call) in enumerate(DEATHS):
        machine = machines(f"target{number}")
        old_tree(machine.workspace)
        before = look(machine.workspace)
        link = await machine.link(killed_at(target, call))
        try:
            await vault.restore(link, saved.name)
            outcomes.add("survived")
        except AgentLost:
            outcomes.add("died")
        again = await machine.link()
        settled = look(machine.workspace)
        assert settled in (before, wanted), f"mixed after {target} {call}"
        outcomes.add("old" if settled == before else "new")
        if number in (0, 5):
            await vault.restore(again, saved.name)
            assert look(machine.workspace) == wanted
            assert leftovers(machine.workspace) == []
    assert {"died", "old", "new"} <= outcomes


async def test_a_missing_or_damaged_pack_leaves_the_target_as_it_was(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look, leftovers: Any
) -> None:
    """Found before anything is written (missing), or while fetching (a flipped bit): the old tree stays whole."""
    source, target = machines("source"), machines("target")
    fill(source.workspace)
    saved = await vault.save(await source.link())
    old_tree(target.workspace)
    before = look(target.workspace)
    link = await target.link()
    (pack, _), *_ = vault.repository.packs_in_store().items()
    path = vault.store.root / pack_name(pack)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(RepositoryDamaged):
        await vault.restore(link, saved.name)
    assert (look(target.workspace), leftovers(target.workspace)) == (before, [])
    path.unlink()
    with pytest.raises(VerificationFailed) as failed:
        await vault.restore(link, saved.name)
    assert failed.value.missing == [pack_name(pack)]
    assert (look(target.workspace), leftovers(target.workspace)) == (before, [])


async def test_an_exchange_that_cannot_finish_is_rolled_back(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look, leftovers: Any
) -> None:
    """A top-level entry that cannot be moved (as a mount point cannot) leaves the old tree, modes and times too."""
    source, target = machines("source"), machines("target")
    fill(source.workspace)
    saved = await vault.save(await source.link())
    old_tree(target.workspace)
    before = look(target.workspace)
    stubborn = (
        "import os\n"
        "plain = os.rename\n"
        "def rename(source, target):\n"
        "    if source.endswith(b'workspace/src'): raise OSError(16, 'Device or resource busy')\n"
        "    return plain(source, target)\n"
        "os.rename = rename\n"
        "from dumont.agent.main import main; main()"
    )
    link = await target.link(stubborn)
    with pytest.raises(AgentFailed) as failed:
        await vault.restore(link, saved.name)
    assert failed.value.code == "exchange_failed" and "busy" in failed.value.detail
    assert (look(target.workspace), leftovers(target.workspace)) == (before, [])


async def test_files_already_there_are_not_fetched(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look
) -> None:
    """Restoring over nearly the same tree fetches only the chunks that differ."""
    machine = machines("source")
    fill(machine.workspace)
    wanted = look(machine.workspace)
    link = await machine.link()
    saved = await vault.save(link)
    with (machine.workspace / "models" / "m.safetensors").open("r+b") as stream:
        stream.seek(5 << 20)
        stream.write(b"damage")
    (machine.workspace / "src" / "pkg1" / "mod1.py").unlink()
    restored = await vault.restore(link, saved.name)
    assert look(machine.workspace) == wanted
    assert 6_200_000 < restored.bytes_fetched < 6_400_000
    assert restored.chunks_reused > 40


async def test_excluded_entries_stay_where_they_are(vault: Any, machines: Any) -> None:
    """What snapshots leave out, a restore does not take away."""
    machine = machines("source")
    (machine.workspace / "a").write_text("a")
    (machine.workspace / "cache").mkdir()
    (machine.workspace / "cache" / "x").write_text("kept")
    link = await machine.link()
    saved = await vault.save(link, exclude=("cache",))
    (machine.workspace / "a").write_text("changed")
    await vault.restore(link, saved.name)
    assert (machine.workspace / "a").read_text() == "a"
    assert (machine.workspace / "cache" / "x").read_text() == "kept"


def entry(path: bytes, kind: Kind = Kind.FILE, **more: Any) -> Entry:
    return Entry(path, kind, 0o644, 0, 0, 0).changed(**more)


LINK = entry(b"way", Kind.LINK, target=b"/tmp")
HOSTILE = {
    "up": [entry(b"../out")],
    "up within": [entry(b"a", Kind.FOLDER), entry(b"a/../../out")],
    "absolute": [entry(b"/out")],
    "through a link": [LINK, entry(b"way/out")],
    "no parent": [entry(b"way/out")],
    "twice": [entry(b"a"), entry(b"a")],
    "dot": [entry(b"a", Kind.FOLDER), entry(b"a/.")],
    "nul": [entry(b"a\x00b")],
    "ours": [entry(b".dumont-journal")],
    "bare": [entry(b"")],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_path_that_leads_out_is_refused_on_the_machine(
    vault: Any, machines: Any, look: Look, entries: list[Entry]
) -> None:
    """Even when the control plane sends it, the agent writes nothing."""
    machine = machines("target")
    old_tree(machine.workspace)
    before, around = look(machine.workspace), sorted(machine.home.iterdir())
    link = await machine.link()
    data = dump_plan(RestorePlan([], {}, b"", []), pack_columns(entries))
    with pytest.raises(AgentFailed) as failed:
        await link.request("restore", _session_args(vault.repository), data=data)
    assert failed.value.code == "damaged"
    assert (look(machine.workspace), sorted(machine.home.iterdir())) == (before, around)
