"""Where a home's database lives: its cluster folder, its socket folder, its programs and its owner."""

import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dumont.core import derive_key
from dumont.db.embedded.account import Account, service_account
from dumont.db.embedded.binaries import Binaries, installed_binaries, shared_binaries
from dumont.db.embedded.errors import DatabaseStartError

SYSTEM_FOLDER = Path("/var/lib/dumont")
PORT = 5432
"""Only part of the socket's name: nothing listens on TCP."""
_SOCKET_LIMIT = 107
"""Source: unix(7), sun_path holds 108 bytes with the closing zero."""


@dataclass(frozen=True)
class Place:
    """All paths of one cluster; `account` is None where the present user owns it."""

    home: Path
    cluster: Path
    sockets: Path
    binaries: Binaries
    account: Account | None

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.cluster / "data"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.cluster / "postgres.log"

    def give(self, path: Path) -> None:
        """Hand a file or folder to the service user, where there is one."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)


def find_place(home: Path, secret: bytes) -> Place:
    """Find, and create where missing, the folders of a home's database.

    As root all lies below /var/lib/dumont, where the service user can reach it, in a folder that the home records; the
    folder's name follows from home and secret, so that a home that was deleted and made anew does not meet old data.
    Errors: DatabaseStartError for folders that belong to a stranger or cannot be made.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = home.resolve()
        return _root_place(home, secret) if os.geteuid() == 0 else _own_place(home)
    except OSError as error:
        raise DatabaseStartError(
            f"The folders of the database of {home} cannot be made ({error}). Mend that, or set DUMONT_HOME elsewhere."
        ) from error


def _own_place(home: Path) -> Place:
    cluster = home / "postgres"
    cluster.mkdir(mode=0o700, exist_ok=True)
    sockets = home / "run"
    if not _fits(sockets):
        name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        sockets = Path(tempfile.gettempdir()) / f"dumont-{os.geteuid()}-{name}"
        sockets = sockets if _fits(sockets) else Path("/tmp") / sockets.name
    _private_folder(sockets, os.geteuid())
    return Place(home, cluster, sockets, installed_binaries(), None)


def _root_place(home: Path, secret: bytes) -> Place:
    account = service_account()
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    _refuse_stranger(SYSTEM_FOLDER, 0)
    cluster = recorded_cluster(home / "postgres.json") or _name_cluster(home, secret)
    _refuse_stranger(cluster, 0)
    os.chown(cluster, 0, account.gid)
    cluster.chmod(0o750)
    place = Place(home, cluster, cluster / "run", shared_binaries(SYSTEM_FOLDER), account)
    if not place.sockets.exists():
        place.sockets.mkdir(mode=0o700)
        place.give(place.sockets)
    _private_folder(place.sockets, account.uid)
    return place


def _name_cluster(home: Path, secret: bytes) -> Path:
    cluster = SYSTEM_FOLDER / derive_key(secret, f"database-folder:{home}").hex()[:16]
    cluster.mkdir(mode=0o750, exist_ok=True)
    record = home / "postgres.json"
    draft = record.with_suffix(".new")
    draft.write_text(json.dumps({"cluster": str(cluster)}) + "\n")
    draft.replace(record)
    return cluster


def has_cluster(home: Path) -> bool:
    """Tell whether a home has a database, without making anything.

    Errors: DatabaseStartError where the home names a folder that is gone.
    """
    recorded = recorded_cluster(home / "postgres.json") if os.geteuid() == 0 else home / "postgres"
    return recorded is not None and (recorded / "data").is_dir()


def recorded_cluster(record: Path) -> Path | None:
    """Read where a home says its database is; None where it says nothing yet."""
    if not record.exists():
        return None
    try:
        cluster = Path(json.loads(record.read_text())["cluster"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseStartError(
            f"{record} does not say where the database is ({error}). Restore that file."
        ) from error
    if not cluster.is_dir():
        raise DatabaseStartError(
            f"{record} says that the database is in {cluster}, and that folder is gone. Put it back, or delete "
            f"{record} to begin with an empty database."
        )
    return cluster


def _fits(sockets: Path) -> bool:
    return len(os.fsencode(sockets / f".s.PGSQL.{PORT}")) <= _SOCKET_LIMIT


def _private_folder(folder: Path, uid: int) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    _refuse_stranger(folder, uid)
    folder.chmod(0o700)


def _refuse_stranger(folder: Path, uid: int) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
        raise DatabaseStartError(
            f"{folder} is not a folder that only user {uid} can write to, so the database will not use it. Remove it, "
            "or give it to that user and take write permission from all others."
        )
