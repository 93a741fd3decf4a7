"""The home folder of an installation: its lock, its secret key, its clock's epoch, and the first profile."""

import base64
import fcntl
import json
import os
import secrets
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from dumont.core import Settings, SettingsError, derive_key

SECRET_BYTES = 32


class StartError(Exception):
    """The product cannot start; the message is a sentence that says what to do."""


def open_home(settings: Settings) -> int:
    """Make the home folder (0700) and hold its lock; returns the lock's file descriptor.

    Errors: StartError when it cannot be made or another Dumont holds it.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(settings.home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"The folder {settings.home} cannot be used ({error.strerror}). Set DUMONT_HOME to one that can."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StartError(
            f"Dumont is already running in {settings.home}. Use it, stop it, or set DUMONT_HOME to another folder."
        ) from error
    return descriptor


def check_provider(settings: Settings) -> None:
    """See that the default provider can be had, before anything is started for it.

    Errors: StartError.
    """
    if settings.provider == "sandbox" or (settings.provider == "vast" and settings.vast_key is not None):
        return
    raise no_key(settings)


def no_key(settings: Settings) -> StartError:
    """Say that the default provider has no key in this installation, and what to set."""
    return StartError(
        f"DUMONT_PROVIDER is {settings.provider!r}, which has no key here. "
        "Set DUMONT_VAST_KEY for vast, or use sandbox."
    )


def check_temporary_folder() -> None:
    """See that temporary files can be written, without which much of what we import cannot even be loaded.

    Errors: StartError.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StartError(
            "No folder for temporary files can be written: the disk is full, or its rights are wrong. "
            "Free some space, or set TMPDIR to a folder that can be written, and start again."
        ) from error


def read_secret(settings: Settings) -> tuple[bytes, bool]:
    """Return the installation's secret key and whether it was made just now.

    Errors: StartError for a key of the wrong form.
    """
    if settings.secret_key is not None:
        return _decode(settings.secret_key, "DUMONT_SECRET_KEY"), False
    path = settings.home / "secret.key"
    if path.exists():
        return _decode(path.read_text(encoding="ascii", errors="replace"), str(path)), False
    secret = secrets.token_bytes(SECRET_BYTES)
    write_private(path, base64.b64encode(secret) + b"\n")
    return secret, True


def _decode(text: str, where: str) -> bytes:
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise StartError(f"{where} is not base64 of {SECRET_BYTES} bytes. Put the right key back.") from error
    if len(secret) != SECRET_BYTES:
        raise StartError(f"{where} holds {len(secret)} bytes and must hold {SECRET_BYTES}. Put the right key back.")
    return secret


def recovery_code(secret: bytes) -> str:
    """Write the secret key for paper: base 32 in groups of four. Whoever has it can read every snapshot."""
    text = base64.b32encode(secret).decode().rstrip("=")
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def settle_clock(settings: Settings) -> Settings:
    """Give a clock that does not run at real speed an epoch that stays the same over restarts.

    Errors: SettingsError when the speed differs from the one that this home has run at.
    """
    path = settings.home / "clock.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["speed"] != settings.clock_speed:
            raise SettingsError(
                f"This home has run at clock speed {known['speed']:g}; time would jump at {settings.clock_speed:g}. "
                "Set DUMONT_CLOCK_SPEED back, or use another DUMONT_HOME."
            )
        return replace(settings, clock_epoch=float(known["epoch"]))
    epoch = settings.clock_epoch or time.time()
    write_private(path, json.dumps({"epoch": epoch, "speed": settings.clock_speed}).encode())
    return replace(settings, clock_epoch=epoch)


def write_profile(home: Path, url: str, user: str, password: str) -> Path:
    """Write the first profile of the command line, readable by its owner only."""
    path = home / "cli.json"
    write_private(path, json.dumps({"url": url, "user": user, "password": password}, indent=2).encode())
    return path


def follow_url(home: Path, url: str, user: str) -> None:
    """Let the first user's profile name the address at which the server answers now.

    A profile that was deleted, that names another user or a server elsewhere is left as it is.
    Errors: StartError when it cannot be written.
    """
    path = home / "cli.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(known, dict) or known.get("user") != user or known.get("url") == url:
        return
    if urlsplit(str(known.get("url"))).hostname == urlsplit(url).hostname:
        write_private(path, json.dumps({**known, "url": url}, indent=2).encode())


def write_private(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with mode 0600.

    Errors: StartError when there is no room or no right to write.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise StartError(f"{path} cannot be written ({error.strerror}). Free some space or mend its rights.") from error


def purpose_key(secret: bytes, purpose: str) -> bytes:
    """Return the key of one part of the installation."""
    return derive_key(secret, purpose)
