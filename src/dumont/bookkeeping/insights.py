"""What is worth pointing out in a month of books: pure arithmetic over daily sums, in whole units."""

import hashlib
from calendar import monthrange
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from dumont.core import plain_amount
from dumont.ledger import SCALES

VARIATION, SPIKE, BUDGET = "category_variation", "spending_spike", "budget_at_risk"
WALLET = "wallet_running_dry"
TYPES = (VARIATION, SPIKE, BUDGET, WALLET)
WORTH_CENTS = 5000
"""Differences below 50 units of money are shown and not told of."""

_WORTH_PERCENT = 20
_SPIKE_TIMES = 3
_SPIKE_DAYS = 28
_SPIKE_LEAST_DAYS = 7
_SPIKE_RECENT = 7
_BUDGET_LEAST_DAYS = 3
_DRY_WITHIN = timedelta(days=3)
_DRY_URGENT = timedelta(days=1)


@dataclass(frozen=True)
class DaySum:
    """What was recorded on a day under a category. Units: whole units of the currency."""

    category_id: str
    name: str
    type: str
    currency: str
    date: date
    amount: int


@dataclass(frozen=True)
class Budget:
    """What a team means to spend in a month under a category."""

    category_id: str
    name: str
    currency: str
    amount: int


@dataclass(frozen=True)
class Insight:
    """One thing to point out. `hash` names it for a month; `urgent` ones are told of, once.

    Shapes: `facts` holds strings, whole numbers and None only, so that equal insights are equal documents.
    """

    type: str
    subject: str
    currency: str
    hash: str
    explanation: str
    impact_score: int
    urgent: bool
    facts: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The insight as it is kept."""
        return asdict(self)


def month_of(day: date) -> date:
    """Return the first day of a day's month."""
    return day.replace(day=1)


def month_before(day: date) -> date:
    """Return the first day of the month before a day's month."""
    return month_of(month_of(day) - timedelta(days=1))


def find_insights(sums: Sequence[DaySum], budgets: Sequence[Budget], today: date) -> list[Insight]:
    """Return what is to be pointed out on a day, the weightiest first; the same books give the same insights."""
    found = [*_variations(sums, today), *_spikes(sums, today), *_budgets(sums, budgets, today)]
    return sorted(found, key=lambda one: (-one.impact_score, one.type, one.hash))


def wallet_dry(*, available: int, burn_hour: int, runs_out_at: datetime, currency: str, now: datetime) -> list[Insight]:
    """Point out a wallet that will be used up within three days, urgently within one.

    Units: whole units of the currency. Shapes: one insight, or none.
    """
    left = runs_out_at - now
    if left > _DRY_WITHIN:
        return []
    hours = max(0, int(left.total_seconds()) // 3600)
    told = f"at {_shown(burn_hour, currency)} an hour the wallet is used up in {hours} hours"
    insight = _insight(
        WALLET,
        "wallet",
        currency,
        month_of(now.date()),
        explanation=f"The wallet runs dry: {told}.",
        impact=burn_hour * 24 // _cent(currency),
        urgent=left <= _DRY_URGENT,
        available=_plain(available, currency),
        burn_hour=_plain(burn_hour, currency),
        hours_left=hours,
    )
    return [insight]


def _variations(sums: Sequence[DaySum], today: date) -> Iterable[Insight]:
    """Compare each category's month so far with the month before up to the same day."""
    month, before = month_of(today), month_before(today)
    until = before.replace(day=min(today.day, monthrange(before.year, before.month)[1]))
    for category_id, currency in sorted({(one.category_id, one.currency) for one in sums}):
        own = [one for one in sums if (one.category_id, one.currency) == (category_id, currency)]
        now = sum(one.amount for one in own if month <= one.date <= today)
        then = sum(one.amount for one in own if before <= one.date <= until)
        if now == then:
            continue
        percent = None if then == 0 else (now - then) * 100 // then
        weighty = abs(now - then) >= WORTH_CENTS * _cent(currency)
        verb = "more" if now > then else "less"
        told = f"{_shown(abs(now - then), currency)} {verb} than by this day of the month before"
        yield _insight(
            VARIATION,
            category_id,
            currency,
            month,
            explanation=f"{own[0].name}: {told}.",
            impact=abs(now - then) // _cent(currency),
            urgent=weighty and own[0].type == "expense" and (percent is None or percent >= _WORTH_PERCENT),
            category_id=category_id,
            category_name=own[0].name,
            category_type=own[0].type,
            current_amount=_plain(now, currency),
            previous_amount=_plain(then, currency),
            variation_percent=percent,
        )


def _spikes(sums: Sequence[DaySum], today: date) -> Iterable[Insight]:
    """Find recent days on which three times the usual was spent; usual is the mean of the days with spending before."""
    spent = [one for one in sums if one.type == "expense"]
    for currency in sorted({one.currency for one in spent}):
        days: dict[date, int] = {}
        for one in spent:
            if one.currency == currency:
                days[one.date] = days.get(one.date, 0) + one.amount
        for day in (today - timedelta(days=ago) for ago in range(_SPIKE_RECENT)):
            usual = [total for on, total in days.items() if 0 < (day - on).days <= _SPIKE_DAYS]
            total = days.get(day, 0)
            if len(usual) < _SPIKE_LEAST_DAYS or total * len(usual) < _SPIKE_TIMES * sum(usual):
                continue
            mean = sum(usual) // len(usual)
            yield _insight(
                SPIKE,
                day.isoformat(),
                currency,
                month_of(day),
                explanation=f"{_shown(total, currency)} was spent on {day}; usual is {_shown(mean, currency)} a day.",
                impact=(total - mean) // _cent(currency),
                urgent=total - mean >= WORTH_CENTS * _cent(currency),
                date=day.isoformat(),
                amount=_plain(total, currency),
                usual_amount=_plain(mean, currency),
            )


def _budgets(sums: Sequence[DaySum], budgets: Sequence[Budget], today: date) -> Iterable[Insight]:
    """Find budgets that are passed, or will be if the month goes on as it began."""
    month, days = month_of(today), monthrange(today.year, today.month)[1]
    for budget in budgets:
        spent = sum(
            one.amount
            for one in sums
            if (one.category_id, one.currency) == (budget.category_id, budget.currency) and month <= one.date <= today
        )
        projected = spent * days // today.day
        passed = spent > budget.amount
        if not passed and (today.day < _BUDGET_LEAST_DAYS or projected <= budget.amount):
            continue
        amounts = [_shown(units, budget.currency) for units in (spent, budget.amount, projected)]
        told = "{0} of {1} is spent" if passed else "{0} of {1} is spent; the month would end with {2}"
        yield _insight(
            BUDGET,
            budget.category_id,
            budget.currency,
            month,
            explanation=f"{budget.name}: {told.format(*amounts)}.",
            impact=(projected - budget.amount) // _cent(budget.currency),
            urgent=True,
            category_id=budget.category_id,
            name=budget.name,
            limit=_plain(budget.amount, budget.currency),
            spent=_plain(spent, budget.currency),
            projected=_plain(projected, budget.currency),
            days_left=days - today.day,
        )


def _insight(
    kind: str,
    subject: str,
    currency: str,
    month: date,
    *,
    explanation: str,
    impact: int,
    urgent: bool,
    **facts: Any,
) -> Insight:
    named = "\0".join((kind, subject, currency, month.isoformat()))
    digest = hashlib.blake2b(named.encode(), digest_size=12).hexdigest()
    return Insight(kind, subject, currency, digest, explanation, max(impact, 0), urgent, facts)


def _cent(currency: str) -> int:
    return int(10 ** (SCALES[currency] - 2))


def _plain(units: int, currency: str) -> str:
    return plain_amount(units, SCALES[currency])


def _shown(units: int, currency: str) -> str:
    return f"{_plain(units, currency)} {currency}"
