"""Keys and passwords that follow from the installation's secret key, so that only one secret is kept.

Source: HKDF-expand with SHA-256, RFC 5869 section 2.3 (the secret key is already uniform).
"""

import base64
import hashlib
import hmac


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Return a 32-byte key for one purpose; other purposes tell nothing about it."""
    return hmac.new(secret, purpose.encode() + b"\x01", hashlib.sha256).digest()


def derive_password(secret: bytes, purpose: str) -> str:
    """Return a printable password for one purpose (URL-safe, 43 characters)."""
    return base64.urlsafe_b64encode(derive_key(secret, purpose)).decode().rstrip("=")
