"""Put a finished tree in the place of the old one, entry by entry, with a journal that survives a crash at any point.

The root itself cannot be exchanged on a rented machine (a mount point, or a folder of an image), so each top-level
entry is renamed: the old one into `.dumont-old-<id>`, the new one out of `.dumont-partial-<id>`. Where only parts of a
tree are restored, these are entries further down, below folders that stay.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from dumont.agent.errors import AgentFailed

JOURNAL = b".dumont-journal"
PARTIAL_PREFIX = b".dumont-partial-"
OLD_PREFIX = b".dumont-old-"
_ID = re.compile(r"^[0-9a-f]{1,64}$")


class Journal(NamedTuple):
    """What an exchange set out to do. `modes` are those of folders that had to be made writable to be moved.

    States: `exchanging` while entries move, `finishing` once all have (only then may an old one be removed, for until
    then a missing old one means that it was not moved yet), `rolling_back` when the old ones move back.
    """

    restore: str
    state: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    old_modes: dict[str, int]
    new_modes: dict[str, int]


def exchange(root: bytes, restore: str, old: list[bytes], new: list[bytes]) -> None:
    """Replace the entries `old` of `root` by the entries `new` of the partial tree; none lies below another.

    Guarantees: after success only the new ones are there; after an error, or after a crash and `recover`, either only
    the old or only the new ones.
    Errors: AgentFailed `exchange_failed` (rolled back) or `rollback_failed` (the journal is kept for the next try).
    """
    partial = os.path.join(root, PARTIAL_PREFIX + restore.encode())
    journal = Journal(
        restore,
        "exchanging",
        tuple(map(os.fsdecode, old)),
        tuple(map(os.fsdecode, new)),
        _stubborn(root, old),
        _stubborn(partial, new),
    )
    try:
        _write(root, journal)
        _forward(root, journal)
        _write(root, journal._replace(state="finishing"))
    except OSError as error:
        _undo(root, journal._replace(state="rolling_back"))
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise AgentFailed(
            "exchange_failed", f"The restored files could not take their place ({reason}); nothing was changed."
        ) from error
    _finish(root, journal)


def recover(root: bytes) -> str:
    """Finish or roll back an exchange that was cut short; return `none`, `finished` or `rolled_back`.

    Errors: AgentFailed `rollback_failed`, or `bad_journal` for a journal that is not one of ours.
    """
    journal = _read(root)
    if journal is None:
        return "none"
    if journal.state == "rolling_back":
        _undo(root, journal)
        return "rolled_back"
    if journal.state == "exchanging":
        try:
            _forward(root, journal)
            _write(root, journal._replace(state="finishing"))
        except OSError:
            _undo(root, journal._replace(state="rolling_back"))
            return "rolled_back"
    _finish(root, journal)
    return "finished"


def remove_tree(path: bytes) -> None:
    """Remove a folder and all below it, however deep, also where folders are not writable; absent is fine.

    Errors: OSError where something stays.
    """
    if not os.path.lexists(path):
        return
    if os.path.islink(path):
        os.unlink(path)
        return
    waiting, folders = [path], []
    while waiting:
        folder = waiting.pop()
        os.chmod(folder, 0o700)
        folders.append(folder)
        with os.scandir(folder) as listing:
            found = [*listing]
        for item in found:
            if item.is_dir(follow_symlinks=False):
                waiting.append(item.path)
            else:
                os.unlink(item.path)
    for folder in reversed(folders):
        os.rmdir(folder)


def check_way(root: bytes, path: bytes) -> None:
    """Refuse a path below the root on which a link, or anything else that is no folder, stands in the way.

    Errors: OSError.
    """
    at = path.find(b"/")
    while at >= 0:
        above = os.path.join(root, path[:at])
        if not stat.S_ISDIR(os.lstat(above).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), above)
        at = path.find(b"/", at + 1)


def sync_folder(path: bytes) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forward(root: bytes, journal: Journal) -> None:
    old_home, partial = _homes(root, journal)
    os.makedirs(old_home, mode=0o700, exist_ok=True)
    for name in sorted({*journal.old, *journal.new}):
        here, aside, fresh = (os.path.join(home, os.fsencode(name)) for home in (root, old_home, partial))
        check_way(root, os.fsencode(name))
        if name in journal.old and not os.path.lexists(aside) and os.path.lexists(here):
            os.makedirs(os.path.dirname(aside), mode=0o700, exist_ok=True)
            _move(here, aside)
        if name in journal.new and os.path.lexists(fresh):
            _move(fresh, here)
    _set_modes(root, journal.new_modes)
    _sync_parents(old_home, journal.old)
    _sync_parents(root, (*journal.old, *journal.new))


def _undo(root: bytes, journal: Journal) -> None:
    old_home, partial = _homes(root, journal)
    try:
        _write(root, journal)
        for name in sorted({*journal.old, *journal.new}):
            here, aside, fresh = (os.path.join(home, os.fsencode(name)) for home in (root, old_home, partial))
            check_way(root, os.fsencode(name))
            moved_in = name in journal.new and not os.path.lexists(fresh) and os.path.lexists(here)
            if moved_in and (name not in journal.old or os.path.lexists(aside)):
                _move(here, fresh)
            if os.path.lexists(aside):
                _move(aside, here)
        _set_modes(root, journal.old_modes)
        _sync_parents(root, (*journal.old, *journal.new))
        remove_tree(partial)
        remove_tree(old_home)
        os.unlink(os.path.join(root, JOURNAL))
    except OSError as error:
        raise AgentFailed(
            "rollback_failed", "The old files could not be put back yet; the next start of the agent tries again."
        ) from error


def _finish(root: bytes, journal: Journal) -> None:
    old_home, partial = _homes(root, journal)
    with suppress(OSError):
        remove_tree(old_home)
        remove_tree(partial)
    os.unlink(os.path.join(root, JOURNAL))
    sync_folder(root)


def _homes(root: bytes, journal: Journal) -> tuple[bytes, bytes]:
    name = journal.restore.encode()
    return os.path.join(root, OLD_PREFIX + name), os.path.join(root, PARTIAL_PREFIX + name)


def _move(source: bytes, target: bytes) -> None:
    seen = os.lstat(source)
    if stat.S_ISDIR(seen.st_mode) and not seen.st_mode & stat.S_IWUSR:
        os.chmod(source, stat.S_IMODE(seen.st_mode) | stat.S_IWUSR)
    os.rename(source, target)


def _sync_parents(home: bytes, names: Iterable[str]) -> None:
    for parent in {"", *(name.rpartition("/")[0] for name in names)}:
        sync_folder(os.path.join(home, os.fsencode(parent)))


def _stubborn(home: bytes, names: list[bytes]) -> dict[str, int]:
    modes = {name: os.lstat(os.path.join(home, name)).st_mode for name in names}
    return {
        os.fsdecode(name): stat.S_IMODE(mode)
        for name, mode in modes.items()
        if stat.S_ISDIR(mode) and not mode & stat.S_IWUSR
    }


def _set_modes(root: bytes, modes: dict[str, int]) -> None:
    for name, mode in modes.items():
        os.chmod(os.path.join(root, os.fsencode(name)), mode)


def _write(root: bytes, journal: Journal) -> None:
    path = os.path.join(root, JOURNAL)
    with open(path + b".new", "w", encoding="ascii") as stream:
        json.dump(journal._asdict(), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + b".new", path)
    sync_folder(root)


def _read(root: bytes) -> Journal | None:
    try:
        with open(os.path.join(root, JOURNAL), encoding="ascii") as stream:
            found = json.load(stream)
        journal = Journal(**{**found, "old": tuple(found["old"]), "new": tuple(found["new"])})
        names = (*journal.old, *journal.new, *journal.old_modes, *journal.new_modes)
        if _ID.match(journal.restore) and not any(part in ("", ".", "..") for n in names for part in n.split("/")):
            return journal
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise AgentFailed("bad_journal", "The journal of an earlier restore cannot be read.") from error
    raise AgentFailed("bad_journal", "The journal of an earlier restore names impossible paths.")
