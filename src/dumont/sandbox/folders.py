"""Where each machine lies on disk, and the check that nothing outside the sandbox is ever touched."""

import os
import shutil
import subprocess
from pathlib import Path

from dumont.sandbox.nvidia import SCRIPT

_LOG_LIMIT = 1 << 20


class Folders:
    """The folders below the sandbox's home."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()

    def machine(self, number: int) -> Path:
        """Return the folder of a machine.

        Errors: ValueError when it would lie outside the sandbox, such as through a link put in its place.
        """
        path = self._place(number)
        if path.resolve() != path or self.home not in path.parents:
            raise ValueError(f"{path} is not inside the sandbox")
        return path

    def root(self, number: int) -> Path:
        """Return the machine's home folder."""
        return self.machine(number) / "root"

    def workspace(self, number: int) -> Path:
        """Return the folder that stands for /workspace, for showing it: nothing is checked."""
        return self._place(number) / "root" / "workspace"

    def _place(self, number: int) -> Path:
        return self.home / "machines" / str(int(number))

    def make(self, number: int, gpu: dict[str, str]) -> None:
        """Make a machine's folders and tools; what is there stays."""
        folder = self.machine(number)
        for name in ("root/workspace", "root/tmp", "bin"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}={_quoted(value)}\n" for name, value in gpu.items())
        (folder / "gpu.conf").write_text(lines)
        tool = folder / "bin" / "nvidia-smi"
        tool.write_text(SCRIPT)
        tool.chmod(0o755)
        if not (folder / "load").exists():
            self.set_load(number, "0")

    def set_load(self, number: int, text: str) -> None:
        """Say how busy the GPUs look: a percentage, or the name of a pattern."""
        path = self.machine(number) / "load"
        fresh = path.with_suffix(".new")
        fresh.write_text(text + "\n")
        fresh.replace(path)

    def load(self, number: int) -> float | None:
        """Return the set percentage; None while a pattern decides or nothing is there."""
        try:
            text = (self._place(number) / "load").read_text().strip()
        except FileNotFoundError:
            return None
        return float(min(100, int(text))) if text.isdigit() else None

    def exists(self, number: int) -> bool:
        """Tell whether anything of the machine is on disk."""
        return self.machine(number).exists()

    def remove(self, number: int) -> None:
        """Delete all of a machine; links are removed, never followed."""
        folder = self.machine(number)
        if folder.exists():
            shutil.rmtree(folder)

    def remember(self, number: int) -> None:
        """Keep a copy of a machine's home as it is now."""
        copy = self.machine(number) / "remembered"
        if copy.exists():
            shutil.rmtree(copy)
        _copy(self.root(number), copy)

    def remembers(self, number: int) -> bool:
        """Tell whether something was remembered."""
        return (self.machine(number) / "remembered").is_dir()

    def recall(self, number: int) -> None:
        """Put a machine's home back to what was remembered."""
        copy, root = self.machine(number) / "remembered", self.root(number)
        shutil.rmtree(root)
        _copy(copy, root)

    def lose(self, number: int) -> None:
        """Lose everything in a machine's home; the folders themselves are made again when it comes up."""
        shutil.rmtree(self.root(number))

    def renew(self, number: int) -> None:
        """Empty a machine's home but for its workspace."""
        for path in self.root(number).iterdir():
            if path.name == "workspace":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def within(self, number: int, word: str) -> str:
        """Return an argument of a command with its path turned into the machine's; options stay as they are.

        Errors: ValueError for a path that leads out of the machine's home.
        """
        if word.startswith("-"):
            return word
        root = self.root(number)
        path = (root / word.removeprefix("/") if not Path(word).is_relative_to(root) else Path(word)).resolve()
        if path != root and root not in path.parents:
            raise ValueError(f"{word} is not inside the machine's home")
        return str(path)

    def on_disk(self) -> list[int]:
        """Return the numbers of the machines that have a folder."""
        parent = self.home / "machines"
        return [int(path.name) for path in parent.iterdir() if path.name.isdigit()] if parent.is_dir() else []

    def usage(self, number: int) -> float:
        """Return the decimal gigabytes that the machine's files take, as allocated on disk."""
        return _allocated(self.root(number)) / 1e9

    def log_path(self, number: int) -> Path:
        """Return the container log, cut to its last half once it has grown beyond a mebibyte."""
        path = self.machine(number) / "container.log"
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.write_bytes(path.read_bytes()[-_LOG_LIMIT // 2 :])
        return path


def _copy(source: Path, target: Path) -> None:
    # cp takes what Python's own copying refuses: pipes and sockets.
    subprocess.run(["cp", "-a", "--", str(source), str(target)], check=True, capture_output=True)


def _allocated(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118
            except FileNotFoundError:
                continue
    return total


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"
