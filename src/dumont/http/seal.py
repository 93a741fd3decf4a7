"""Secrets that must be given out a second time: sealed with AES-GCM in the database, bound to the place they lie in."""

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


def seal(key: bytes, content: bytes, place: str) -> bytes:
    """Encrypt with a 32-byte key; only the same key and place open it again.

    Source: NIST SP 800-38D, a random nonce of 96 bits before the ciphertext.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, place.encode())


def unseal(key: bytes, sealed: bytes, place: str) -> bytes:
    """Decrypt what `seal` made.

    Errors: cryptography's InvalidTag for another key or place, or for altered content.
    """
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
