"""Public SSH keys: read, checked and brought to one form."""

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

_MIN_RSA_BITS = 3072
_KINDS = frozenset({"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"})


@dataclass(frozen=True)
class PublicKey:
    """A key as `<kind> <base64>`, without options or comment, and its SHA-256 fingerprint as OpenSSH shows it."""

    line: str
    fingerprint: str


def read_public_key(text: str) -> PublicKey:
    """Read one line of an OpenSSH public key file.

    Guarantees: the line holds nothing but kind and key, so that it cannot bring options into an authorized_keys file.
    Errors: ValueError with a sentence for what is not such a line, another kind, or RSA below 3072 bits.
    """
    parts = text.strip().split(None, 2)
    if len(parts) < 2 or parts[0] not in _KINDS or "\n" in text.strip() or "\r" in text.strip():
        raise ValueError(f"Must be one line of an OpenSSH public key of a kind among: {', '.join(sorted(_KINDS))}.")
    line = f"{parts[0]} {parts[1]}"
    try:
        key = load_ssh_public_key(line.encode("ascii"))
        blob = base64.b64decode(parts[1], validate=True)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("The key itself cannot be read: copy the whole line of the .pub file.") from error
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"RSA keys must have at least {_MIN_RSA_BITS} bits; better make an ed25519 key.")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(line, f"SHA256:{digest}")
