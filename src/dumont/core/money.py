"""Money as whole minor units: prices and usage in nano-dollars, shown with six decimals."""

from decimal import ROUND_HALF_EVEN, Decimal

NANO = 1_000_000_000
"""Nano-dollars in one dollar: GPU prices are per second, so cents and even micro-dollars are too coarse."""


def nanousd(value: "Decimal | int | float | str") -> int:
    """Turn a dollar amount of the outside world into nano-dollars, half to even.

    Errors: ValueError for NaN, infinite or unreadable amounts.
    """
    number = Decimal(str(value)) if not isinstance(value, Decimal) else value
    if not number.is_finite():
        raise ValueError(f"not an amount of money: {value!r}")
    return int((number * NANO).to_integral_value(rounding=ROUND_HALF_EVEN))


def money_document(nano: int, currency: str = "USD") -> dict[str, str]:
    """Show nano-dollars as the API's Money: `{"amount": "0.412000", "currency": "USD"}`."""
    amount = (Decimal(nano) / NANO).quantize(Decimal("0.000001"), rounding=ROUND_HALF_EVEN)
    return {"amount": format(amount, "f"), "currency": currency}
