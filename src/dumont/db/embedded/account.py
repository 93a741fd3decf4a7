"""The system user that owns the database when Dumont runs as root, because PostgreSQL refuses to be root.

There is no fall back to `nobody`: other daemons share that user and could read the data folder or stop the server.
"""

import pwd
import shutil
import subprocess
from dataclasses import dataclass

from dumont.db.embedded.errors import DatabaseStartError

_NAMES = ("dumont", "dumont-postgres")
_CREATION = ["--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/dumont"]
_CREATION += ["--shell", "/usr/sbin/nologin"]
_FIRST_HUMAN_UID = 1000
"""Source: UID_MIN of login.defs(5), Debian's default."""


@dataclass(frozen=True)
class Account:
    """A system user by number."""

    name: str
    uid: int
    gid: int


def service_account() -> Account:
    """Return the service user, and create it when it is missing.

    Guarantees: never a person's account; a `dumont` that can be logged into by a person is passed over.
    Errors: DatabaseStartError where the user cannot be created.
    """
    for name in _NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return _create(name)
        if 0 < entry.pw_uid < _FIRST_HUMAN_UID:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise DatabaseStartError(
        f"PostgreSQL cannot run as root, and the users {' and '.join(_NAMES)} belong to people. Run Dumont as an "
        "ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
    )


def _create(name: str) -> Account:
    tool = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    said = "there is no useradd"
    if tool:
        made = subprocess.run(
            [tool, *_CREATION, name],
            capture_output=True,
            text=True,
            check=False,
        )
        said = made.stderr.strip()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise DatabaseStartError(
            f"PostgreSQL cannot run as root, and its system user {name} could not be created ({said}). Create it, run "
            "Dumont as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
        ) from None
    return Account(name, entry.pw_uid, entry.pw_gid)
