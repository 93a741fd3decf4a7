"""The routes of insights, budgets and notifications; what concerns a user is his alone."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from dumont.bookkeeping import accounts
from dumont.bookkeeping import insight_queries as queries
from dumont.bookkeeping import insight_service as service
from dumont.bookkeeping.bodies import Amount, Body, Code, positive_cents, who
from dumont.bookkeeping.documents import AmountText, Currency, DoneDocument, money_of
from dumont.bookkeeping.insight_queries import Notification
from dumont.bookkeeping.insights import BUDGET, SPIKE, VARIATION, WALLET, Insight
from dumont.bookkeeping.model import CategoryNotFound
from dumont.core import is_id
from dumont.http import (
    Caller,
    CallerDep,
    MoneyDocument,
    Page,
    Router,
    list_document,
    page_params,
    permit,
    problems,
    raises,
    signed_in,
)

router = Router(prefix="/api/v1", tags=["insights"])
NotificationNotFound = problems.not_found("notification")
Kind = Literal["category_variation", "spending_spike", "budget_at_risk", "wallet_running_dry"]
_MOST = 200


class _InsightDocument(BaseModel):
    currency: Currency
    explanation: str
    impact_score: Annotated[int, Field(description="The difference in whole cents; the weightiest stand first.")]
    insight_hash: str


class VariationDocument(_InsightDocument):
    """A category's month so far against the month before up to the same day."""

    category_id: str
    category_name: str
    category_type: Literal["income", "expense"]
    current_amount: AmountText
    previous_amount: AmountText
    variation_percent: int | None


class SpikeDocument(_InsightDocument):
    """A day on which far more was spent than on the days before."""

    date: date
    amount: AmountText
    usual_amount: AmountText


class RiskDocument(_InsightDocument):
    """A budget that is passed, or will be if the month goes on as it began."""

    category_id: str
    name: str
    limit: MoneyDocument
    spent: MoneyDocument
    projected: MoneyDocument
    days_left: int


class DryDocument(_InsightDocument):
    """A prepaid wallet that is used up within three days at the rate of now, what is held included."""

    available: MoneyDocument
    burn_hour: MoneyDocument
    hours_left: int


class InsightsDocument(BaseModel):
    """What is worth knowing about this month; `computed_at` is when it last changed."""

    category_monthly_variation: list[VariationDocument]
    spending_spikes: list[SpikeDocument]
    budgets_at_risk: list[RiskDocument]
    wallet_running_dry: list[DryDocument]
    computed_at: datetime


class FeedbackBody(Body):
    """What a user says to an insight: an ignored one is not shown for 30 days."""

    insight_type: Kind
    insight_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    status: Literal["seen", "ignored"]


class ChoicesBody(Body):
    """Which insights a user wants; what is absent stays as it is."""

    enable_category_variation: bool | None = None
    enable_spending_spike: bool | None = None
    enable_budgets_at_risk: bool | None = None
    enable_wallet_running_dry: bool | None = None


class ChoicesDocument(BaseModel):
    """Which insights a user gets."""

    enable_category_variation: bool
    enable_spending_spike: bool
    enable_budgets_at_risk: bool
    enable_wallet_running_dry: bool


class BudgetBody(Body):
    """What a team means to spend in a month under a category."""

    amount: Amount
    currency: Code = "BRL"


class BudgetDocument(BaseModel):
    """A month's budget of a category."""

    category_id: str
    name: str
    limit: MoneyDocument


class BudgetsDocument(BaseModel):
    """The team's budgets."""

    budgets: list[BudgetDocument]
    count: int


class NotificationDocument(BaseModel):
    """Something that the user was told."""

    id: str
    type: str
    title: str
    body: str | None
    metadata: Annotated[dict[str, Any], Field(description="The figures behind it, by the names of its insight.")]
    read_at: datetime | None
    created_at: datetime


class NotificationsDocument(BaseModel):
    """A page of notifications."""

    notifications: list[NotificationDocument]
    count: int
    total: int | None
    next_cursor: str | None


class CountDocument(BaseModel):
    """How many."""

    count: int


class MarkedDocument(BaseModel):
    """How many were marked as read."""

    marked: int


@router.get("/insights", **permit("ledger.view"))
async def show_insights(request: Request, caller: CallerDep) -> InsightsDocument:
    """Show what is worth knowing about this month, for the caller; kept in one row, written only when it changed."""
    now = who(request, caller).now
    found = await service.compute(caller.session, caller.team_id, now)
    own = await service.refresh_user(caller.session, caller.team_id, caller.user_id, found, now)
    kept = await queries.cached(caller.session, caller.team_id, caller.user_id)
    return _document(own, kept.computed_at if kept else now)


@router.post("/insights/feedback", status_code=204, response_class=Response, **signed_in())
async def give_feedback(request: Request, body: FeedbackBody, caller: CallerDep) -> None:
    """Say that an insight was seen, or that it is to be left out for 30 days."""
    now = who(request, caller).now
    await queries.give_feedback(
        caller.session, caller.team_id, caller.user_id, body.insight_type, body.insight_hash, body.status, now
    )


@router.get("/insights/preferences", **signed_in())
async def show_choices(caller: CallerDep) -> ChoicesDocument:
    """Show which insights the caller gets."""
    return await _choices(caller, {})


@router.patch("/insights/preferences", **signed_in())
async def change_choices(body: ChoicesBody, caller: CallerDep) -> ChoicesDocument:
    """Change which insights the caller gets."""
    names = {
        VARIATION: body.enable_category_variation,
        SPIKE: body.enable_spending_spike,
        BUDGET: body.enable_budgets_at_risk,
        WALLET: body.enable_wallet_running_dry,
    }
    return await _choices(caller, {kind: value for kind, value in names.items() if value is not None})


@router.get("/budgets", **permit("ledger.view"))
async def list_budgets(caller: CallerDep) -> BudgetsDocument:
    """List what the team means to spend in a month, by category."""
    found = await queries.budgets(caller.session, caller.team_id)
    shown = [
        BudgetDocument(category_id=one.category_id, name=one.name, limit=money_of(one.amount, one.currency))
        for one in found
    ]
    return BudgetsDocument(budgets=shown, count=len(shown))


@router.put("/categories/{category_id}/budget", **permit("ledger.post"), responses=raises(CategoryNotFound))
async def set_budget(category_id: str, request: Request, body: BudgetBody, caller: CallerDep) -> BudgetDocument:
    """Set what the team means to spend in a month under a category."""
    category = await accounts.own_category(caller.session, category_id)
    currency = accounts.known_currency(body.currency)
    units = positive_cents(body.amount) * accounts.cent_of(currency)
    now = who(request, caller).now
    await queries.set_budget(caller.session, caller.team_id, category.id, currency, units, now)
    return BudgetDocument(category_id=category.id, name=category.name, limit=money_of(units, currency))


@router.delete("/categories/{category_id}/budget", **permit("ledger.post"), responses=raises(CategoryNotFound))
async def drop_budget(category_id: str, caller: CallerDep) -> DoneDocument:
    """Take a category's budgets away. Again changes nothing."""
    category = await accounts.own_category(caller.session, category_id)
    await queries.drop_budget(caller.session, category.id)
    return DoneDocument(message="The category has no budget.")


@router.get("/notifications", response_model=NotificationsDocument, **signed_in())
async def list_notifications(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at"))],
    unread_only: bool = False,
    kind: Annotated[Kind | None, Query(alias="type")] = None,
) -> dict[str, Any]:
    """List what the caller was told in this team, latest first."""
    rows = await queries.list_notifications(caller.session, caller.user_id, page, unread=unread_only, kind=kind)
    return list_document("notifications", rows, page, _notification)


@router.get("/notifications/unread-count", **signed_in())
async def count_unread(caller: CallerDep) -> CountDocument:
    """Count what the caller has not read."""
    return CountDocument(count=await queries.count_unread(caller.session, caller.user_id))


@router.get("/notifications/{notification_id}", **signed_in(), responses=raises(NotificationNotFound))
async def show_notification(notification_id: str, caller: CallerDep) -> NotificationDocument:
    """Show something that the caller was told."""
    return _notification(await _own(caller, notification_id))


@router.patch("/notifications/{notification_id}/read", **signed_in(), responses=raises(NotificationNotFound))
async def mark_read(notification_id: str, request: Request, caller: CallerDep) -> NotificationDocument:
    """Mark something as read. Again changes nothing."""
    row = await _own(caller, notification_id)
    row.read_at = row.read_at or who(request, caller).now
    await caller.session.flush()
    return _notification(row)


@router.post("/notifications/mark-all-read", **signed_in())
async def mark_all_read(request: Request, caller: CallerDep) -> MarkedDocument:
    """Mark everything as read that the caller was told in this team."""
    marked = await queries.mark_all_read(caller.session, caller.user_id, who(request, caller).now)
    return MarkedDocument(marked=marked)


async def _own(caller: Caller, notification_id: str) -> Notification:
    found = None
    if is_id(notification_id, "ntf"):
        found = await queries.find_notification(caller.session, caller.user_id, notification_id)
    if found is None:
        raise NotificationNotFound
    return found


async def _choices(caller: Caller, wished: dict[str, bool]) -> ChoicesDocument:
    now = await service.change_choices(caller.session, caller.team_id, caller.user_id, wished)
    return ChoicesDocument(
        enable_category_variation=now[VARIATION],
        enable_spending_spike=now[SPIKE],
        enable_budgets_at_risk=now[BUDGET],
        enable_wallet_running_dry=now[WALLET],
    )


def _document(found: list[Insight], computed_at: datetime) -> InsightsDocument:
    shown: dict[str, list[dict[str, Any]]] = {VARIATION: [], SPIKE: [], BUDGET: [], WALLET: []}
    for one in found[:_MOST]:
        head = {"currency": one.currency, "explanation": one.explanation, "impact_score": one.impact_score}
        facts = dict(one.facts)
        for name in ("limit", "spent", "projected", "available", "burn_hour"):
            if name in facts:
                facts[name] = {"amount": facts[name], "currency": one.currency}
        shown[one.type].append({**head, "insight_hash": one.hash, **facts})
    return InsightsDocument.model_validate(
        {
            "category_monthly_variation": shown[VARIATION],
            "spending_spikes": shown[SPIKE],
            "budgets_at_risk": shown[BUDGET],
            "wallet_running_dry": shown[WALLET],
            "computed_at": computed_at,
        }
    )


def _notification(row: Notification) -> NotificationDocument:
    names = ("id", "type", "title", "body", "read_at", "created_at")
    return NotificationDocument(**{name: getattr(row, name) for name in names}, metadata=row.facts)
