"""Opaque tokens: random text of which the database keeps only a digest.

A plain SHA-256 is enough where the text has 256 random bits: there is nothing to guess.
"""

import hashlib
import secrets

from dumont.core import derive_key

API_TOKEN_PREFIX = "dmt_"
REFRESH_TOKEN_PREFIX = "dmr_"
SHOWN_LENGTH = 12
_MAX_LENGTH = 200


def new_api_token() -> str:
    """Make a token for programs, such as `dmt_...`."""
    return API_TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_refresh_token() -> str:
    """Make a refresh token."""
    return REFRESH_TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """Return what the database knows of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def retry_key_of(token: str, idempotency_key: str) -> bytes:
    """Return what the database knows of the Idempotency-Key with which a refresh token was spent."""
    return hashlib.sha256(digest(token) + idempotency_key.encode("utf-8", "surrogatepass")).digest()


def retry_seal_key(secret: bytes, token: str) -> bytes:
    """Return the key of an answer kept for a retry: it needs the installation's secret and the spent token itself."""
    return derive_key(derive_key(secret, "refresh-retry"), token[:_MAX_LENGTH])
