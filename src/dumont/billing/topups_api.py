"""The routes of top-ups: a charge to be paid by Pix, what became of it, money back, and the payment service's door."""

import base64
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from dumont.billing import topups_queries as queries
from dumont.billing import topups_service as service
from dumont.billing.model import CURRENCY
from dumont.billing.topups_model import (
    PaymentsNotConfigured,
    Topup,
    TopupDesk,
    TopupEnded,
    TopupNotFound,
    TopupStatus,
)
from dumont.core import is_id, plain_amount, to_units
from dumont.http import (
    CallerDep,
    DatabaseDep,
    MoneyDocument,
    Page,
    Router,
    apart,
    list_document,
    page_params,
    permit,
    problems,
    public,
    raises,
    read_key,
)
from dumont.identity import is_operator
from dumont.ledger import SCALES, BalanceTooLow, InsufficientFunds
from dumont.payments import ChargeStatus, InvalidSignature, PaymentRefused, PaymentUnreachable, qr_png

topup_routes = Router(prefix="/api/v1/wallet", tags=["wallet"])
_LEAST, _MOST = 100, 10_000_000
_FIRST_LOOK_SECONDS = 60.0
_REACHED = (PaymentsNotConfigured, PaymentUnreachable, PaymentRefused)
Cents = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,8}(\.[0-9]{1,2})?$", max_length=11)]


class RateDocument(BaseModel):
    """The rate by which reais become the wallet's dollars: how many reais one dollar costs."""

    rate: str
    source: str
    quoted_at: datetime
    valid_until: datetime


class TopupDocument(BaseModel):
    """A top-up. The QR picture is shown of a single one that can be paid, and null elsewhere."""

    id: str
    method: Literal["pix"]
    status: TopupStatus
    amount: MoneyDocument
    credit: MoneyDocument = Field(description="What the wallet gets, in its own currency.")
    refunded: MoneyDocument
    fx: RateDocument
    txid: str
    pix_copy_paste: str
    qr_code_png_base64: str | None
    expires_at: datetime
    paid_at: datetime | None
    end_to_end_id: str | None
    transaction_id: str | None = Field(description="The ledger's transfer into the wallet.")
    created_at: datetime


class TopupsDocument(BaseModel):
    """A page of top-ups."""

    topups: list[TopupDocument]
    count: int
    total: int | None
    next_cursor: str | None


class ReceivedDocument(BaseModel):
    """What a payment service is told: we know."""

    received: Literal[True] = True


class _AmountBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_cents: Cents | None = None
    amount: Amount | None = None

    def cents(self) -> int | None:
        """Return the amount in centavos, None where none is given. Errors: InvalidRequest for both forms at once."""
        if self.amount_cents is not None and self.amount is not None:
            raise _wrong("amount_cents", "Give either amount_cents or amount.", "exactly-one")
        found = self.amount_cents if self.amount is None else to_units(Decimal(self.amount), SCALES[service.REAL])
        if found is not None and not 1 <= found <= _MOST:
            raise _wrong("amount", f"Must be above 0 and at most {_MOST // 100}.00.", "out-of-range")
        return found


class TopupBody(_AmountBody):
    """A charge to be made: amount_cents or amount, in reais."""

    method: Literal["pix"] = "pix"
    currency: Literal["BRL"] = "BRL"
    expires_in_minutes: Annotated[int, Field(strict=True, ge=5, le=1440)] = 30


class TopupRefundBody(_AmountBody):
    """What to give back in reais; without an amount all that remains."""


@topup_routes.post("/topups", status_code=201, **permit("wallet.manage", keyed=True), responses=raises(*_REACHED))
async def create_topup(request: Request, body: TopupBody, caller: CallerDep) -> TopupDocument:
    """Make a Pix charge that fills the wallet once it is paid. The rate of now is good until it expires."""
    desk, amount, key = _desk(request), body.cents(), read_key(request)
    if amount is None or amount < _LEAST:
        raise _wrong("amount_cents", f"Give amount_cents or amount, at least {_LEAST // 100}.00.", "too-small")
    payments, rate = desk.service(), desk.todays_rate()
    txid = service.txid_of(caller.team_id, caller.user_id, key or "")
    # The charge's name follows from the key: after a crash in between, the retry finds the same charge.
    async with apart():
        charge = await payments.create_charge(txid, amount, body.expires_in_minutes * 60, "Dumont Cloud")
    topup = await service.record(
        caller.session,
        charge,
        rate,
        team_id=caller.team_id,
        user_id=caller.user_id,
        now=desk.clock.now(),
        look_at=datetime.now(timezone.utc) + timedelta(seconds=_FIRST_LOOK_SECONDS),
    )
    return topup_document(topup, picture=True)


@topup_routes.get("/topups", **permit("ledger.view"))
async def list_topups(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at", "amount"))],
    status: TopupStatus | None = None,
    first: Annotated[datetime | None, Query(alias="from")] = None,
    last: Annotated[datetime | None, Query(alias="to")] = None,
) -> TopupsDocument:
    """List top-ups, newest first; made from the time `from` on and before `to`."""
    named = status.value if status is not None else None
    rows = await queries.list_topups(caller.session, page, status=named, first=_aware(first), last=_aware(last))
    return TopupsDocument(**list_document("topups", rows, page, topup_document))


@topup_routes.get("/topups/{topup_id}", **permit("ledger.view"), responses=raises(TopupNotFound))
async def show_topup(topup_id: str, caller: CallerDep) -> TopupDocument:
    """Show a top-up as it stands now."""
    return topup_document(await _topup(caller, topup_id), picture=True)


@topup_routes.post(
    "/topups/{topup_id}/cancel", **permit("wallet.manage"), responses=raises(TopupNotFound, TopupEnded, *_REACHED)
)
async def cancel_topup(topup_id: str, request: Request, caller: CallerDep) -> TopupDocument:
    """Take a charge back before it is paid; once more changes nothing."""
    topup = await _topup(caller, topup_id)
    if topup.status == TopupStatus.PENDING.value:
        payments = _desk(request).service()
        async with apart():
            charge = await payments.remove_charge(topup.txid)
        if charge.status is ChargeStatus.PAID:
            raise TopupEnded("This charge was paid a moment ago; the wallet has it at once.", state="paid")
    found = await _topup(caller, topup_id, lock=True)
    await service.cancel(caller.session, found)
    return topup_document(found)


@topup_routes.post(
    "/topups/{topup_id}/simulate-payment",
    **permit("wallet.manage"),
    responses=raises(TopupNotFound, TopupEnded, *_REACHED),
)
async def simulate_payment(topup_id: str, request: Request, caller: CallerDep) -> TopupDocument:
    """Let somebody pay a charge, where payments are simulated; the credit comes by the same callback as ever."""
    topup = await _topup(caller, topup_id)
    await _only_operator(caller)
    payments = _desk(request).service()
    if not payments.simulated:
        raise PaymentsNotConfigured("Here money is real: nobody pays but a person.", setting="DUMONT_PIX_URL")
    if topup.status != TopupStatus.PENDING.value:
        raise TopupEnded(f"This top-up is {topup.status}; only a pending one is paid.", state=topup.status)
    async with apart():
        await payments.simulate_payment(topup.txid)
    return topup_document(await _topup(caller, topup_id), picture=True)


@topup_routes.post(
    "/topups/{topup_id}/refund",
    **permit("wallet.manage", keyed=True),
    responses=raises(TopupNotFound, TopupEnded, BalanceTooLow, InsufficientFunds, PaymentsNotConfigured),
)
async def refund_topup(
    topup_id: str, request: Request, caller: CallerDep, body: TopupRefundBody | None = None
) -> TopupDocument:
    """Take money out of the wallet and send it back to who paid it: at most what remains of this top-up."""
    found = await _topup(caller, topup_id, lock=True)
    await _only_operator(caller)
    desk = _desk(request)
    desk.service()
    amount = body.cents() if body is not None else None
    await service.refund(caller.session, found, amount, user_id=caller.user_id, now=desk.clock.now())
    return topup_document(found)


@topup_routes.post("/pix/callback", **public(limited=False), responses=raises(InvalidSignature, PaymentsNotConfigured))
async def pix_callback(request: Request, database: DatabaseDep) -> ReceivedDocument:
    """Take a payment service's signed notices; what they tell is read back from it before anything is credited."""
    payments = _desk(request).service()
    notices = payments.read_notice(request.headers, await request.body(), real_now=time.time())
    if notices:
        async with database.begin() as session:
            await queries.note(session, notices)
    return ReceivedDocument()


def topup_document(topup: Topup, *, picture: bool = False) -> TopupDocument:
    """Show a top-up."""
    drawn = picture and topup.status == TopupStatus.PENDING.value
    return TopupDocument(
        **{name: getattr(topup, name) for name in ("id", "status", "txid", "expires_at", "paid_at", "created_at")},
        method="pix",
        amount=_money(topup.amount, service.REAL),
        credit=_money(topup.credit, CURRENCY),
        refunded=_money(topup.refunded, service.REAL),
        fx=RateDocument(
            rate=plain_amount(topup.rate_micro, 6),
            source=topup.rate_source,
            quoted_at=topup.rate_at,
            valid_until=topup.expires_at,
        ),
        pix_copy_paste=topup.code,
        qr_code_png_base64=base64.b64encode(qr_png(topup.code)).decode() if drawn else None,
        end_to_end_id=topup.end_to_end_id,
        transaction_id=topup.transfer_id,
    )


async def _topup(caller: CallerDep, topup_id: str, *, lock: bool = False) -> Topup:
    found = await queries.find_topup(caller.session, topup_id, lock=lock) if is_id(topup_id, "top") else None
    if found is None:
        raise TopupNotFound("No top-up has this id. List the top-ups and choose one of them.")
    return found


async def _only_operator(caller: CallerDep) -> None:
    if not await is_operator(caller.session, caller.user_id):
        raise problems.Forbidden("operator")


def _desk(request: Request) -> TopupDesk:
    desk: TopupDesk = request.app.state.topup_desk
    return desk


def _money(units: int, currency: str) -> MoneyDocument:
    return MoneyDocument(amount=plain_amount(units, SCALES[currency]), currency=currency)


def _wrong(field: str, detail: str, code: str) -> problems.InvalidRequest:
    return problems.InvalidRequest([problems.field_error(f"/{field}", detail, code)])


def _aware(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=timezone.utc)
