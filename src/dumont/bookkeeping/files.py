"""What a bank's file says, whatever its form: text of unknown encoding, dates, amounts, and lines that have a key."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from dumont.core import read_amount, to_units
from dumont.http import problems

MOST_BYTES = 700_000
MOST_LINES = 1000
_MOST_ERRORS = 20
_LONGEST = 500
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_DAY_FIRST = re.compile(r"([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4}|[0-9]{2})\b")
_YEAR_FIRST = re.compile(r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})")
_COMMA_CENTS = re.compile(r",[0-9]{1,2}(?![0-9])")
_POINT_CENTS = re.compile(r"\.[0-9]{1,2}(?![0-9])")


@dataclass(frozen=True)
class Line:
    """One movement of an account as a file tells it; `cents` is signed, `name` what the bank calls it, if anything."""

    number: int
    date: date
    cents: int
    description: str
    name: str | None
    turn: int = 0

    @property
    def key(self) -> str:
        """What names this movement in every file that tells of it: the bank's name for it, or else what it says.

        Some banks give one name to several movements, so day and amount belong to it too.
        """
        said = self.name if self.name is not None else f"{_folded(self.description)}\0{self.turn}"
        text = "\0".join(("named" if self.name else "told", said, self.date.isoformat(), str(self.cents)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class File:
    """A bank's file as it was read; `skipped` counts lines that move nothing, such as balances."""

    form: str
    currency: str | None
    lines: Sequence[Line]
    skipped: int = 0


@dataclass(frozen=True)
class Raw:
    """A movement as text, before dates and amounts are understood."""

    number: int
    date: str
    amount: str
    description: str
    name: str | None = None


def unreadable(detail: str) -> problems.InvalidRequest:
    """Make the problem of a file that cannot be read at all."""
    return problems.InvalidRequest([problems.field_error("/content_base64", detail, "unreadable")])


def decode(content: bytes, told: str | None = None) -> str:
    """Turn a file's bytes into text: UTF-8 where it is that, else as it says itself, else Windows' Latin letters.

    Errors: InvalidRequest for what is no text.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1" if told == "iso-8859-1" else "cp1252", errors="replace")
    if "\0" in text:
        raise unreadable("This is not a text file.")
    return text


def understand(raws: Iterable[Raw], *, comma_by_default: bool) -> list[Line]:
    """Understand dates and amounts of a whole file at once: each of its lines follows the same custom.

    Of two that have one name, day and amount the second is the first once more, unless it says something else.
    Errors: InvalidRequest that names the lines which cannot be understood.
    """
    rows = list(raws)
    if len(rows) > MOST_LINES:
        raise unreadable(f"At most {MOST_LINES} movements at a time. Split the file.")
    read_day = _day_reader([row.date for row in rows])
    comma = _has_comma([row.amount for row in rows], comma_by_default)
    lines: list[Line] = []
    wrong: list[dict[str, str]] = []
    seen: dict[str, int] = {}
    named: dict[str, str] = {}
    for row in rows:
        try:
            cents = to_units(_read(row.amount, comma), 2)
            line = Line(row.number, read_day(row.date), cents, tidy(row.description), row.name)
        except ValueError as error:
            wrong.append(problems.field_error(f"/lines/{row.number}", str(error), "unreadable"))
            continue
        if line.name is not None and named.setdefault(line.key, _folded(line.description)) != _folded(line.description):
            line = replace(line, name=None)
        turn = seen[line.key] = seen.get(line.key, -1) + 1
        if cents and (line.name is None or not turn):
            lines.append(line if line.name is not None else replace(line, turn=turn))
    if wrong:
        raise problems.InvalidRequest(wrong[:_MOST_ERRORS], f"{len(wrong)} lines of the file cannot be understood.")
    return lines


def tidy(text: str) -> str:
    """Return a description as it is kept: one line, one Unicode form, not too long, never empty."""
    line = " ".join(_CONTROL.sub(" ", unicodedata.normalize("NFC", text)).split())
    return line[:_LONGEST].strip() or "Imported"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _has_comma(amounts: Sequence[str], default: bool) -> bool:
    votes = sum(bool(_COMMA_CENTS.search(one)) - bool(_POINT_CENTS.search(one)) for one in amounts)
    return default if votes == 0 else votes > 0


def _read(amount: str, comma: bool) -> Decimal:
    """Read an amount by the file's custom, or one that follows another and can mean only one thing."""
    try:
        return read_amount(amount, comma=comma)
    except ValueError:
        return read_amount(amount)


def _day_reader(texts: Sequence[str]) -> Callable[[str], date]:
    """Choose between day first, as in Brazil, and month first where only that makes sense of every line."""
    pairs = [found.groups() for text in texts if (found := _DAY_FIRST.match(text.strip()))]
    month_first = any(int(second) > 12 for _, second, _ in pairs) and all(int(first) <= 12 for first, _, _ in pairs)

    def read(text: str) -> date:
        if year_first := _YEAR_FIRST.match(text.strip()):
            return _date(*(int(part) for part in year_first.groups()))
        if parts := _DAY_FIRST.match(text.strip()):
            first, second, year = (int(part) for part in parts.groups())
            day, month = (second, first) if month_first else (first, second)
            return _date(year + 2000 if year < 100 else year, month, day)
        raise ValueError("This is not a date. Write it as 31/12/2026 or 2026-12-31.")

    return read


def _date(year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        raise ValueError("There is no such day.") from None
