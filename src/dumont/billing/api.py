"""The routes of the wallet: what is in it, what was used, what is kept aside, and how it may be spent."""

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

from dumont.billing import queries, service, usage_refunds
from dumont.billing.changing import change_wallet
from dumont.billing.documents import (
    HoldsDocument,
    StatementDocument,
    UsageDocument,
    UsageLine,
    UsageRefundDocument,
    WalletDocument,
    hold_document,
    micro_money,
)
from dumont.billing.model import Mode, WalletInUse
from dumont.billing.service import period_starts
from dumont.billing.usage_refunds import UsageNotFound
from dumont.billing.wallets import ensure_wallet
from dumont.http import CallerDep, Page, Router, list_document, page_params, permit, problems, raises, read_key
from dumont.identity import is_operator
from dumont.ledger import MOST_AMOUNT, BalanceTooLow, HoldDocument, HoldNotFound

wallet_routes = Router(prefix="/api/v1/wallet", tags=["wallet"])
usage_routes = Router(prefix="/api/v1/usage", tags=["wallet"])
hold_routes = Router(prefix="/api/v1/holds", tags=["wallet"])
_LONGEST_DAYS = 366
_HOLD_ID = re.compile(r"[0-9a-f]{32}")
_SCALE = 1_000_000


def _bounded(text: str) -> str:
    if Decimal(text) * _SCALE > MOST_AMOUNT:
        raise ValueError("Must be at most 1000000000.")
    return text


AmountText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}(\.[0-9]{1,6})?$"), AfterValidator(_bounded)]
"""Dollars as a decimal string with at most six decimals."""


def _written(pattern: str, said: str) -> BeforeValidator:
    """Take a time only as it is documented, and not the numbers that pydantic takes as well."""

    def check(text: object) -> object:
        if isinstance(text, str) and not re.fullmatch(pattern, text):
            raise ValueError(said)
        return text

    return BeforeValidator(check)


_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
Day = Annotated[date, _written(_DAY, "Must be a date such as 2026-03-14.")]
Moment = Annotated[
    datetime,
    _written(
        _DAY + r"[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})",
        "Must be a time such as 2026-03-14T15:09:26Z.",
    ),
]


class WalletBody(BaseModel):
    """Changes to a wallet; what is absent stays, and a limit of null is taken away. Amounts in dollars."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode | None = None
    low_threshold: AmountText | None = None
    auto_hibernate_at_zero: bool | None = None
    credit_limit: AmountText | None = None
    limit_hour: AmountText | None = None
    limit_day: AmountText | None = None
    limit_month: AmountText | None = None
    hibernate_over_limit: bool | None = None

    def changes(self) -> dict[str, Any]:
        """Return what the caller asked to change, by column."""
        found: dict[str, Any] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is None and not name.startswith("limit_"):
                continue
            found[_COLUMNS.get(name, name)] = _plain(value)
        return found


class UsageRefundBody(BaseModel):
    """What to give back of a machine's charges, in dollars; without an amount all that remains."""

    model_config = ConfigDict(extra="forbid")

    instance_id: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]
    amount: AmountText | None = None
    reason: Annotated[str, StringConstraints(min_length=1, max_length=200)]


_COLUMNS = {"auto_hibernate_at_zero": "auto_hibernate"}


def _plain(value: Any) -> Any:
    if isinstance(value, Mode):
        return value.value
    return int(Decimal(value) * _SCALE) if isinstance(value, str) else value


@wallet_routes.get("", **permit("ledger.view"))
async def show_wallet(request: Request, caller: CallerDep) -> WalletDocument:
    """Show the team's wallet."""
    return await service.show_wallet(caller.session, caller.team_id, request.app.state.clock.now())


@wallet_routes.patch("", **permit("wallet.manage"), responses=raises(WalletInUse))
async def patch_wallet(request: Request, body: WalletBody, caller: CallerDep) -> WalletDocument:
    """Change how the wallet may be spent; the credit limit is for the operator of the installation."""
    changes = body.changes()
    for name in ("limit_hour", "limit_day", "limit_month"):
        if changes.get(name) == 0:
            detail = "Must be above 0; null takes the limit away."
            raise problems.InvalidRequest([problems.field_error(f"/{name}", detail, "too-small")])
    if "credit_limit" in changes and not await is_operator(caller.session, caller.user_id):
        raise problems.Forbidden("operator")
    now = request.app.state.clock.now()
    await ensure_wallet(caller.session, caller.team_id, now)
    wallet = await queries.find_wallet(caller.session, caller.team_id, lock=True)
    assert wallet is not None
    await change_wallet(caller.session, wallet, changes)
    return await service.show_wallet(caller.session, caller.team_id, now)


@wallet_routes.get("/statement", **permit("ledger.view"))
async def wallet_statement(
    request: Request,
    caller: CallerDep,
    first: Annotated[Day | None, Query(alias="from")] = None,
    last: Annotated[Day | None, Query(alias="to")] = None,
) -> StatementDocument:
    """Show the wallet's entries between two dates, at most 366 days; without dates, of this month."""
    today = request.app.state.clock.now().date()
    end = last or today
    begin = first or end.replace(day=1)
    if not 0 <= (end - begin).days <= _LONGEST_DAYS:
        detail = f"Must be at most {_LONGEST_DAYS} days before `to`, and not after it."
        raise problems.InvalidRequest([problems.field_error("/query/from", detail, "bad-range")])
    wallet = await ensure_wallet(caller.session, caller.team_id, request.app.state.clock.now())
    return await service.statement(caller.session, wallet.account_id, wallet.currency, begin, end)


@usage_routes.get("", **permit("ledger.view"))
async def show_usage(
    request: Request,
    caller: CallerDep,
    first: Annotated[Moment | None, Query(alias="from")] = None,
    last: Annotated[Moment | None, Query(alias="to")] = None,
    group_by: Literal["instance", "kind", "day"] = "instance",
) -> UsageDocument:
    """Sum what was charged for machines and disks, without times since the month began."""
    end = last or request.app.state.clock.now()
    begin = first or period_starts(end)[1]
    rows = await queries.usage(caller.session, caller.team_id, begin, end, group_by)
    lines = [
        UsageLine(
            key=row.key, quantity=f"{Decimal(row.seconds) / 3600:.6f}", unit="hour", amount=micro_money(row.amount)
        )
        for row in rows
    ]
    unconfirmed = await queries.unconfirmed(caller.session, caller.team_id, begin, end)
    total = micro_money(sum(row.amount for row in rows))
    return UsageDocument(usage=lines, total=total, unconfirmed=micro_money(unconfirmed))


@usage_routes.post(
    "/refunds", status_code=201, **permit("wallet.manage", keyed=True), responses=raises(UsageNotFound, BalanceTooLow)
)
async def refund_usage(request: Request, body: UsageRefundBody, caller: CallerDep) -> UsageRefundDocument:
    """Give back what a machine was charged, to where it was paid from: at most what remains. For the operator."""
    if not await usage_refunds.has_usage(caller.session, caller.team_id, body.instance_id):
        raise UsageNotFound("This team was charged for no such machine. `GET /usage` names them.")
    if not await is_operator(caller.session, caller.user_id):
        raise problems.Forbidden("operator")
    done = await usage_refunds.refund_usage(
        caller.session,
        caller.team_id,
        body.instance_id,
        None if body.amount is None else _plain(body.amount),
        key=f"{caller.user_id} {read_key(request)}",
        reason=body.reason,
        now=request.app.state.clock.now(),
    )
    return UsageRefundDocument(
        id=done.id,
        instance_id=done.instance_id,
        amount=micro_money(done.amount),
        remaining=micro_money(done.remaining),
        reason=body.reason,
    )


@hold_routes.get("", **permit("ledger.view"))
async def list_holds(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at"))],
    status: Literal["open", "settled", "voided", "expired"] | None = None,
    subject: Annotated[str | None, Query(max_length=100)] = None,
) -> HoldsDocument:
    """List amounts that are or were kept aside, newest first; `subject` is what each is for, such as an instance."""
    rows = await queries.holds(caller.session, page, status, subject)
    return HoldsDocument(**list_document("holds", rows, page, hold_document))


@hold_routes.get("/{hold_id}", **permit("ledger.view"), responses=raises(HoldNotFound))
async def show_hold(hold_id: str, caller: CallerDep) -> HoldDocument:
    """Show one hold."""
    found = await queries.find_hold(caller.session, hold_id) if _HOLD_ID.fullmatch(hold_id) else None
    if found is None:
        raise HoldNotFound("No hold has this id. List the holds and choose one of them.")
    return hold_document(found)
