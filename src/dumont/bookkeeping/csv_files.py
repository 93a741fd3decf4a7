"""CSV files: statements written for people and programs, and the many forms in which banks write theirs, read."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from dumont.bookkeeping.files import File, Raw, decode, understand, unreadable
from dumont.bookkeeping.reports import Statement
from dumont.core import plain_amount
from dumont.ledger import SCALES

_HEADINGS = {
    "date": ("data", "date", "data lancamento", "data do lancamento", "data movimento", "data mov", "dt movimento"),
    "amount": ("valor", "amount", "value", "valor r", "valor brl", "quantia", "montante"),
    "credit": ("credito", "credit", "entrada", "entradas", "credito r", "valor credito"),
    "debit": ("debito", "debit", "saida", "saidas", "debito r", "valor debito"),
    "description": ("descricao", "description", "historico", "lancamento", "memo", "title", "titulo", "detalhes"),
    "name": ("transfer id", "identificador", "fitid", "id"),
    "currency": ("currency", "moeda"),
}
_FIELDS = ("date", "description", "amount", "currency", "balance", "kind", "transaction_id", "transfer_id")
_SEPARATORS = ";,\t|"
_BALANCE = re.compile(r"^\W*saldo\b", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "\t")
_MOST_HEADS = 30
_LONGEST_CELL = 10_000


def read_csv(content: bytes) -> File:
    """Read the movements of a bank's CSV file, with Brazilian or plain customs, whatever stands before its headings.

    Errors: InvalidRequest for a file without headings that are understood, or lines that are not.
    """
    text = decode(content)
    separator, places, head = _find_headings(text)
    rows = list(_rows(text, separator))
    raws = list(_raws(rows[head + 1 :], places, head + 1))
    told = {row[places["currency"]].strip().upper() for row in rows[head + 1 :] if _reaches(row, places, "currency")}
    if len(told - {""}) > 1:
        raise unreadable("The file must be of one currency.")
    lines = understand(raws, comma_by_default=separator == ";")
    return File("csv", next(iter(told - {""}), None), lines, len(rows) - head - 1 - len(lines))


def write_csv(found: Statement, *, brazilian: bool) -> str:
    """Write a statement as CSV: plain (`,`, ISO dates, points), or as Brazilian spreadsheets take it (`;`, commas).

    Guarantees: no cell of text begins as a formula.
    """
    scale, running = SCALES[found.account.currency], found.opening
    target = io.StringIO()
    writer = csv.writer(target, delimiter=";" if brazilian else ",", lineterminator="\r\n")
    writer.writerow(_FIELDS)
    for line in found.lines:
        running += line.amount
        amounts = [plain_amount(units, scale) for units in (line.amount, running)]
        if brazilian:
            amounts = [amount.replace(".", ",") for amount in amounts]
        kind = "posting" if line.kind in ("income", "expense", "transfer") else line.kind
        tail = (found.account.currency, amounts[1], kind, line.transaction_id or "", line.transfer_id)
        writer.writerow((_day(line.date, brazilian), _cell(line.description), amounts[0], *tail))
    return ("\ufeff" if brazilian else "") + target.getvalue()


def _find_headings(text: str) -> tuple[str, Mapping[str, int], int]:
    """Find the separator, the places of the columns, and the row of the headings."""
    for separator in _SEPARATORS:
        for number, row in enumerate(_rows(text, separator)):
            if number > _MOST_HEADS:
                break
            places = _places(row)
            if "date" in places and ("amount" in places or "credit" in places or "debit" in places):
                return separator, places, number
    raise unreadable("No headings such as Data;Descrição;Valor or date,description,amount were found.")


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            if any(len(cell) > _LONGEST_CELL for cell in row):
                raise unreadable("A cell of this file is too long.")
            yield row
    except csv.Error as error:
        raise unreadable("This is not a CSV file.") from error


def _places(row: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for at, heading in enumerate(row):
        word = _word(heading)
        for name, words in _HEADINGS.items():
            if word in words:
                found.setdefault(name, at)
    return found


def _word(heading: str) -> str:
    bare = unicodedata.normalize("NFKD", heading.casefold())
    letters = "".join(sign if sign.isalnum() else " " for sign in bare if not unicodedata.combining(sign))
    return " ".join(letters.replace("$", " ").split())


def _raws(rows: Sequence[Sequence[str]], places: Mapping[str, int], before: int) -> Iterator[Raw]:
    """Yield the rows that have a day and an amount; balances between them are no movements."""
    for number, row in enumerate(rows, before + 1):
        day, described = _cell_of(row, places, "date"), _cell_of(row, places, "description")
        amount = _amount(row, places)
        if day and amount and not _BALANCE.match(described):
            yield Raw(number, day, amount, described.removeprefix("'"), _cell_of(row, places, "name") or None)


def _amount(row: Sequence[str], places: Mapping[str, int]) -> str:
    if amount := _cell_of(row, places, "amount"):
        return amount
    if (credit := _cell_of(row, places, "credit")) and credit.strip("0,. "):
        return credit
    debit = _cell_of(row, places, "debit")
    return "" if not debit.strip("0,. ") else "-" + debit.lstrip("-")


def _cell_of(row: Sequence[str], places: Mapping[str, int], name: str) -> str:
    return row[places[name]].strip() if _reaches(row, places, name) else ""


def _reaches(row: Sequence[str], places: Mapping[str, int], name: str) -> bool:
    return name in places and places[name] < len(row)


def _cell(text: str | None) -> str:
    return f"'{text}" if (text or "").startswith(_FORMULA) else text or ""


def _day(day: date, brazilian: bool) -> str:
    return f"{day:%d/%m/%Y}" if brazilian else day.isoformat()
