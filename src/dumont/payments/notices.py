"""Signed notices: HMAC-SHA256 over the time and the body, good for five minutes."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from dumont.payments.contract import InvalidSignature, Notice

HEADER = "x-pix-signature"
WINDOW_SECONDS = 300
_MOST_DIGITS = 12


def sign(secret: str, real_seconds: int, body: bytes) -> str:
    """Return the header's value: `t=<Unix seconds>,v1=<hex HMAC of "<t>.<body>">`."""
    mac = hmac.new(secret.encode(), f"{real_seconds}.".encode() + body, hashlib.sha256)
    return f"t={real_seconds},v1={mac.hexdigest()}"


def check_signature(secret: str, headers: Mapping[str, str], body: bytes, *, real_now: float) -> None:
    """See that the body was signed within the window, by whoever has the secret.

    Errors: InvalidSignature.
    """
    given = headers.get(HEADER, "")
    parts = dict(part.partition("=")[::2] for part in given.split(","))
    moment = parts.get("t", "")
    if not moment.isascii() or not moment.isdecimal() or len(moment) > _MOST_DIGITS:
        raise InvalidSignature
    if not hmac.compare_digest(sign(secret, int(moment), body).encode(), given.encode()):
        raise InvalidSignature
    if abs(real_now - int(moment)) > WINDOW_SECONDS:
        raise InvalidSignature(f"This notice was not signed within the last {WINDOW_SECONDS // 60} minutes.")


def notices_of(body: bytes) -> list[Notice]:
    """Read `{"pix": [{endToEndId, txid, valor, horario}]}`; amounts and times are not believed and not read.

    Errors: InvalidSignature for a body that the service would never sign.
    """
    try:
        listed = json.loads(body)["pix"]
        return [_notice(entry) for entry in listed]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidSignature("This is not a notice of payments.") from error


def _notice(entry: dict[str, Any]) -> Notice:
    end_to_end_id, txid = entry["endToEndId"], entry.get("txid")
    if not _is_word(end_to_end_id) or not (txid is None or _is_word(txid)):
        raise ValueError("not an id")
    return Notice(end_to_end_id, txid)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 35 and value.isascii() and value.isalnum()
