"""The two commands make their environment by themselves: tried on a small checkout with one tiny wheel in its lock."""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from tests.tidy.tree import ROOT

STARTED = "started with"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkout in a folder with a space, with no environment yet."""
    folder = tmp_path_factory.mktemp("a checkout") / "with spaces"
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run", folder)
    (folder / "src/dumont/app").mkdir(parents=True)
    (folder / "src/dumont/app/main.py").write_text(
        f"import sys, tiny\n\ndef main():\n    print({STARTED!r}, tiny.VERSION, sys.argv[1:])\n"
    )
    _write_locks(folder, "1.0")
    return folder


@pytest.fixture(scope="module")
def first_answers(folder: Path) -> list[str]:
    """What two starts at once said after the very first start was killed with kill -9 while it made .venv."""
    env = {**os.environ, "PYTHON": sys.executable}
    command = [str(folder / "run")]
    killed = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
    marker = folder / ".venv/dumont-unfinished"
    deadline = time.monotonic() + 60
    while not (marker.exists() and (folder / ".venv/bin").exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert marker.exists()
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    return [process.communicate(timeout=600)[0] for process in both]


@pytest.fixture
def checkout(folder: Path, first_answers: list[str]) -> Path:
    """That checkout with its environment made."""
    assert first_answers
    return folder


def _write_locks(folder: Path, version: str, *, digest: str | None = None) -> None:
    wheel = folder / "wheels" / f"tiny-{version}-py3-none-any.whl"
    wheel.parent.mkdir(exist_ok=True)
    _write_wheel(wheel, version)
    found = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    options = f"--no-index\n--find-links {wheel.parent.as_uri()}\n"
    for lock in ("requirements.lock", "requirements-test.lock"):
        (folder / lock).write_text(f"{options}tiny=={version} \\\n    --hash=sha256:{found}\n")


def _write_wheel(wheel: Path, version: str) -> None:
    meta = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"VERSION = {version!r}\n",
        f"{meta}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{meta}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_record_hash(text)},{len(text)}\n" for name, text in files.items()]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{meta}/RECORD": "".join(rows) + f"{meta}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def _start(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "run"), *arguments],
        cwd="/",
        env={**os.environ, "PYTHON": sys.executable, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_warm_start_changes_nothing(checkout: Path) -> None:
    """The second start makes nothing, says nothing of its own, and hands the arguments on whole."""
    before = (checkout / ".venv/dumont-stamp.json").stat().st_mtime_ns
    done = _start(checkout, "--home", "a b")
    assert done.stdout == f"{STARTED} 1.0 ['up', '--home', 'a b']\n"
    assert done.stderr == ""
    assert (checkout / ".venv/dumont-stamp.json").stat().st_mtime_ns == before


@pytest.mark.checklist("ENV-01")
def test_a_start_after_the_tests_keeps_their_tools(checkout: Path) -> None:
    """The test lock holds all of the run lock, so `./run` is content with what `./test` made."""
    bootstrap = [sys.executable, "-I", str(checkout / "tools/bootstrap.py"), "make", "test"]
    subprocess.run(bootstrap, check=True, capture_output=True)
    stamp = (checkout / ".venv/dumont-stamp.json").read_text()
    assert '"purpose": "test"' in stamp
    tool = [str(checkout / ".venv/bin/python"), "-c", "import tiny; print(tiny.VERSION)"]
    assert subprocess.run(tool, check=True, capture_output=True, text=True).stdout == "1.0\n"
    assert _start(checkout).stderr == ""
    assert (checkout / ".venv/dumont-stamp.json").read_text() == stamp
    lock = checkout / "requirements.lock"
    lock.write_text("# changed\n" + lock.read_text())
    assert _start(checkout).returncode == 0
    assert '"purpose": "test"' in (checkout / ".venv/dumont-stamp.json").read_text()


def test_a_start_that_was_killed_is_repaired(folder: Path, first_answers: list[str]) -> None:
    """After kill -9 in the middle, two starts at once both end with the environment whole."""
    assert [answer.startswith(f"{STARTED} 1.0") for answer in first_answers] == [True, True]
    assert not (folder / ".venv/dumont-unfinished").exists()


def test_a_changed_lock_is_followed_and_a_forged_wheel_refused(checkout: Path) -> None:
    """A new lock is installed at the next start; a wheel whose hash is not the lock's never starts."""
    _write_locks(checkout, "2.0")
    assert f"{STARTED} 2.0" in _start(checkout).stdout
    _write_locks(checkout, "3.0", digest="0" * 64)
    refused = _start(checkout)
    assert refused.returncode != 0
    assert STARTED not in refused.stdout
    assert "could not be installed" in refused.stderr
    _write_locks(checkout, "1.0")
    assert f"{STARTED} 1.0" in _start(checkout).stdout


def test_an_old_python_is_told(tmp_path: Path) -> None:
    """A PYTHON that is too old, or none at all, gets a sentence that says what to do."""
    old = tmp_path / "python-of-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run", tmp_path)
    done = _start(tmp_path, PYTHON=str(old))
    assert done.returncode == 1
    assert "which is not a Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
