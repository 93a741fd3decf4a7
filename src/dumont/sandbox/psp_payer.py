"""The payer of the simulated payment service: reads a code as a bank's app does, and says how it pays.

Written apart from what makes the codes, so that each proves the other.
"""

import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

_ISPB = "99999999"
_MOST_COPIES = 50


class BadPayment(ValueError):
    """The wish or the code cannot be read."""


@dataclass(frozen=True)
class Wish:
    """How somebody pays: by `txid` or by `code`.

    `amount` is another one than asked, and `force` pays what a bank would refuse: an unknown, expired or removed
    charge, another amount. `copies` notices are sent after `delay_s` real seconds, or held until they are asked for;
    `notice_amount` is what they say where that is a lie. Units: centavos.
    """

    txid: str | None
    code: str | None
    amount: int | None
    force: bool
    copies: int
    delay_s: float
    hold: bool
    notice_amount: int | None


def read_wish(body: dict[str, Any]) -> Wish:
    """Read what `/_psp/sim/pay` was sent.

    Errors: BadPayment.
    """
    txid, code = body.get("txid"), body.get("code")
    copies, delay = body.get("copies", 1), body.get("delay_s", 0)
    if not all(value is None or isinstance(value, str) for value in (txid, code)):
        raise BadPayment("txid and code are texts")
    if not isinstance(copies, int) or not 0 <= copies <= _MOST_COPIES or not isinstance(delay, (int, float)):
        raise BadPayment(f"copies is a number from 0 to {_MOST_COPIES}, delay_s a number")
    return Wish(
        txid=txid,
        code=code,
        amount=_amount(body.get("amount")),
        force=body.get("force") is True,
        copies=copies,
        delay_s=float(delay),
        hold=body.get("hold") is True,
        notice_amount=_amount(body.get("notice_amount")),
    )


def read_location(code: str) -> str:
    """Return where the details of a code's charge are, once its check sum is right.

    Errors: BadPayment.
    """
    if not code.isascii() or len(code) < 8 or f"{_crc(code[:-4].encode()):04X}" != code[-4:]:
        raise BadPayment("the code's check sum is wrong")
    fields = _fields(code)
    merchant = _fields(fields.get("26", ""))
    if merchant.get("00", "").lower() != "br.gov.bcb.pix" or "25" not in merchant or fields.get("53") != "986":
        raise BadPayment("the code is not one of a dynamic Pix charge")
    return merchant["25"]


def end_to_end_id(now_s: float) -> str:
    """Make the id of a payment: E, the payer's bank, the minute, 11 letters and digits; source: Bacen, API Pix."""
    minute = datetime.fromtimestamp(now_s, tz=timezone.utc).strftime("%Y%m%d%H%M")
    return f"E{_ISPB}{minute}" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(11))


def _fields(text: str) -> dict[str, str]:
    found = {}
    rest = text
    while rest:
        head, rest = rest[:4], rest[4:]
        if len(head) < 4 or not head.isdecimal() or len(rest) < int(head[2:]):
            raise BadPayment("the code's fields do not follow each other")
        found[head[:2]], rest = rest[: int(head[2:])], rest[int(head[2:]) :]
    return found


def _crc(data: bytes) -> int:
    """CRC-16 with polynomial 0x1021, begun with ones, bit by bit."""
    value = 0xFFFF
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value


def _amount(value: Any) -> int | None:
    if value is None:
        return None
    head, dot, tail = str(value).partition(".")
    if dot != "." or len(tail) != 2 or not (head + tail).isdecimal():
        raise BadPayment("an amount is a decimal with two digits")
    return int(head + tail)
