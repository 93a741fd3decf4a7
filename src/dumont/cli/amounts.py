"""Amounts and days as people write them here: `R$ 1.234,56` and 31/12/2026, or `1,234.56` and 2026-12-31."""

import os
import re
from datetime import date
from typing import Any

from dumont.cli.exit import CliError
from dumont.cli.words import UNKNOWN
from dumont.core import read_amount, show_amount

_DAY_FIRST = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")


def is_brazilian() -> bool:
    """Tell whether the reader's locale is that of Brazil."""
    named = next((os.environ[name] for name in ("LC_ALL", "LC_MONETARY", "LANG") if os.environ.get(name)), "")
    return named.replace("-", "_").startswith("pt_BR")


def shown(amount: Any, currency: Any) -> str:
    """Show a decimal string of the API by the reader's custom; a dash where it is unknown."""
    if not isinstance(amount, str):
        return UNKNOWN
    return show_amount(amount, str(currency), comma=is_brazilian())


def given(amount: str, decimals: int = 2) -> str:
    """Read an amount that somebody typed and write it as the API takes it.

    Errors: CliError for what is no amount, has more decimals, or could be two amounts where the reader's custom does
    not say which.
    """
    try:
        value = _read(amount)
    except ValueError as error:
        raise CliError(f"{error} Write it as 1234.56 or 'R$ 1.234,56'.") from error
    exponent = value.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -decimals:
        raise CliError(f"An amount has at most {decimals} decimal digits here.")
    return f"{value:.{decimals}f}"


def day(text: str | None) -> str | None:
    """Read a day that somebody typed, 31/12/2026 or 2026-12-31, as the API takes it. Errors: CliError."""
    if text is None:
        return None
    found = _DAY_FIRST.fullmatch(text.strip())
    try:
        if found:
            return date(int(found[3]), int(found[2]), int(found[1])).isoformat()
        return date.fromisoformat(text.strip()).isoformat()
    except ValueError as error:
        raise CliError("A day is written as 31/12/2026 or 2026-12-31.") from error


def _read(amount: str) -> Any:
    try:
        return read_amount(amount)
    except ValueError:
        if not is_brazilian():
            raise
        return read_amount(amount, comma=True)
