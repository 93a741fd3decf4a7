"""The verb that takes a bank's file in: every movement once, however often and in however many files it comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Date, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from dumont.bookkeeping import accounts, queries
from dumont.bookkeeping.csv_files import read_csv
from dumont.bookkeeping.files import File, Line
from dumont.bookkeeping.model import FIRST_DATE, Category, CategoryType, Facts, Key, Who, wrong_field
from dumont.bookkeeping.ofx import read_ofx
from dumont.bookkeeping.service import make_row, prepare
from dumont.http import problems
from dumont.ledger import CurrencyMismatch, LedgerAccount, Posting, post_together

IMPORTED = "Imported"
_KNOWN = text(
    """
SELECT 'origin' AS what, replace(t.origin::text, '-', '') AS key, t.id, NULL::date AS date, NULL::bigint AS amount
  FROM bookkeeping_transaction t WHERE t.origin = ANY (CAST(:origins AS uuid[]))
UNION ALL
SELECT 'name', replace(t.id::text, '-', ''), coalesce(p.transaction_id, r.transaction_id), NULL, NULL
  FROM ledger_transfer t LEFT JOIN bookkeeping_change p ON p.posting_id = t.id
  LEFT JOIN bookkeeping_change r ON r.reversal_id = t.id
 WHERE t.id = ANY (CAST(:names AS uuid[]))
   AND CAST(:number AS bigint) = ANY (t.accounts)
UNION ALL
SELECT 'alike', NULL, t.id, t.date, CASE WHEN t.type = 'income' OR t.to_account_id = :account THEN t.amount
                                         ELSE -t.amount END
  FROM bookkeeping_transaction t
 WHERE t.team_id = :team AND t.status = 'posted' AND t.date = ANY (:days)
   AND :account IN (t.account_id, t.to_account_id)
"""
).bindparams(bindparam("days", type_=ARRAY(Date)), bindparam("account", type_=Text))


@dataclass(frozen=True)
class Wishes:
    """How a file is taken in: the categories of its movements (those for imports where None), and whether to try."""

    income_category: str | None = None
    expense_category: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Taken:
    """What became of one movement: `new`, or `known` from before; `alike` may say the same under another key."""

    line: Line
    status: str
    transaction_id: str | None = None
    alike: str | None = None


@dataclass(frozen=True)
class _Before:
    """What the books hold of a file's movements already."""

    origins: dict[str, str]
    names: dict[str, str | None]
    alike: dict[tuple[object, int], str]


def read_file(content: bytes, form: str | None) -> File:
    """Read a bank's file; without a form, what it begins with decides. Errors: InvalidRequest."""
    head = content[:2000].upper()
    is_ofx = b"<OFX>" in head or b"OFXHEADER" in head
    return read_ofx(content) if form == "ofx" or (form is None and is_ofx) else read_csv(content)


async def take_in(
    session: AsyncSession, who: Who, account: LedgerAccount, file: File, wishes: Wishes
) -> Sequence[Taken]:
    """Record the movements that are not known yet, all of them or none; return all movements in their order.

    Guarantees: a movement that was taken in before, or that an export of ours tells of, adds nothing, whatever has
    become of it since.
    Errors: those of recording; CurrencyMismatch; BalanceTooLow where the account would fall below its limit.
    """
    if file.currency is not None and file.currency != account.currency:
        raise CurrencyMismatch(f"The file is in another currency than the account, which has {account.currency}.")
    asked = [(line, _key(account, line)) for line in file.lines]
    ids = {key.name: Posting(who.team_id, key.scope, key.name, "", (), line.date).id for line, key in asked}
    before = await _look(session, who, account, file.lines, list(ids.values()))
    taken = [_taken(line, ids[key.name], before, account) for line, key in asked]
    fresh = [(line, key) for (line, key), one in zip(asked, taken, strict=True) if one.status == "new"]
    _check_days(who, [line for line, _ in fresh])
    if wishes.dry_run or not fresh:
        return taken
    made = await _record(session, who, account, fresh, wishes)
    return [
        one if one.status == "known" else Taken(one.line, "new", made[key.name], one.alike)
        for (_, key), one in zip(asked, taken, strict=True)
    ]


async def _record(
    session: AsyncSession, who: Who, account: LedgerAccount, fresh: Sequence[tuple[Line, Key]], wishes: Wishes
) -> dict[str, str]:
    """Post the new movements by days, what comes in first, so that no balance falls lower than it did."""
    categories = {
        kind: await _category(session, who, kind, wished)
        for kind, wished in (
            (CategoryType.INCOME, wishes.income_category),
            (CategoryType.EXPENSE, wishes.expense_category),
        )
        if any((line.cents > 0) == (kind is CategoryType.INCOME) for line, _ in fresh)
    }
    prepared: list[tuple[Key, Facts, Posting]] = []
    sights: dict[str, queries.Sight] = {}
    for line, key in sorted(fresh, key=lambda one: (one[0].date, one[0].cents < 0, one[0].number)):
        kind = CategoryType.INCOME if line.cents > 0 else CategoryType.EXPENSE
        category = categories[kind]
        facts = Facts(kind.value, line.date, account.id, abs(line.cents), line.description, category_id=category.id)
        if kind.value not in sights:
            sights[kind.value] = await queries.look(session, who, facts, None)
            await prepare(session, who, facts, sights[kind.value], key)
            sights[kind.value] = await queries.look(session, who, facts, None)
        prepared.append((key, facts, await prepare(session, who, facts, sights[kind.value], key)))
    await post_together(session, [posting for _, _, posting in prepared])
    rows = [
        (key, facts, make_row(who, facts, posting, account.currency, source="user")) for key, facts, posting in prepared
    ]
    await queries.insert_transactions(session, who, [(row, facts) for _, facts, row in rows])
    return {key.name: row.id for key, _, row in rows}


async def _category(session: AsyncSession, who: Who, kind: CategoryType, wished: str | None) -> Category:
    """Return the category that was wished, or the one for imports, which is made where it is missing."""
    if wished is not None:
        found = await accounts.own_category(session, wished)
        if found.type != kind.value:
            raise wrong_field(f"{kind.value}_category_id", f"Must be a category of type {kind.value}.", "other-type")
        return found
    for row in await queries.list_categories(session, kind.value, inactive=False):
        if row.name == IMPORTED:
            return row
    return await accounts.add_category(session, who, name=IMPORTED, type=kind.value, color="#888888", icon=None)


async def _look(
    session: AsyncSession, who: Who, account: LedgerAccount, lines: Sequence[Line], origins: list[str]
) -> _Before:
    names = [line.name for line in lines if line.name is not None and _is_transfer(line.name)]
    values = {
        "origins": "{" + ",".join(origins) + "}",
        "names": "{" + ",".join(names) + "}",
        "account": account.id,
        "number": account.number,
        "team": who.team_id,
        "days": sorted({line.date for line in lines}),
    }
    rows = (await session.execute(_KNOWN, values)).all()
    return _Before(
        origins={row.key: row.id for row in rows if row.what == "origin"},
        names={row.key: row.id for row in rows if row.what == "name"},
        alike={(row.date, row.amount): row.id for row in rows if row.what == "alike"},
    )


def _taken(line: Line, origin: str, before: _Before, account: LedgerAccount) -> Taken:
    if origin in before.origins:
        return Taken(line, "known", before.origins[origin])
    if line.name is not None and line.name in before.names:
        return Taken(line, "known", before.names[line.name])
    units = line.cents * accounts.cent_of(account.currency)
    return Taken(line, "new", None, before.alike.get((line.date, units)))


def _check_days(who: Who, lines: Sequence[Line]) -> None:
    """Refuse days that nothing can be recorded on. Errors: InvalidRequest, by line."""
    wrong = []
    for line in lines:
        if not FIRST_DATE <= line.date <= who.now.date() + timedelta(days=1):
            detail = f"Must be between {FIRST_DATE} and today."
            wrong.append(problems.field_error(f"/lines/{line.number}/date", detail, "out-of-range"))
    if wrong:
        raise problems.InvalidRequest(wrong[:20])


def _key(account: LedgerAccount, line: Line) -> Key:
    return Key(f"import {account.id}", line.key)


def _is_transfer(name: str) -> bool:
    return len(name) == 32 and all(sign in "0123456789abcdef" for sign in name)
