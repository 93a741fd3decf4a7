"""Makes .venv hold exactly what a lock file names, and makes the package importable from src.

`check run|test` exits 0 when nothing is to be done; `make run|test` does it. Only the standard library is used.
Guarantees: one bootstrap at a time (flock); a bootstrap that was cut off is done again from nothing; a warm start
changes nothing; the test lock holds all of the run lock, so `run` is content with it and never takes it away.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "dumont-stamp.json"
UNFINISHED = VENV / "dumont-unfinished"
LOCKS = {"run": "requirements.lock", "test": "requirements-test.lock"}


class BootstrapError(Exception):
    """The environment cannot be made; the message is a sentence that says what to do."""


def main(arguments: list[str]) -> int:
    """Check or make the environment for one purpose and return the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("check", "make") or arguments[1] not in LOCKS:
        sys.stderr.write("usage: bootstrap.py check|make run|test\n")
        return 2
    verb, purpose = arguments
    if verb == "check":
        return 0 if is_ready(purpose) else 1
    try:
        with Path(__file__).open() as itself:
            wait_for_lock(itself.fileno())
            if not is_ready(purpose):
                make(purpose)
    except BootstrapError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The next start does it again.\n")
        return 130
    except OSError as error:
        sys.stderr.write(f"The environment in {VENV} could not be made: {error}. Mend that and start again.\n")
        return 1
    return 0


def wait_for_lock(descriptor: int) -> None:
    """Take the bootstrap lock, saying so when another bootstrap holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Another start is preparing the environment; waiting for it ...")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_ready(purpose: str) -> bool:
    """Tell whether .venv already holds what `purpose` needs."""
    stamp = read_stamp()
    if stamp is None or UNFINISHED.exists() or stamp["root"] != str(ROOT):
        return False
    if not PYTHON.exists() or not (VENV / "bin" / "dumont").exists():
        return False
    if purpose == "test" and stamp["purpose"] != "test":
        return False
    current = digest(LOCKS[purpose])
    return stamp["python"] == python_version() and bool(current) and stamp["locks"].get(purpose) == current


def make(purpose: str) -> None:
    """Bring .venv to what the lock names, from nothing where what is there cannot be trusted."""
    stamp = read_stamp()
    if purpose == "run" and holds_test_tools(stamp):
        purpose = "test"
    lock = ROOT / LOCKS[purpose]
    if not lock.is_file():
        raise BootstrapError(f"{lock} is missing. Get it back with: git checkout -- {lock.name}")
    STAMP.unlink(missing_ok=True)
    if not is_sound(stamp):
        create_venv()
    UNFINISHED.touch()
    say(f"Installing what {lock.name} names into .venv ...")
    try:
        sync(lock)
    except BootstrapError:
        UNFINISHED.unlink()  # the installer rolled back; only an installer that was killed is distrusted
        raise
    make_importable()
    write_stamp(purpose)
    UNFINISHED.unlink()
    say("The environment is ready.")


def holds_test_tools(stamp: dict[str, Any] | None) -> bool:
    """Tell whether .venv was made for the tests, by us or by hand: a `./run` must not take their tools away."""
    return (stamp is not None and stamp["purpose"] == "test") or (VENV / "bin" / "pytest").exists()


def is_sound(stamp: dict[str, Any] | None) -> bool:
    """Tell whether the .venv that is there may be brought up to date instead of being made anew."""
    if UNFINISHED.exists() or not (VENV / "pyvenv.cfg").is_file():
        return False
    if stamp is not None and stamp["root"] != str(ROOT):
        return False
    return python_version() == f"{sys.version_info.major}.{sys.version_info.minor}" and succeeds(
        "-m", "pip", "--version"
    )


def create_venv() -> None:
    """Make an empty environment with pip in it."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise BootstrapError(
            f"The Python at {sys.executable} has no {missing[0]}. "
            "On Debian or Ubuntu: apt install python3-venv (as root). Then start again."
        )
    say(f"Making .venv with Python {sys.version.split()[0]} ...")
    if VENV.is_symlink():
        raise BootstrapError(f"{VENV} is a link. Remove it and start again.")
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    UNFINISHED.touch()
    run([sys.executable, "-I", "-m", "venv", str(VENV)], "python3 -m venv failed. Is there room on the disk?")


def sync(lock: Path) -> None:
    """Install exactly the lock, hashes checked: by uv where it works, else by pip."""
    uv_block = requirement_block(lock, "uv")
    complaint = sync_by_uv(lock) if uv_block is not None and install_uv(uv_block) else "uv cannot be had here."
    if complaint is None:
        return
    say("uv could not; installing by pip, which takes longer ...")
    run(
        [str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(lock)],
        f"{complaint}\nWhat {lock.name} names could not be installed. Is the package registry reachable from here?",
    )


def requirement_block(lock: Path, name: str) -> str | None:
    """Return the lines of one requirement with its hashes, and the lock's own options; None where it is not named."""
    text = lock.read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*\n?", text, re.MULTILINE)
    options = "".join(re.findall(r"^--(?:no-index|find-links).*\n", text, re.MULTILINE))
    return options + found.group(0) if found else None


def install_uv(block: str) -> bool:
    """Install uv at the locked version unless it is there; False where this machine cannot have it."""
    wanted = re.search(r"^uv==(\S+)", block, re.MULTILINE)
    uv = VENV / "bin" / "uv"
    if wanted and uv.exists():
        shown = subprocess.run([str(uv), "--version"], capture_output=True, text=True, check=False)
        if shown.returncode == 0 and wanted.group(1) in shown.stdout.split():
            return True
    only_uv = VENV / "dumont-uv.lock"
    only_uv.write_text(block, encoding="utf-8")
    return succeeds("-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(only_uv))


def sync_by_uv(lock: Path) -> str | None:
    """Let uv make the environment equal to the lock; return None, or its words where it fails."""
    command = [
        str(VENV / "bin" / "uv"),
        "pip",
        "sync",
        "--quiet",
        "--no-config",
        "--require-hashes",
        "--python",
        str(PYTHON),
    ]
    done = subprocess.run(
        [*command, str(lock)],
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr[-2000:] if done.returncode != 0 else None


def make_importable() -> None:
    """Put src on the path of .venv and write the `dumont` command."""
    found = sorted((VENV / "lib").glob("python3*/site-packages"))
    if not found:
        raise BootstrapError(f"{VENV} has no site-packages. Remove {VENV} and start again.")
    replace(found[0] / "dumont.pth", f"{ROOT / 'src'}\n")
    # A shebang line cannot hold a path with spaces, so the shell starts Python on this same file.
    replace(
        VENV / "bin" / "dumont",
        f"#!/bin/sh\n'''exec' {shell_quoted(str(PYTHON))} \"$0\" \"$@\"\n' '''\n"
        "import sys\n\nfrom dumont.app.main import main\n\nsys.exit(main())\n",
        mode=0o755,
    )


def shell_quoted(path: str) -> str:
    """Quote a path for sh with double quotes: single ones would end Python's string around it."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", path) + '"'


def read_stamp() -> dict[str, Any] | None:
    """Return what the last finished bootstrap wrote; None where there is none that can be read."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        return stamp if {"root", "purpose", "python", "locks"} <= stamp.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def write_stamp(purpose: str) -> None:
    """Record what .venv holds now."""
    locks = {name: digest(lock) for name, lock in LOCKS.items() if purpose == "test" or name == "run"}
    stamp = {"root": str(ROOT), "purpose": purpose, "python": python_version(), "locks": locks}
    replace(STAMP, json.dumps(stamp, indent=1) + "\n")


def digest(lock: str) -> str | None:
    """Return the SHA-256 of a lock file; None where it is missing."""
    path = ROOT / lock
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def python_version() -> str | None:
    """Return the major.minor of .venv's Python; None where it does not start."""
    if Path(sys.prefix) == VENV:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        done = subprocess.run(
            [str(PYTHON), "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def succeeds(*arguments: str) -> bool:
    """Tell whether .venv's Python runs with these arguments and exits 0."""
    command = [str(PYTHON), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def run(command: list[str], sentence: str) -> None:
    """Run a command quietly; on failure show its last words and raise BootstrapError with `sentence`."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BootstrapError(f"{(done.stdout + done.stderr)[-3000:]}\n{sentence}")


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is whole or not there."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(mode)
    fresh.replace(path)


def say(sentence: str) -> None:
    """Tell the person what is going on."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
