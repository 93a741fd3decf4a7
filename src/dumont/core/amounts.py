"""Amounts of money as people write them, Brazilian or plain, turned into whole units and back; never a float."""

import re
from decimal import Decimal

_SIGNS = {"BRL": ("R$ ", "R$ "), "USD": ("$", "US$ "), "EUR": ("€", "€ ")}
_COMMA = re.compile(r"(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+)(?:,([0-9]{1,6}))?")
_POINT = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.([0-9]{1,6}))?")
_LONGEST = 40


def read_amount(text: str, *, comma: bool | None = None) -> Decimal:
    """Read an amount such as `R$ 1.652,29`, `-1,652.29`, `1652.29`, `(12,50)` or `12,50 D`.

    `comma` says whether the comma is the decimal sign; None looks at the text, and `1.234` alone, which could be
    either, is refused.
    Guarantees: exact; brackets, a minus on either side and a final D (débito) make it negative.
    Errors: ValueError for what is no amount or could be two.
    """
    bare, negative = _bare(text)
    forms = {True: _COMMA, False: _POINT}
    found = {sign for sign, form in forms.items() if comma in (None, sign) and form.fullmatch(bare)}
    if not found:
        raise ValueError("This is not an amount of money.")
    values = {_exact(bare, sign) for sign in found}
    if len(values) > 1:
        raise ValueError("This amount can be read in two ways. Write its cents too.")
    value = values.pop()
    return -value if negative and value else value


def to_units(value: Decimal, scale: int) -> int:
    """Turn an amount into whole units of a currency with `scale` decimal digits.

    Errors: ValueError where it has more digits than the currency.
    """
    units = value.scaleb(scale)
    whole = int(units)
    if whole != units:
        raise ValueError(f"An amount has at most {scale} decimal digits.")
    return whole


def plain_amount(units: int, scale: int) -> str:
    """Write whole units as a decimal string, with two digits after the point or as many more as there are."""
    sign, digits = "-" if units < 0 else "", str(abs(units)).rjust(scale + 1, "0")
    whole, rest = digits[: len(digits) - scale], digits[len(digits) - scale :]
    return f"{sign}{whole}.{rest.rstrip('0').ljust(2, '0')}"


def show_amount(value: str, currency: str, *, comma: bool = False) -> str:
    """Write a decimal string for people: `R$ 1.652,29` where the comma is the decimal sign, else `R$ 1,652.29`.

    Without a currency, the number alone.
    """
    negative = value.startswith("-")
    whole, _, rest = value.lstrip("-").partition(".")
    grouped = f"{int(whole):,}"
    if comma:
        grouped = grouped.replace(",", ".")
    number = grouped + ("," if comma else ".") + rest.ljust(2, "0")
    signs = _SIGNS.get(currency)
    shown = f"{signs[comma]}{number}" if signs else f"{number} {currency}".strip()
    return f"-{shown}" if negative else shown


def _bare(text: str) -> tuple[str, bool]:
    """Take signs and currency away and tell whether the amount is negative."""
    if len(text) > _LONGEST:
        raise ValueError("This is too long for an amount of money.")
    rest = "".join(text.replace("\u2212", "-").split()).upper()
    negative = False
    if rest.startswith("(") and rest.endswith(")"):
        rest, negative = rest[1:-1], True
    for mark in ("BRL", "USD", "R$", "US$", "$"):
        rest = rest.replace(mark, "", 1) if mark in rest else rest
    if rest.endswith(("D", "C")):
        rest, negative = rest[:-1], negative or rest.endswith("D")
    if rest.startswith("-") or rest.endswith("-"):
        rest, negative = rest.removeprefix("-").removesuffix("-"), True
    return rest.removeprefix("+"), negative


def _exact(bare: str, comma: bool) -> Decimal:
    plain = bare.replace(".", "").replace(",", ".") if comma else bare.replace(",", "")
    return Decimal(plain)
