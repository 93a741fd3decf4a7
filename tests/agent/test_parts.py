"""Parts of a snapshot come back together or not at all, beside what stays, and never through a link."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import AgentFailed
from dumont.vault import Choice
from dumont.vault.errors import NotInSnapshot

Look = Callable[[Path], dict[str, tuple[object, ...]]]
Fill = Callable[[Path], None]


def without_folder_times(seen: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """What must stay where something else in a folder changed: its time may be another one."""
    return {path: row if row[2] is not None else (row[0], *row[2:]) for path, row in seen.items()}


@pytest.fixture
async def saved(vault: Any, machines: Any, fill: Fill) -> tuple[Any, Any, str]:
    """A machine, its link and a snapshot of what is there."""
    machine = machines("first")
    fill(machine.workspace)
    (machine.workspace / "models" / "m.safetensors").write_bytes(b"a small model")
    (machine.workspace / "models" / "holes.bin").unlink()
    link = await machine.link()
    return machine, link, (await vault.save(link)).name


@pytest.mark.checklist("SNAP-20")
async def test_chosen_files_come_back_and_all_others_stay(
    vault: Any, saved: tuple[Any, Any, str], look: Look, leftovers: Any
) -> None:
    """By path and pattern: changed, deleted and never changed ones; what is newer beside them is not touched."""
    machine, link, snapshot = saved
    root: Path = machine.workspace
    before = look(root)
    (root / "src" / "pkg1" / "mod1.py").write_text("spoilt")
    (root / "src" / "pkg1" / "new.py").write_text("new")
    for number in range(0, 40, 5):
        (root / "src" / "pkg0" / f"mod{number}.py").unlink()
    (root / "src" / "pkg0").rmdir()
    (root / "run.sh").write_text("spoilt too, and to stay so")
    changed = without_folder_times(look(root))
    done = await vault.restore(link, snapshot, Choice(("src/pkg1/*.py", "src/pkg0/mod[05].py", "link-to-model")))
    after = without_folder_times(look(root))
    wanted = {
        p: r for p, r in without_folder_times(before).items() if p.startswith("src/pkg1/") or p == "link-to-model"
    }
    wanted |= {p: before[p] for p in ("src/pkg0/mod0.py", "src/pkg0/mod5.py")}
    wanted["src/pkg0"] = without_folder_times(before)["src/pkg0"]
    assert after == changed | wanted
    assert (done.files, leftovers(root)) == (10, [])
    assert done.hashes_compared == 10 and done.bytes_fetched < 100_000


async def test_a_folder_is_merged_or_replaced(vault: Any, saved: tuple[Any, Any, str], look: Look) -> None:
    """Merged, what is new in it stays; replaced, it is what it was, with hard links within it."""
    machine, link, snapshot = saved
    root: Path = machine.workspace
    before = look(root)
    (root / "src" / "new").write_text("new")
    (root / "src" / "hard-b").write_text("other")
    await vault.restore(link, snapshot, Choice(("src", "hard-a")))
    assert (root / "src" / "new").read_text() == "new"
    assert (root / "hard-a").samefile(root / "src" / "hard-b")
    await vault.restore(link, snapshot, Choice(("src", "hard-a"), replace=True))
    assert look(root) == before


@pytest.mark.checklist("SNAP-23")
async def test_a_snapshot_goes_into_a_folder_beside_the_workspace_it_is_of(
    vault: Any, saved: tuple[Any, Any, str], look: Look, leftovers: Any
) -> None:
    """All of it, byte for byte; the workspace stays; again with `replace`, what was added there is gone."""
    machine, link, snapshot = saved
    root: Path = machine.workspace
    before = look(root)
    await vault.restore(link, snapshot, Choice((), "old/copy"))
    assert look(root / "old" / "copy") == before
    (root / "old" / "copy" / "added").write_text("added")
    await vault.restore(link, snapshot, Choice((), "old/copy", replace=True))
    assert look(root / "old" / "copy") == before
    assert without_folder_times({p: r for p, r in look(root).items() if p.partition("/")[0] != "old"}) == (
        without_folder_times(before)
    )
    assert leftovers(root) == []
    whole = (await vault.save(link)).files
    assert whole == 2 * sum(1 for row in before.values() if isinstance(row[2], bytes)), "the next save has both"


async def test_nothing_is_written_through_a_link_or_over_another_kind(
    vault: Any, saved: tuple[Any, Any, str], look: Look, leftovers: Any, tmp_path: Path
) -> None:
    """A link for a folder, a file for a folder, a folder for a file: refused, and everything stays."""
    machine, link, snapshot = saved
    root: Path = machine.workspace
    (tmp_path / "outside").mkdir()
    (root / "src").rename(tmp_path / "src")
    (root / "src").symlink_to(tmp_path / "outside")
    (root / "run.sh").unlink()
    (root / "run.sh").mkdir()
    before = look(root)
    for choice in (
        *(Choice(("src/pkg0/mod0.py",)), Choice(("src",)), Choice(("run.sh",)), Choice(("secret", "run.sh"))),
        *(Choice(("src/pkg0",), replace=True), Choice(("secret",), "secret"), Choice((), "link-to-folder")),
    ):
        with pytest.raises(AgentFailed) as failed:
            await vault.restore(link, snapshot, choice)
        assert failed.value.code == "in_the_way"
        assert (look(root), leftovers(root), list((tmp_path / "outside").iterdir())) == (before, [], [])
    with pytest.raises(NotInSnapshot):
        await vault.restore(link, snapshot, Choice(("run.sh", "nowhere")))
    await vault.restore(link, snapshot, Choice(("src", "run.sh"), replace=True))
    assert (root / "run.sh").read_text() == "#!/bin/sh\n" and not (root / "src").is_symlink()


STATES = """
import os
plain = os.rename
def rename(source, target):
    with open(os.environ["HOME"] + "/states", "a") as told:
        told.write(open("/proc/PID/stat").read().rpartition(")")[2].split()[0])
    return plain(source, target)
os.rename = rename
from dumont.agent.main import main; main()
"""


async def test_nothing_of_the_users_runs_while_files_change_place(
    vault: Any, saved: tuple[Any, Any, str], wait_until: Any
) -> None:
    """Each move is made while the user's process is stopped; before and afterwards it runs."""
    machine, _, snapshot = saved
    user = await asyncio.create_subprocess_exec("sleep", "300", env=machine.environ)
    try:
        link = await machine.link(STATES.replace("PID", str(user.pid)))
        before: list[str] = []

        async def turn() -> None:
            before.append(state_of(user.pid))

        await vault.restore(link, snapshot, Choice(("src", "run.sh"), replace=True), still=True, before_exchange=turn)
        states = (machine.home / "states").read_text()
        assert before == ["S"] and len(states) >= 4 and set(states) == {"T"}
        await wait_until(lambda: state_of(user.pid) == "S")
    finally:
        user.kill()
        await user.wait()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class TurnedBack(Exception):
    """Somebody cancelled at the last moment."""


async def test_the_last_moment_to_turn_back_is_before_the_first_move(
    vault: Any, saved: tuple[Any, Any, str], look: Look, leftovers: Any
) -> None:
    """What is refused then leaves nothing; the same agent goes on."""
    machine, link, snapshot = saved
    (machine.workspace / "run.sh").write_text("changed")
    before = look(machine.workspace)

    async def turn() -> None:
        raise TurnedBack

    with pytest.raises(TurnedBack):
        await vault.restore(link, snapshot, Choice(("run.sh",)), before_exchange=turn)
    assert (look(machine.workspace), leftovers(machine.workspace)) == (before, [])
    await vault.restore(link, snapshot, Choice(("run.sh",)))
    assert (machine.workspace / "run.sh").read_text() == "#!/bin/sh\n"
