"""The routes of transactions and of transfers between own accounts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field

from dumont.bookkeeping import reading, service
from dumont.bookkeeping.bodies import (
    BatchBody,
    Reason,
    TransactionBody,
    TransactionChangeBody,
    TransferBody,
    key_of,
    versions,
    who,
)
from dumont.bookkeeping.documents import (
    BatchDocument,
    DeletedDocument,
    FullTransactionDocument,
    NotDeletedDocument,
    RecordedDocument,
    TransactionDocument,
    TransactionsDocument,
    entry_document,
    told,
    transaction_document,
    transaction_members,
)
from dumont.bookkeeping.model import (
    AccountNotPostable,
    CategoryClosed,
    CategoryNotFound,
    Facts,
    Transaction,
    TransactionBusy,
    TransactionNotFound,
    TransactionReversed,
    TransactionType,
    VersionMismatch,
)
from dumont.core import to_units
from dumont.http import (
    Caller,
    CallerDep,
    Page,
    Router,
    list_document,
    page_params,
    permit,
    problem_response,
    problems,
    raises,
)
from dumont.ledger import AccountClosed, AccountNotFound, BalanceTooLow, CurrencyMismatch

router = Router(prefix="/api/v1", tags=["transactions"])
_NAMED = (AccountNotFound, CategoryNotFound, AccountNotPostable, AccountClosed, CategoryClosed)
_RECORDED = raises(*_NAMED, BalanceTooLow, CurrencyMismatch)
_CHANGES = (TransactionNotFound, TransactionBusy, TransactionReversed, VersionMismatch, problems.WrongState)
_CHANGED = raises(*_CHANGES, *_NAMED, BalanceTooLow, CurrencyMismatch)
_DELETED = raises(TransactionNotFound, TransactionBusy, VersionMismatch, problems.WrongState, BalanceTooLow)
_Words = Annotated[str | None, Field(min_length=1, max_length=100)]
_IdText = Annotated[str | None, Field(max_length=64)]
_AmountText = Annotated[str | None, Field(pattern=r"^[0-9]{1,13}(\.[0-9]{1,2})?$")]
_IfMatch = Annotated[str | None, Header(max_length=100)]
PageOf = Annotated[Page, Depends(page_params("date", "amount", "created_at", default="-date"))]


async def _read_filters(
    account_id: _IdText = None,
    category_id: _IdText = None,
    kind: Annotated[TransactionType | None, Query(alias="type")] = None,
    start_date: date | None = None,
    end_date: date | None = None,
    tag: _Words = None,
    q: Annotated[_Words, Query(description="Words of the description.")] = None,
    min_amount: _AmountText = None,
    max_amount: _AmountText = None,
    include_reversed: bool = False,
) -> reading.Wanted:
    least, most = (None if text is None else to_units(Decimal(text), 2) for text in (min_amount, max_amount))
    return reading.Wanted(
        account_id=account_id,
        category_id=category_id,
        type=kind.value if kind else None,
        start=start_date,
        end=end_date,
        tag=tag,
        words=q,
        least=least,
        most=most,
        include_reversed=include_reversed,
    )


Filters = Annotated[reading.Wanted, Depends(_read_filters)]


@router.get("/transactions", response_model=TransactionsDocument, **permit("ledger.view"))
async def list_transactions(caller: CallerDep, filters: Filters, page: PageOf) -> dict[str, Any]:
    """List the team's transactions, latest day first; deleted ones only when asked for."""
    found = await reading.list_transactions(caller.session, filters, page)
    return list_document("transactions", found, page, transaction_document)


@router.post("/transactions", status_code=201, **permit("ledger.post", keyed=True), responses=_RECORDED)
async def record_transaction(
    request: Request, response: Response, body: TransactionBody, caller: CallerDep
) -> RecordedDocument | Response:
    """Record income, an expense or a transfer, posted in the same commit; one for each Idempotency-Key."""
    facts = Facts(
        type=body.type.value,
        date=body.date,
        account_id=body.account_id,
        cents=body.cents(),
        description=body.description,
        to_account_id=body.to_account_id,
        category_id=body.category_id,
        tags=tuple(dict.fromkeys(body.tags)),
    )
    return await _record(request, response, caller, facts)


@router.get("/transactions/{transaction_id}", **permit("ledger.view"), responses=raises(TransactionNotFound))
async def show_transaction(transaction_id: str, response: Response, caller: CallerDep) -> FullTransactionDocument:
    """Show a transaction with all entries that it ever made."""
    return await _full(caller, await service.get(caller.session, transaction_id), response)


@router.put("/transactions/{transaction_id}", **permit("ledger.post"), responses=_CHANGED, name="put_transaction")
@router.patch("/transactions/{transaction_id}", **permit("ledger.post"), responses=_CHANGED)
async def change_transaction(
    transaction_id: str,
    request: Request,
    response: Response,
    body: TransactionChangeBody,
    caller: CallerDep,
    if_match: _IfMatch = None,
) -> FullTransactionDocument:
    """Change a transaction: its entries are reversed and posted anew in one commit, its id stays."""
    with telling():
        row = await service.edit(
            caller.session, who(request, caller), transaction_id, body.changes(), versions(if_match)
        )
    return await _full(caller, row, response)


@router.delete("/transactions/{transaction_id}", **permit("ledger.post"), responses=_DELETED)
async def delete_transaction(
    transaction_id: str,
    request: Request,
    response: Response,
    caller: CallerDep,
    reason: Annotated[Reason | None, Query()] = None,
    if_match: _IfMatch = None,
) -> DeletedDocument:
    """Delete a transaction: its entries are reversed, nothing is removed. Again changes nothing."""
    with telling():
        row = await service.reverse(caller.session, who(request, caller), transaction_id, reason, versions(if_match))
    response.headers["ETag"] = f'"{row.version}"'
    return DeletedDocument(message="The transaction is reversed.", transaction=transaction_document(row))


@router.delete("/transactions", **permit("ledger.post"), name="delete_transactions")
@router.post("/transactions/reverse-batch", **permit("ledger.post"))
async def reverse_batch(request: Request, body: BatchBody, caller: CallerDep) -> BatchDocument:
    """Delete up to 100 transactions, each of them whole or not at all."""
    done = await service.reverse_many(caller.session, who(request, caller), body.ids)
    errors = [
        NotDeletedDocument(id=id_, code=problem.code, reason=told(problem).detail)
        for id_, problem in done.errors.items()
    ]
    message = f"{len(done.deleted)} deleted, {len(errors)} not."
    return BatchDocument(deleted=len(done.deleted), deleted_ids=done.deleted, errors=errors, message=message)


@router.post("/transfers", status_code=201, **permit("ledger.post", keyed=True), responses=_RECORDED)
async def make_transfer(
    request: Request, response: Response, body: TransferBody, caller: CallerDep
) -> RecordedDocument | Response:
    """Move money between two of the team's own accounts: both entries or none."""
    facts = Facts(
        type=TransactionType.TRANSFER.value,
        date=body.date or who(request, caller).now.date(),
        account_id=body.from_account_id,
        cents=body.cents(),
        description=body.description,
        to_account_id=body.to_account_id,
    )
    return await _record(request, response, caller, facts)


class TransfersDocument(BaseModel):
    """A page of transfers."""

    transfers: list[TransactionDocument]
    count: int
    total: int | None
    next_cursor: str | None


@router.get("/transfers", response_model=TransfersDocument, **permit("ledger.view"))
async def list_transfers(caller: CallerDep, filters: Filters, page: PageOf) -> dict[str, Any]:
    """List the transfers between the team's own accounts, latest day first."""
    wanted = replace(filters, type=TransactionType.TRANSFER.value)
    found = await reading.list_transactions(caller.session, wanted, page)
    return list_document("transfers", found, page, transaction_document)


@router.get("/transfers/{transaction_id}", **permit("ledger.view"), responses=raises(TransactionNotFound))
async def show_transfer(transaction_id: str, response: Response, caller: CallerDep) -> FullTransactionDocument:
    """Show a transfer with all entries that it ever made."""
    row = await service.get(caller.session, transaction_id)
    if row.type != TransactionType.TRANSFER:
        raise TransactionNotFound
    return await _full(caller, row, response)


@contextmanager
def telling() -> Iterator[None]:
    """Let a refusal for want of funds name its amounts as people read them."""
    try:
        yield
    except BalanceTooLow as problem:
        raise told(problem) from problem


async def _record(request: Request, response: Response, caller: Caller, facts: Facts) -> RecordedDocument | Response:
    done = await service.record(caller.session, who(request, caller), facts, key_of(request, caller))
    if done.problem is not None or done.transaction is None:
        return problem_response(told(done.problem or TransactionNotFound()), request.state.request_id)
    response.headers["ETag"] = f'"{done.transaction.version}"'
    members = transaction_members(done.transaction)
    return RecordedDocument(**members, possible_duplicate_of=done.possible_duplicate_of)


async def _full(caller: Caller, row: Transaction, response: Response) -> FullTransactionDocument:
    response.headers["ETag"] = f'"{row.version}"'
    entries = await reading.entries_of_transaction(caller.session, row.id)
    return FullTransactionDocument(**transaction_members(row), entries=[entry_document(entry) for entry in entries])
