"""How a machine comes to a restic: its own, ours, apt with root or without; else a sentence. A history in a bucket."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.vault.s3_server import s3_server

from dumont.snapshots import Vaults
from dumont.sync.machine import find_on_machine
from dumont.sync.model import SyncUnavailable
from dumont.sync.restic import find_restic, reason_of, version_of

from .conftest import Machine

pytestmark = pytest.mark.asyncio(loop_scope="module")
APT = """#!/bin/sh
# A package manager that knows one package, which lies in {folder}, and says what it was asked for.
echo "$*" >>{folder}/asked
for word in "$@"; do
  case "$word" in
    download) [ -e {folder}/lists ] || exit 100; cp {folder}/restic_1_all.deb . ;;
    update) case "$*" in *Dir::State::Lists=*) touch {folder}/lists ;; esac ;;
    install) [ -e {folder}/root ] || exit 100; cp {folder}/restic {bin}/restic ;;
  esac
done
"""
FETCHED_TOGETHER = "touch restic_1_all.deb\n"
TAKEN_APART_TOGETHER = """\
# Writes half of a program, and the rest of it when another has come as far.
mkdir -p "$3/usr/bin"
head -c 1000000 {restic} >"$3/usr/bin/restic"
chmod 755 "$3/usr/bin/restic"
echo begun >>{folder}/begun
while [ "$(wc -l <{folder}/begun)" -lt 2 ]; do sleep 0.02; done
tail -c +1000001 {restic} >>"$3/usr/bin/restic"
"""


@dataclass
class Tools:
    """What is on the PATH of a machine: `bin` is its own folder in front of the system's."""

    bin: Path
    folder: Path
    home: Path

    def put(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def asked(self) -> str:
        return (self.folder / "asked").read_text()


@pytest.fixture
def tools(machine: Machine, restic: Path, tmp_path: Path) -> Iterator[Tools]:
    """A machine without restic and a package manager that has none until it is told so."""
    folder = tmp_path / "apt"
    (folder / "deb/usr/bin").mkdir(parents=True)
    (folder / "deb/DEBIAN").mkdir()
    (folder / "deb/DEBIAN/control").write_text(
        "Package: restic\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    shutil.copy2(restic, folder / "deb/usr/bin/restic")
    shutil.copy2(restic, folder / "restic")
    home = machine.workspace.parent
    made = Tools(home.parent / "bin", folder, home)
    before = set(made.bin.iterdir())
    shutil.rmtree(home / ".dumont/restic", ignore_errors=True)
    made.put("apt-get", APT.format(folder=folder, bin=made.bin))
    yield made
    for path in set(made.bin.iterdir()) - before:
        path.unlink()
    shutil.rmtree(home / ".dumont/restic", ignore_errors=True)


def package(tools: Tools) -> None:
    done = subprocess.run(
        ["dpkg-deb", "-Znone", "-b", tools.folder / "deb", tools.folder / "restic_1_all.deb"], capture_output=True
    )
    assert done.returncode == 0, done.stderr


async def test_its_own_is_taken_if_it_is_new_enough(machine: Machine, tools: Tools, restic: Path) -> None:
    """A restic on the PATH is used; one that cannot compress is left alone and ours is brought, once."""
    (tools.bin / "restic").symlink_to(restic)
    async with machine.stage.login(machine.instance_id) as hands:
        assert await find_on_machine(hands, restic) == "restic"
        (tools.bin / "restic").unlink()
        tools.put("restic", "#!/bin/sh\necho 'restic 0.12.1 compiled with go1.18 on linux/amd64'\n")
        brought = Path(await find_on_machine(hands, restic))
        assert brought.is_relative_to(tools.home / ".dumont/restic")
        assert brought.read_bytes() == restic.read_bytes()
        first = brought.stat().st_ino
        assert Path(await find_on_machine(hands, restic)).stat().st_ino == first, "it was brought twice"
    assert not (tools.folder / "asked").exists()


async def test_apt_brings_one_without_root(machine: Machine, tools: Tools, tmp_path: Path) -> None:
    """Where ours does not run, Debian's package is taken apart in our folder, with package lists of our own."""
    package(tools)
    useless = tmp_path / "useless"
    useless.write_text("not for this machine")
    async with machine.stage.login(machine.instance_id) as hands:
        found = Path(await find_on_machine(hands, useless))
        assert found == tools.home / ".dumont/restic/restic"
        assert "install" not in tools.asked() and "Dir::State::Lists=" in tools.asked()
        asked = len(tools.asked())
        assert Path(await find_on_machine(hands, useless)) == found
        assert len(tools.asked()) == asked, "apt was asked though a restic was there"
    assert sorted(path.name for path in found.parent.iterdir() if path.is_file()) == ["restic"]


async def test_apt_installs_one_or_a_sentence_says_that_there_is_none(
    machine: Machine, tools: Tools, tmp_path: Path
) -> None:
    """As root it may be installed; else versioned sync is said to be unavailable, and what works all the same."""
    useless = tmp_path / "useless"
    useless.write_text("not for this machine")
    async with machine.stage.login(machine.instance_id) as hands:
        with pytest.raises(SyncUnavailable) as told:
            await find_on_machine(hands, useless)
        assert told.value.detail.startswith("Versioned sync is not available here")
        (tools.folder / "root").touch()
        assert await find_on_machine(hands, useless) == "restic"


async def test_ours_is_found_too(tmp_path: Path, restic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control plane takes a kept copy, and says what to do where it has none and apt brings none."""
    nothing = tmp_path / "bin"
    nothing.mkdir()
    monkeypatch.setenv("PATH", str(nothing))
    with pytest.raises(SyncUnavailable, match="Install restic beside dumont"):
        find_restic(tmp_path / "none")
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy2(restic, kept / "restic")
    assert find_restic(kept) == kept / "restic"
    (nothing / "restic").symlink_to(restic)
    assert find_restic(tmp_path / "none") == nothing / "restic"


async def test_two_may_fetch_one_at_once(tmp_path: Path, restic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of the control plane that both need a restic each get a whole one; nothing is left beside it."""
    tools, kept = tmp_path / "bin", tmp_path / "kept"
    tools.mkdir()
    for name, script in (("apt-get", FETCHED_TOGETHER), ("dpkg-deb", TAKEN_APART_TOGETHER), ("restic", "exit 1\n")):
        (tools / name).write_text("#!/bin/sh\n" + script.format(restic=restic, folder=tmp_path))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    found = await asyncio.gather(*(asyncio.to_thread(find_restic, kept) for _ in range(2)))
    assert found == [kept / "restic"] * 2 and [path.name for path in kept.iterdir()] == ["restic"]
    assert (kept / "restic").read_bytes() == restic.read_bytes()
    assert (tmp_path / "begun").read_text().count("begun") == 2, "both were at it at the same time"


async def test_the_reason_is_the_error() -> None:
    """What a package manager warns of does not hide what went wrong."""
    assert reason_of("W: No sandbox.\nE: Unable to locate package restic\nW: Later.\n") == (
        "E: Unable to locate package restic"
    )
    assert reason_of("sh: 1: cannot fork\n") == "sh: 1: cannot fork" and reason_of("") == ""


async def test_versions() -> None:
    """Versions are read from what restic prints, and nothing else is taken for one."""
    assert version_of("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n") == (0, 14)
    assert version_of("Welcome!\nrestic 0.17.3 (v0.17.3) compiled with go1.23\n") == (0, 17)
    assert version_of("bash: restic: command not found") is None


@pytest.mark.long
async def test_a_history_in_a_bucket(machine: Machine, tmp_path: Path) -> None:
    """A sync, a change, a restore and a pruning leave in the bucket what they leave in a folder."""
    world = machine.stage.world
    known = world.vaults
    with s3_server(tmp_path) as place:
        world.vaults = Vaults(known.root, known.keyring, known.gate_secret, place._replace(prefix="team"))
        store = world.vaults.store(f"restic/{machine.workspace_id}")
        machine.write("notes.txt", "one")
        machine.write("big.bin", bytes(range(256)) * 20_000)
        first = await machine.sync()
        assert store.size(f"snapshots/{first.snapshot_id}") and store.size("config")
        machine.write("notes.txt", "two")
        second = await machine.sync()
        assert (second.files_changed, second.files_unmodified) == (1, 1)
        done = await machine.restore(first, "notes.txt")
        assert done.status == "succeeded", done.problem
        assert (machine.workspace / "notes.txt").read_text() == "one"
        await machine.configure(keep_last=1)
        await machine.sync()
        _, pruned = await machine.ended("prune")
        assert pruned.result is not None and pruned.result["forgotten"] == 2, pruned.problem
        assert len(list(store.list("snapshots/"))) == 1
    world.vaults = known
