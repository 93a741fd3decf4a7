"""The peers of the vault's benchmark, restic on a local repository and s5cmd on the same S3 server, and how all run."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.installation import ROOT, BenchmarkError

if TYPE_CHECKING:
    from dumont.vault import S3Place

_PLACES = [str(ROOT / "src"), str(ROOT), sysconfig.get_path("purelib")]
_START = (
    f"import gc,sys;gc.set_threshold(500000,20,20);sys.path[:0]={_PLACES};"
    "from benchmarks.vault_engine import main;main()"
)


@dataclass(frozen=True)
class Ran:
    """What a command took. Units: CPU seconds of it and its children, wall seconds."""

    cpu: float
    wall: float
    stdout: str


def timed(command: list[str], *, folder: Path, environment: dict[str, str] | None = None) -> Ran:
    """Run a command to its end, alone, and say what it took.

    Errors: BenchmarkError when it fails.
    """
    out, err = folder / "stdout", folder / "stderr"
    started = time.monotonic()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BenchmarkError(f"{command[0]} ended with {process.returncode}: {err.read_text()[-500:]}")
    wall = time.monotonic() - started
    return Ran(usage.ru_utime + usage.ru_stime, wall, out.read_text())


def engine(task: dict[str, Any], folder: Path) -> tuple[Ran, Any]:
    """Run our own engine for one task, in a process that starts as agents do; return what it took and its answer."""
    ran = timed([sys.executable, "-I", "-S", "-c", _START, json.dumps(task)], folder=folder)
    return ran, json.loads(ran.stdout)


class S5cmd:
    """Plain copies of files to and from a bucket."""

    def __init__(self, place: "S3Place", folder: Path) -> None:
        self._place, self._folder = place, folder
        self._program = str(Path(sys.executable).with_name("s5cmd"))

    def up(self, root: Path, prefix: str) -> Ran:
        """Copy a folder's files to a prefix."""
        return self._run("cp", f"{root}/", f"s3://{self._place.bucket}/{prefix}/")

    def down(self, prefix: str, root: Path) -> Ran:
        """Copy a prefix's objects into a folder."""
        return self._run("cp", f"s3://{self._place.bucket}/{prefix}/*", f"{root}/")

    def _run(self, *words: str) -> Ran:
        keys = {"AWS_ACCESS_KEY_ID": self._place.key_id, "AWS_SECRET_ACCESS_KEY": self._place.secret}
        command = [self._program, "--log", "error", "--endpoint-url", self._place.endpoint, *words]
        return timed(command, folder=self._folder, environment={**keys, "AWS_REGION": self._place.region})


class Restic:
    """The real restic, with its repository in a folder and a cache of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._number = 0

    def backup(self, root: Path, ready: Callable[[], None] = lambda: None) -> tuple[Ran, int]:
        """Back a folder up into a new repository, made before all is `ready`; return what it took and bytes stored."""
        self._number += 1
        self._run("init", "--repository-version", "2")
        ready()
        ran = self._run("backup", "--quiet", "--compression", "auto", str(root))
        return ran, sum(path.stat().st_size for path in self._repository.rglob("*") if path.is_file())

    def restore(self, target: Path) -> Ran:
        """Restore the newest backup and check what was written."""
        return self._run("restore", "latest", "--quiet", "--verify", "--target", str(target))

    @property
    def _repository(self) -> Path:
        return self._folder / f"restic-{self._number}"

    def _run(self, *words: str) -> Ran:
        places = {"RESTIC_REPOSITORY": str(self._repository), "RESTIC_CACHE_DIR": str(self._folder / "restic-cache")}
        return timed([self._program, *words], folder=self._folder, environment={**places, "RESTIC_PASSWORD": "bench"})


def find_restic(folder: Path) -> str | None:
    """Return a restic: of this machine, or fetched with apt into a folder, which needs no root; None without either."""
    found = shutil.which("restic")
    if found is not None:
        return found
    try:
        subprocess.run(["apt-get", "download", "restic"], cwd=folder, check=True, capture_output=True, timeout=120)
        (package,) = folder.glob("restic_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), "restic"], cwd=folder, check=True, capture_output=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return str(folder / "restic" / "usr" / "bin" / "restic")
