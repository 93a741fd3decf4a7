"""Take the slow part out of a repository's key file: our passwords are uniform, so stretching them buys nothing.

restic derives the key from the password by scrypt, tuned to half a second of a processor at every start. That is right
for words that people choose. Ours have 256 random bits, and every sync of every machine would pay for it.
Source: restic's design document, "Keys, Encryption and MAC" (AES-256-CTR and Poly1305-AES),
https://restic.readthedocs.io/en/stable/100_references.html#keys-encryption-and-mac
"""

import base64
import hashlib
import hmac
import json
import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from dumont.sync.model import SyncFailed
from dumont.vault import Store

LIGHT = {"N": 1024, "r": 8, "p": 1}
_SALT_BYTES = 64
_MOST_MEMORY = 1 << 30
_IV_BYTES = _MAC_BYTES = 16


def lighten(store: Store, password: str) -> None:
    """Write the repository's only key once more with light stretching, then take the heavy one away.

    Guarantees: at every moment one of the two is there, and both open the same repository.
    Errors: SyncFailed, StoreError.
    """
    for name, _ in list(store.list("keys/")):
        known = json.loads(store.get(name))
        if known["N"] <= LIGHT["N"]:
            continue
        light = rewrap(known, password)
        fresh = f"keys/{hashlib.sha256(light).hexdigest()}"
        store.put(fresh, light)
        store.delete(name)


def rewrap(known: dict[str, object], password: str) -> bytes:
    """Return a key file that holds the same keys as a known one, under the same password. Errors: SyncFailed."""
    stretched = _stretch(password, base64.b64decode(str(known["salt"])), known)
    plain = _open(stretched, base64.b64decode(str(known["data"])))
    salt = os.urandom(_SALT_BYTES)
    sealed = _seal(_stretch(password, salt, LIGHT), plain)
    fresh = {**known, **LIGHT, "salt": _text(salt), "data": _text(sealed)}
    return json.dumps(fresh, separators=(",", ":")).encode()


def _stretch(password: str, salt: bytes, cost: "dict[str, int] | dict[str, object]") -> bytes:
    n, r, p = (int(str(cost[name])) for name in ("N", "r", "p"))
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=64)


def _open(key: bytes, sealed: bytes) -> bytes:
    iv, ciphertext, mac = sealed[:_IV_BYTES], sealed[_IV_BYTES:-_MAC_BYTES], sealed[-_MAC_BYTES:]
    if not hmac.compare_digest(_mac(key, iv, ciphertext), mac):
        raise SyncFailed(
            "The history cannot be opened: its key is of another installation secret. Put the old secret back."
        )
    decryptor = Cipher(AES(key[:32]), CTR(iv)).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()


def _seal(key: bytes, plain: bytes) -> bytes:
    iv = os.urandom(_IV_BYTES)
    encryptor = Cipher(AES(key[:32]), CTR(iv)).encryptor()
    ciphertext = encryptor.update(plain) + encryptor.finalize()
    return iv + ciphertext + _mac(key, iv, ciphertext)


def _mac(key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """Poly1305-AES: the nonce goes through AES-128, and the other half of the key is Poly1305's r."""
    nonce = Cipher(AES(key[32:48]), ECB()).encryptor().update(iv)
    return Poly1305.generate_tag(key[48:64] + nonce, ciphertext)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
