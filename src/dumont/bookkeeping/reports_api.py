"""The routes of what the books add up to: entries, statements, balances, months, the proof."""

from calendar import monthrange
from datetime import date, datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from dumont.bookkeeping import accounts, reading, reports
from dumont.bookkeeping.bodies import who
from dumont.bookkeeping.csv_files import write_csv
from dumont.bookkeeping.documents import (
    AccountDocument,
    AmountText,
    Currency,
    EntriesDocument,
    EntryDocument,
    account_document,
    amount_text,
    entry_document,
)
from dumont.bookkeeping.model import DEFAULT_CURRENCY
from dumont.bookkeeping.ofx import write_ofx
from dumont.http import CallerDep, Page, Router, list_document, page_params, permit, raises
from dumont.ledger import AccountNotFound, balance_at

router = Router(prefix="/api/v1", tags=["accounts"])
_Code = Annotated[str, Query(pattern=r"^[A-Z]{3}$")]
_FILES: dict[str, Any] = {
    "content": {media: {"schema": {"type": "string"}} for media in ("text/csv", "application/x-ofx")},
    "description": "The statement, or a file of it.",
}
_From = Annotated[date, Query(alias="from")]
_To = Annotated[date, Query(alias="to")]


class LineDocument(EntryDocument):
    """An entry in a statement; `running_str` is the statement's own balance after it, by days of business."""

    running_str: AmountText


class StatementDocument(BaseModel):
    """An account between two days: opening + credits - debits = closing, which opens the next one."""

    model_config = ConfigDict(populate_by_name=True)

    account: AccountDocument
    start: Annotated[date, Field(alias="from")]
    end: Annotated[date, Field(alias="to")]
    opening_str: AmountText
    closing_str: AmountText
    total_debits_str: AmountText
    total_credits_str: AmountText
    entries: list[LineDocument]


class BalanceDocument(BaseModel):
    """What an account's balance was at a moment, by the order of posting."""

    account_id: str
    at: datetime
    currency: Currency
    balance_str: AmountText


class CategoryTotal(BaseModel):
    """What a month brought or took in one category."""

    category_id: str
    name: str
    type: Literal["income", "expense"]
    transactions: int
    total: AmountText


class MonthDocument(BaseModel):
    """What a month brought and took; transfers between own accounts are neither."""

    year: int
    month: int
    currency: Currency
    total_transactions: int
    total_income: AmountText
    total_expenses: AmountText
    net_balance: AmountText
    category_breakdown: list[CategoryTotal]


class MismatchDocument(BaseModel):
    """An account whose balance is not the sum of its entries."""

    account_id: str
    balance_str: AmountText
    sum_str: AmountText


class TotalsDocument(BaseModel):
    """All debits and all credits in one currency; they are equal over a whole ledger."""

    currency: Currency
    total_debits_str: AmountText
    total_credits_str: AmountText


class ProofDocument(BaseModel):
    """Whether the books add up, from their entries."""

    balanced: bool
    accounts_checked: int
    entries_checked: int
    totals: list[TotalsDocument]
    mismatches: list[MismatchDocument]
    checked_at: datetime


@router.get(
    "/accounts/{account_id}/entries",
    response_model=EntriesDocument,
    **permit("ledger.view"),
    responses=raises(AccountNotFound),
)
async def list_entries(
    account_id: str,
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("seq", default="-seq"))],
    start: Annotated[date | None, Query(alias="from")] = None,
    end: Annotated[date | None, Query(alias="to")] = None,
) -> dict[str, Any]:
    """List an account's entries, latest first; `from` and `to` are days of business."""
    account = await accounts.own_account(caller.session, account_id)
    rows = await reading.entries_of_account(caller.session, account, page, start, end)
    return list_document("entries", rows, page, entry_document)


@router.get("/accounts/{account_id}/balance", **permit("ledger.view"), responses=raises(AccountNotFound))
async def show_balance(
    account_id: str, caller: CallerDep, at: Annotated[AwareDatetime | None, Query()] = None
) -> BalanceDocument:
    """Show what the balance was at a moment, now without one; the order of posting counts, not days of business."""
    account = await accounts.own_account(caller.session, account_id)
    moment = at or datetime.now(timezone.utc)
    balance = account.balance if at is None else await balance_at(caller.session, account.id, at) or 0
    shown = amount_text(balance, account.currency)
    return BalanceDocument(account_id=account.id, at=moment, currency=account.currency, balance_str=shown)


@router.get(
    "/accounts/{account_id}/statement", **permit("ledger.view"), responses={**raises(AccountNotFound), 200: _FILES}
)
async def show_statement(
    account_id: str,
    caller: CallerDep,
    start: _From,
    end: _To,
    form: Annotated[Literal["json", "csv", "csv-br", "ofx"], Query(alias="format")] = "json",
) -> StatementDocument | Response:
    """Show an account between two days of business, both included, at most 366 days apart; or as a file."""
    account = await accounts.own_account(caller.session, account_id)
    found = await reports.make_statement(caller.session, account, start, end)
    if form == "json":
        return _statement(found)
    if form == "ofx":
        return _file(write_ofx(found), "application/x-ofx", f"{start}_{end}.ofx")
    return _file(write_csv(found, brazilian=form == "csv-br"), "text/csv", f"{start}_{end}.csv")


@router.get("/transactions/summary/monthly", **permit("ledger.view"))
async def show_month(
    request: Request,
    caller: CallerDep,
    year: Annotated[int | None, Query(ge=1970, le=2199)] = None,
    month: Annotated[int | None, Query(ge=1, le=12)] = None,
    currency: _Code = DEFAULT_CURRENCY,
) -> MonthDocument:
    """Sum a month by category, the present one unless told; by days of business."""
    known = accounts.known_currency(currency)
    today = who(request, caller).now.date()
    year, month = year or today.year, month or today.month
    start, end = date(year, month, 1), date(year, month, monthrange(year, month)[1])
    rows = await reports.month_by_category(caller.session, caller.team_id, known, start, end)
    income, expenses = (sum(row.total for row in rows if row.type == kind) for kind in ("income", "expense"))
    sorted_rows = [row for row in rows if row.category_id is not None]
    return MonthDocument(
        year=year,
        month=month,
        currency=known,
        total_transactions=sum(row.transactions for row in rows),
        total_income=amount_text(income, known),
        total_expenses=amount_text(expenses, known),
        net_balance=amount_text(income - expenses, known),
        category_breakdown=[
            CategoryTotal(
                category_id=row.category_id,
                name=row.name,
                type=row.type,
                transactions=row.transactions,
                total=amount_text(row.total, known),
            )
            for row in sorted_rows
        ],
    )


@router.get("/ledger/proof", **permit("ledger.post"), responses=raises(AccountNotFound))
async def show_proof(
    caller: CallerDep, account_id: Annotated[str | None, Query(min_length=1, max_length=64)] = None
) -> ProofDocument:
    """Prove from the entries that every balance is their sum and that all accounts together are zero."""
    if account_id is not None:
        await accounts.own_account(caller.session, account_id)
    found = await reports.prove(caller.session, caller.team_id, account_id)
    return ProofDocument(
        balanced=found.balanced,
        accounts_checked=len(found.rows),
        entries_checked=sum(row.entries for row in found.rows),
        totals=[_totals(found, currency) for currency in sorted({row.currency for row in found.rows})],
        mismatches=[
            MismatchDocument(
                account_id=row.id,
                balance_str=amount_text(row.balance, row.currency),
                sum_str=amount_text(row.total, row.currency),
            )
            for row in found.wrong
        ],
        checked_at=datetime.now(timezone.utc),
    )


def _file(content: str, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="statement_{name}"'}
    return Response(content.encode(), media_type=media_type, headers=headers)


def _totals(proof: reports.Proof, currency: str) -> TotalsDocument:
    rows = [row for row in proof.rows if row.currency == currency]
    return TotalsDocument(
        currency=currency,
        total_debits_str=amount_text(sum(row.debits for row in rows), currency),
        total_credits_str=amount_text(sum(row.credits for row in rows), currency),
    )


def _statement(found: reports.Statement) -> StatementDocument:
    currency, running, lines = found.account.currency, found.opening, []
    for line in found.lines:
        running += line.amount
        shown = entry_document(line).model_dump()
        lines.append(LineDocument(**shown, running_str=amount_text(running, currency)))
    return StatementDocument(
        account=account_document(found.account),
        start=found.start,
        end=found.end,
        opening_str=amount_text(found.opening, currency),
        closing_str=amount_text(found.closing, currency),
        total_debits_str=amount_text(found.debits, currency),
        total_credits_str=amount_text(found.credits, currency),
        entries=lines,
    )
