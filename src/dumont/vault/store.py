"""Where a repository's objects lie: one small interface, and a folder on a local disk as its first form."""

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from dumont.vault.direct import Sink
from dumont.vault.errors import StoreError, StoreExists, StoreMissing

_NAME = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
_TEMPORARY = ".tmp"
_TEMPORARY_KEPT_SECONDS = 86_400


class Store(Protocol):
    """Immutable objects by name.

    Guarantees: an object is there whole or not at all; it is never overwritten.
    Errors: StoreExists, StoreMissing, else StoreError with a sentence for people.
    """

    def put(self, name: str, data: bytes) -> None:
        """Store an object under a new name; durable on return."""

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store an object that arrives in pieces; if the pieces raise, nothing is stored."""

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it; a range beyond the end is short."""

    def size(self, name: str) -> int | None:
        """Return the size in bytes, None where there is no such object."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size of the objects below `prefix` (empty, or a folder name and a slash), by name."""

    def delete(self, name: str) -> None:
        """Delete an object; one that is already gone is fine."""


def check_name(name: str) -> str:
    """Return `name` if it is a proper object name.

    Errors: StoreError for empty parts, dots in front, absolute names and odd characters.
    """
    if len(name) > 255 or _NAME.match(name) is None:
        raise StoreError("That is not a name that an object of the store can have.")
    return name


def open_file(path: Path, mode: str) -> BinaryIO:
    """Open a file unbuffered: the one place where the store opens files."""
    return path.open(mode, buffering=0)  # type: ignore[return-value]


class LocalStore:
    """Keep the objects as files below one folder.

    Guarantees: written to a temporary file, fsynced, linked to its name (never over another), folder fsynced.
    """

    def __init__(self, root: Path, *, opener: Callable[[Path, str], BinaryIO] = open_file) -> None:
        self.root = root
        self._open = opener
        try:
            (root / _TEMPORARY).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._drop_old_temporaries()
        except OSError as error:
            raise _explain(error, f"prepare the folder {root}") from error

    def put(self, name: str, data: bytes) -> None:
        """Store an object under a new name; durable on return."""
        self.put_stream(name, (data,))

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store an object that arrives in pieces; if the pieces raise, nothing is stored.

        Errors: ConnectionError and TimeoutError of whoever sends the pieces pass through.
        """
        path = self.root / check_name(name)
        temporary = self.root / _TEMPORARY / secrets.token_hex(16)
        try:
            self._write(temporary, pieces)
            self._make_folder(path.parent)
            os.link(temporary, path)
            _sync_folder(path.parent)
        except FileExistsError:
            raise StoreExists(f"The store already has an object {name}.") from None
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            raise _explain(error, f"write {name}") from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it; a range beyond the end is short."""
        path = self.root / check_name(name)
        try:
            with self._open(path, "rb") as stream:
                end = os.fstat(stream.fileno()).st_size
                wanted = max(0, end - offset) if length is None else min(length, max(0, end - offset))
                stream.seek(offset)
                return _read_exactly(stream, wanted)
        except FileNotFoundError:
            raise StoreMissing(f"The store has no object {name}.") from None
        except OSError as error:
            raise _explain(error, f"read {name}") from error

    def size(self, name: str) -> int | None:
        """Return the size in bytes, None where there is no such object."""
        try:
            return (self.root / check_name(name)).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _explain(error, f"look at {name}") from error

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size of the objects below `prefix` (empty, or a folder name and a slash), by name."""
        folder = self.root / check_name(prefix[:-1]) if prefix else self.root
        try:
            found = sorted((path.relative_to(self.root).as_posix(), size) for path, size in _files_below(folder))
        except OSError as error:
            raise _explain(error, f"list {prefix}") from error
        yield from (pair for pair in found if not pair[0].startswith(_TEMPORARY))

    def delete(self, name: str) -> None:
        """Delete an object; one that is already gone is fine."""
        path = self.root / check_name(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _explain(error, f"delete {name}") from error

    def _write(self, path: Path, pieces: Iterable[bytes]) -> None:
        with self._open(path, "xb") as stream:
            sink = Sink(stream)
            for piece in pieces:
                sink.write(piece)
            sink.finish()
            os.fsync(stream.fileno())

    def _make_folder(self, folder: Path) -> None:
        missing = [p for p in (folder, *folder.parents) if p.is_relative_to(self.root) and not p.is_dir()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            _sync_folder(made.parent)

    def _drop_old_temporaries(self) -> None:
        for path in (self.root / _TEMPORARY).iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _TEMPORARY_KEPT_SECONDS:
                    path.unlink()


def _files_below(folder: Path) -> Iterator[tuple[Path, int]]:
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here) / name
            with suppress(FileNotFoundError):
                yield path, path.stat().st_size


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    first = stream.read(length)
    if len(first) == length or not first:
        return first
    parts = [first]
    missing = length - len(first)
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, action: str) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"The store has no space left to {action}. Free some space and try again.", full=True)
    reasons = {
        errno.EACCES: "the folder does not allow it: check its owner and mode",
        errno.EPERM: "the file system does not allow it",
        errno.EROFS: "the file system is read-only",
        errno.EIO: "the disk reported an input/output error: check the disk",
    }
    reason = reasons.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return StoreError(f"The store could not {action}: {reason}.")
