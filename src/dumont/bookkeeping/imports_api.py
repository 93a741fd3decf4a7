"""The route that takes a bank's file into an account."""

import base64
import binascii
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Literal

from fastapi import Request
from pydantic import BaseModel, Field

from dumont.bookkeeping import accounts, importing
from dumont.bookkeeping.bodies import Body, Id, who
from dumont.bookkeeping.documents import AmountText, amount_text
from dumont.bookkeeping.files import MOST_BYTES, File, unreadable
from dumont.bookkeeping.importing import Taken, Wishes
from dumont.bookkeeping.model import AccountNotPostable, CategoryClosed, CategoryNotFound
from dumont.bookkeeping.transactions_api import telling
from dumont.http import CallerDep, Router, permit, raises
from dumont.ledger import AccountClosed, AccountNotFound, BalanceTooLow, CurrencyMismatch, LedgerAccount

router = Router(prefix="/api/v1", tags=["accounts"])
_NAMED = (AccountNotFound, AccountNotPostable, AccountClosed, CategoryNotFound, CategoryClosed, CurrencyMismatch)


class ImportBody(Body):
    """A bank's file; without a format, its content decides. Without categories, those called Imported are used."""

    content_base64: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    format: Literal["csv", "ofx"] | None = None
    dry_run: bool = False
    income_category_id: Id | None = None
    expense_category_id: Id | None = None


class MovementDocument(BaseModel):
    """One movement of the file and what became of it; another transaction of that day may be the same."""

    line: int
    date: date
    amount_str: AmountText
    description: str
    status: Literal["new", "known"]
    transaction_id: str | None
    possible_duplicate_of: str | None


class ImportDocument(BaseModel):
    """What a file added, or would add in a dry run."""

    dry_run: bool
    format: Literal["csv", "ofx"]
    added: int
    known: int
    skipped: int
    lines: list[MovementDocument]


@router.post(
    "/accounts/{account_id}/imports", **permit("ledger.post", keyed=True), responses=raises(*_NAMED, BalanceTooLow)
)
async def import_file(account_id: str, request: Request, body: ImportBody, caller: CallerDep) -> ImportDocument:
    """Take a bank's file in: what is not known yet is recorded, all or nothing; a file that comes again adds none."""
    account = await accounts.postable_account(caller.session, account_id)
    file = importing.read_file(_content(body.content_base64), body.format)
    wishes = Wishes(body.income_category_id, body.expense_category_id, body.dry_run)
    with telling():
        taken = await importing.take_in(caller.session, who(request, caller), account, file, wishes)
    return _document(account, file, taken, dry_run=body.dry_run)


def _content(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable("Must be the bytes of a file in base64.") from error
    if len(content) > MOST_BYTES:
        raise unreadable(f"At most {MOST_BYTES} bytes at a time. Split the file.")
    return content


def _document(account: LedgerAccount, file: File, taken: Sequence[Taken], *, dry_run: bool) -> ImportDocument:
    cent = accounts.cent_of(account.currency)
    known = sum(one.status == "known" for one in taken)
    lines = [
        MovementDocument(
            line=one.line.number,
            date=one.line.date,
            amount_str=amount_text(one.line.cents * cent, account.currency),
            description=one.line.description,
            status="known" if one.status == "known" else "new",
            transaction_id=one.transaction_id,
            possible_duplicate_of=one.alike,
        )
        for one in taken
    ]
    return ImportDocument(
        dry_run=dry_run,
        format="ofx" if file.form == "ofx" else "csv",
        added=len(taken) - known,
        known=known,
        skipped=file.skipped,
        lines=lines,
    )
