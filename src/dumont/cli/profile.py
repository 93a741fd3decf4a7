"""Who the person at this keyboard is: the profile file, and what the environment puts in its place."""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dumont.cli.exit import CliError
from dumont.core import load_settings

_EARLY = 30.0
"""Seconds before its end from which a token counts as spent."""


@dataclass(frozen=True)
class Profile:
    """What `cli.json` holds. Units: `expires_at` in seconds of Unix time. `other` keeps members of other versions."""

    url: str
    user: str | None = None
    access_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    refresh_token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    signed_out: bool = False
    ssh_key: str | None = None
    other: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def live_token(self) -> str | None:
        """The token, unless its time is over."""
        if self.expires_at is not None and self.expires_at - _EARLY < time.time():
            return None
        return self.access_token


@dataclass(frozen=True)
class Place:
    """The folder of the profile and the keys."""

    home: Path

    @property
    def profile(self) -> Path:
        """The profile file."""
        return self.home / "cli.json"

    @property
    def ssh(self) -> Path:
        """The folder of the key pair and the known hosts."""
        return self.home / "ssh"


def find_place() -> Place:
    """Return where this person's files are (DUMONT_HOME, else the data folder of the desktop standard)."""
    return Place(load_settings().home)


def default_url() -> str:
    """Return where a server on this machine listens, by the settings."""
    settings = load_settings()
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


def load_profile(place: Place) -> Profile:
    """Read the profile; DUMONT_URL and DUMONT_TOKEN win over the file.

    Guarantees: a token or password of the file is never used for another server than the one it belongs to.
    Errors: CliError when the file is there but cannot be read.
    """
    profile = _read(place.profile)
    url, token = os.environ.get("DUMONT_URL"), os.environ.get("DUMONT_TOKEN")
    if url and url.rstrip("/") != profile.url.rstrip("/"):
        profile = Profile(url=url)
    if token:
        given = replace(profile, access_token=token, expires_at=None, signed_out=False)
        profile = replace(given, refresh_token=None, password=None)
    return profile


def token_is_given() -> bool:
    """Tell whether the environment, not the file, says who is calling."""
    return bool(os.environ.get("DUMONT_TOKEN"))


def save_profile(place: Place, profile: Profile) -> None:
    """Write the profile: whole or not at all, readable by its owner only."""
    document = {
        **profile.other,
        "url": profile.url,
        "user": profile.user,
        "access_token": profile.access_token,
        "expires_at": profile.expires_at,
        "refresh_token": profile.refresh_token,
        "password": profile.password,
        "signed_out": profile.signed_out or None,
        "ssh_key": profile.ssh_key,
    }
    kept = {name: value for name, value in document.items() if value is not None}
    write_private(place.profile, json.dumps(kept, indent=2) + "\n")


@contextmanager
def one_at_a_time(place: Place) -> Iterator[None]:
    """Let one command at a time renew the session: a refresh token that two of them spend ends it.

    Errors: CliError when the folder cannot be written.
    """
    try:
        place.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(place.home / "cli.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CliError(f"{place.home} cannot be written ({error.strerror}). Point DUMONT_HOME elsewhere.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, by way of a new file beside it.

    Errors: CliError when the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CliError(
            f"{path} cannot be written ({error.strerror}). Point DUMONT_HOME to a folder of yours."
        ) from error


def _read(path: Path) -> Profile:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Profile(url=default_url())
    except (OSError, ValueError) as error:
        raise CliError(f"The profile {path} cannot be read. Mend or delete it, then `dumont login`.") from error
    if not isinstance(found, dict):
        raise CliError(f"The profile {path} is not a JSON object. Delete it, then `dumont login`.")
    known = {"url", "user", "access_token", "expires_at", "refresh_token", "password", "signed_out", "ssh_key"}
    return Profile(
        url=_text(found.get("url")) or default_url(),
        user=_text(found.get("user")),
        access_token=_text(found.get("access_token")),
        expires_at=_seconds(found.get("expires_at")),
        refresh_token=_text(found.get("refresh_token")),
        password=_text(found.get("password")),
        signed_out=found.get("signed_out") is True,
        ssh_key=_text(found.get("ssh_key")),
        other={name: value for name, value in found.items() if name not in known},
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
