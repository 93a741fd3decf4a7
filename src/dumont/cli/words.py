"""Figures as people read them; what is unknown is shown as a dash, never as zero."""

from datetime import datetime, timezone
from decimal import Decimal

from dumont.client import Money

UNKNOWN = "-"
_SIGNS = {"USD": "$", "BRL": "R$", "EUR": "€"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def price(money: Money | None, *, per_hour: bool = True) -> str:
    """Show a price with at least four decimals, so that small differences stay visible: `$0.3508/h`."""
    if money is None:
        return UNKNOWN
    return amount(money, 4) + ("/h" if per_hour else "")


def amount(money: Money | None, decimals: int = 4) -> str:
    """Show an amount of money."""
    if money is None:
        return UNKNOWN
    sign = _SIGNS.get(money.currency)
    number = f"{money.amount.quantize(Decimal(1).scaleb(-decimals)):f}"
    return f"{sign}{number}" if sign else f"{number} {money.currency}"


def size(count: float | None) -> str:
    """Show a number of bytes in binary units."""
    if count is None:
        return UNKNOWN
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def memory(mib: float | None) -> str:
    """Show a card's memory, given in MiB, in whole GB as makers state it."""
    return UNKNOWN if mib is None else f"{mib / 1024:.0f} GB"


def number(value: float | None, unit: str = "", decimals: int = 0) -> str:
    """Show a plain number."""
    return UNKNOWN if value is None else f"{value:,.{decimals}f}{unit}"


def percent(share: float | None, decimals: int = 1) -> str:
    """Show a share of one as a percentage."""
    return UNKNOWN if share is None else f"{100 * share:.{decimals}f}%"


def span(seconds: float | None) -> str:
    """Show a length of time with its two largest units."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    for unit, length, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def moment(when: datetime | None) -> str:
    """Show a point in time in the reader's own zone."""
    return UNKNOWN if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the length of a stretch of time, None where an end is unknown."""
    return None if start is None or end is None else (end - start).total_seconds()


def now() -> datetime:
    """Return the present moment, aware of its zone."""
    return datetime.now(timezone.utc)


def text(value: object) -> str:
    """Show anything else; control characters, which could drive a terminal, are taken out."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(sign for sign in str(value) if sign.isprintable())


def gpus(name: str | None, count: int | None) -> str:
    """Show which cards and how many: `2 x RTX 4090`."""
    if count == 0:
        return "no GPU"
    shown = text(name)
    return shown if count in (None, 1) else f"{count} x {shown}"


def short(full_id: str | None) -> str:
    """Show the end of an id, which tells rows apart and is accepted wherever an id is."""
    return UNKNOWN if not full_id else text(full_id)[-8:]
