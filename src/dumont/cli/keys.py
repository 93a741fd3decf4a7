"""The person's own key pair: made once beside the profile, registered once with the account."""

import base64
import binascii
import fcntl
import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dumont.cli.exit import CliError
from dumont.cli.profile import Place, token_is_given
from dumont.cli.session import Signed
from dumont.client import ApiProblem, SshKey


def private_key(place: Place) -> Path:
    """Return the path of the private key, after making the pair where there is none.

    Errors: CliError when the folder cannot be written.
    """
    path = place.ssh / "id_ed25519"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _complete_pair(path)
    except OSError as error:
        raise CliError(f"No SSH key can be made in {path.parent} ({error.strerror}).") from error
    return path


def fingerprint(public_key: str) -> str:
    """Return the SHA-256 fingerprint of a public key as OpenSSH writes it.

    Errors: CliError for text that is no public key.
    """
    try:
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (IndexError, binascii.Error) as error:
        raise CliError("The SSH public key beside the profile is not readable. Delete it and try again.") from error
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def register_key(signed: Signed) -> None:
    """See to it that machines rented from now on accept this person's key.

    Guarantees: asks the server once per account and key; later calls only read the profile. An API token may not add
    keys: then a sentence says so, and machines accept the keys that the account has.
    """
    public_key = private_key(signed.place).with_suffix(".pub").read_text(encoding="ascii").strip()
    mark = f"{signed.profile.user or ''}@{signed.profile.url} {fingerprint(public_key)}"
    if signed.profile.ssh_key == mark and not token_is_given():
        return
    prints = {key.fingerprint for key in signed.client.ssh_keys()}
    if fingerprint(public_key) not in prints:
        tail = fingerprint(public_key)[7:15]
        try:
            signed.client.add_ssh_key(f"dumont cli on {platform.node() or 'this computer'} ({tail})", public_key)
        except ApiProblem as error:
            if error.code != "session-required":
                raise
            print("An API token cannot register this computer's SSH key: sign in once to do it.", file=sys.stderr)
            return
    signed.keep(replace(signed.profile, ssh_key=mark))


def registered_key(signed: Signed) -> SshKey:
    """Return this computer's key as the account has it, after registering it where it is missing.

    Errors: CliError where an API token is used, which may not add keys.
    """
    register_key(signed)
    own = fingerprint(private_key(signed.place).with_suffix(".pub").read_text(encoding="ascii"))
    found = next((key for key in signed.client.ssh_keys() if key.fingerprint == own), None)
    if found is None:
        raise CliError("This computer's SSH key is not registered. Sign in with `dumont login` and try again.")
    return found


def _complete_pair(path: Path) -> None:
    public = path.with_suffix(".pub")
    if path.is_file() and public.is_file():
        return
    if path.is_file():
        _write_public(path, public)
        return
    beside = path.with_name(f".id_ed25519.{secrets.token_hex(4)}")
    _make_pair(beside)
    beside.with_name(beside.name + ".pub").replace(public)
    beside.replace(path)


def _make_pair(path: Path) -> None:
    comment = f"dumont@{platform.node() or 'cli'}"
    if shutil.which("ssh-keygen"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    _make_in_process(path, comment)


def _make_in_process(path: Path, comment: str) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secret)
    path.with_name(path.name + ".pub").write_text(f"{public.decode()} {comment}\n", encoding="ascii")


def _write_public(path: Path, target: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    try:
        key = form.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise CliError(f"The SSH key {path} is not readable. Delete it and try again.") from error
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    target.write_text(f"{public.decode()}\n", encoding="ascii")
