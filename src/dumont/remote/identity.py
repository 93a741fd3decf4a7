"""The SSH key by which the product logs in to rented machines."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dumont.remote.errors import RemoteError


@dataclass(frozen=True, slots=True)
class SshIdentity:
    """An ed25519 key pair in OpenSSH's text forms; the private half never shows in a repr."""

    private_key_openssh: str = field(repr=False)
    public_key: str

    @classmethod
    def generate(cls, comment: str) -> "SshIdentity":
        """Make a new key pair; the comment goes into both halves."""
        key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
        return cls(key.export_private_key("openssh").decode("ascii"), _public(key))

    @classmethod
    def from_seed(cls, seed: bytes, comment: str) -> "SshIdentity":
        """Make the key pair that belongs to 32 secret bytes, so that every replica has the same one and keeps no file.

        Source: RFC 8032, section 5.1.5: an Ed25519 private key is 32 uniform bytes.
        """
        key = Ed25519PrivateKey.from_private_bytes(seed)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
        return cls(text, f"{line} {comment}")

    @classmethod
    def load_or_create(cls, path: Path) -> "SshIdentity":
        """Read the key at `path`, or make one there.

        Guarantees: the file is 0600 and appears whole; of two callers at once both get the same key.
        Errors: RemoteError for a file that is no usable key, is readable by others, or cannot be written.
        """
        try:
            if not path.exists():
                _create(path, cls.generate("dumont-cloud"))
            if path.stat().st_mode & 0o077:
                raise RemoteError(f"Others may read the SSH key {path}. Make it private: chmod 600 {path}")
            private = path.read_text(encoding="ascii")
            return cls(private, _public(asyncssh.import_private_key(private)))
        except OSError as error:
            raise RemoteError(f"The SSH key {path} cannot be read or made: {error.strerror}.") from error
        except (asyncssh.KeyImportError, UnicodeDecodeError) as error:
            raise RemoteError(f"{path} is not a private SSH key without passphrase. Move it away.") from error


def _public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key("openssh").decode("ascii").strip()


def _create(path: Path, identity: SshIdentity) -> None:
    """Write a temporary file and link it into place, which never replaces a key that somebody else just made."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(identity.private_key_openssh)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
