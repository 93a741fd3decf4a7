"""Insights: what is worth knowing of a month, one row for each user, told once however many jobs find it."""

import asyncio
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.bookkeeping.household import Household

from dumont.bookkeeping import refresh_insights
from dumont.bookkeeping.insights import Budget, DaySum, find_insights
from dumont.core import Clock
from dumont.db import Database

pytestmark = pytest.mark.requires_postgres

START = datetime(2026, 3, 20, 12, tzinfo=timezone.utc)
TABLES = ("insight_cache", "notification")


class Standing(Clock):
    """A clock that stands still until it is set."""

    def __init__(self, at: datetime) -> None:
        super().__init__()
        object.__setattr__(self, "at", at)

    def at_real(self, real_seconds: float) -> float:
        moment: datetime = self.__dict__["at"]
        return moment.timestamp()

    def set(self, at: datetime) -> None:
        object.__setattr__(self, "at", at)


@pytest.fixture
async def clock(home: Household) -> Standing:
    """The household's clock, which stands on the 20th of March; food had 100.00 in February and 300.00 since."""
    clock = Standing(START)
    home.api.app.state.clock = clock
    await home.record("income", 500000, date="2026-02-01")
    await home.record("expense", 10000, date="2026-02-10")
    await home.record("expense", 30000, date="2026-03-10")
    return clock


async def run_job(home: Household, clock: Clock, times: int = 1) -> None:
    """Run the worker's job, several at the same moment, each over connections of its own."""

    class World:
        def __init__(self) -> None:
            self.database = Database(home.books.urls.worker, pool_size=2)
            self.clock = clock

    worlds = [World() for _ in range(times)]
    try:
        await asyncio.gather(*(refresh_insights(world, clock.now()) for world in worlds))
    finally:
        for world in worlds:
            await world.database.close()


def kept(home: Household) -> dict[str, list[Any]]:
    return {
        table: home.books.rows(f"SELECT t::text FROM {table} t WHERE team_id = %s ORDER BY 1", home.person.team_id)
        for table in TABLES
    }


@pytest.mark.checklist("PIX-12")
async def test_the_job_twice_at_once_leaves_one_row_a_user_and_tells_once(home: Household, clock: Standing) -> None:
    await run_job(home, clock, times=3)
    first = kept(home)
    assert len(first["insight_cache"]) == 1
    told = home.books.rows("SELECT type, body FROM notification WHERE team_id = %s", home.person.team_id)
    assert told == [("category_variation", "Food: 200.00 BRL more than by this day of the month before.")]
    clock.set(START + timedelta(hours=5))
    await run_job(home, clock, times=2)
    assert kept(home) == first


async def test_each_user_has_a_row_of_his_own_and_strangers_see_nothing(home: Household, clock: Standing) -> None:
    other = await home.api.person()
    home.books.run(
        "INSERT INTO membership (team_id, user_id, role, created_at) VALUES (%s, %s, 'viewer', now())",
        home.person.team_id,
        other.user_id,
    )
    await run_job(home, clock)
    rows = "SELECT user_id FROM insight_cache WHERE team_id = %s ORDER BY user_id"
    users = sorted([home.person.user_id, other.user_id])
    assert [row[0] for row in home.books.rows(rows, home.person.team_id)] == users
    mine = (await home.ask("GET", "/notifications")).json()["notifications"]
    home.person, team = other, {"X-Team-Id": home.person.team_id}
    theirs = (await home.ask("GET", "/notifications", headers=team)).json()["notifications"]
    assert len(mine) == len(theirs) == 1 and mine[0]["id"] != theirs[0]["id"]
    foreign = await home.ask("PATCH", f"/notifications/{mine[0]['id']}/read", headers=team)
    assert (foreign.status_code, foreign.json()["code"]) == (404, "notification-not-found")
    assert (await home.ask("GET", "/notifications")).json()["count"] == 0


async def test_what_is_ignored_stays_away_for_thirty_days(home: Household, clock: Standing) -> None:
    clock.set(datetime(2026, 3, 1, 12, tzinfo=timezone.utc))
    await home.record("expense", 7000, date="2026-03-01")
    [found] = [one for one in (await variations(home)) if one["category_id"] == home.food]
    assert (found["current_amount"], found["previous_amount"], found["variation_percent"]) == ("70.00", "0.00", None)
    said = {"insight_type": "category_variation", "insight_hash": found["insight_hash"], "status": "ignored"}
    assert (await home.ask("POST", "/insights/feedback", json=said)).status_code == 204
    assert home.food not in [one["category_id"] for one in await variations(home)]
    clock.set(datetime(2026, 3, 31, 11, tzinfo=timezone.utc))
    assert home.food not in [one["category_id"] for one in await variations(home)]
    clock.set(datetime(2026, 3, 31, 13, tzinfo=timezone.utc))
    assert home.food in [one["category_id"] for one in await variations(home)]


async def variations(home: Household) -> list[dict[str, Any]]:
    answer = await home.ask("GET", "/insights")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["category_monthly_variation"]
    return found


async def test_a_notification_has_a_cooldown_over_the_end_of_a_month(home: Household, clock: Standing) -> None:
    clock.set(datetime(2026, 3, 30, 12, tzinfo=timezone.utc))
    await run_job(home, clock)
    clock.set(datetime(2026, 4, 2, 12, tzinfo=timezone.utc))
    await home.record("expense", 90000, date="2026-04-02")
    await run_job(home, clock)
    count = "SELECT count(*) FROM notification WHERE team_id = %s AND subject LIKE %s"
    food = (home.person.team_id, f"{home.food}%")
    assert home.books.rows(count, *food) == [(1,)]
    clock.set(datetime(2026, 4, 7, 12, tzinfo=timezone.utc))
    await run_job(home, clock)
    assert home.books.rows(count, *food) == [(2,)]


async def test_a_budget_at_risk_is_shown_and_told(home: Household, clock: Standing) -> None:
    path = f"/categories/{home.food}/budget"
    assert (await home.ask("PUT", path, json={"amount": "400.00"})).status_code == 200
    [risk] = (await home.ask("GET", "/insights")).json()["budgets_at_risk"]
    assert (risk["spent"]["amount"], risk["projected"]["amount"], risk["days_left"]) == ("300.00", "465.00", 11)
    assert (await home.ask("PUT", path, json={"amount": "500.00"})).status_code == 200
    assert (await home.ask("GET", "/insights")).json()["budgets_at_risk"] == []
    assert (await home.ask("GET", "/budgets")).json()["budgets"][0]["limit"]["amount"] == "500.00"
    assert (await home.ask("DELETE", path)).status_code == 200
    assert (await home.ask("GET", "/budgets")).json()["budgets"] == []
    kinds = {one["type"] for one in (await home.ask("GET", "/notifications")).json()["notifications"]}
    assert kinds == {"budget_at_risk", "category_variation"}


async def test_what_a_user_turns_off_he_does_not_get(home: Household, clock: Standing) -> None:
    changed = await home.ask("PATCH", "/insights/preferences", json={"enable_category_variation": False})
    assert changed.json() == {
        "enable_category_variation": False,
        "enable_spending_spike": True,
        "enable_budgets_at_risk": True,
        "enable_wallet_running_dry": True,
    }
    await run_job(home, clock)
    assert await variations(home) == [] and kept(home)["notification"] == []


async def test_notifications_are_read_once(home: Household, clock: Standing) -> None:
    await run_job(home, clock)
    assert (await home.ask("GET", "/notifications/unread-count")).json() == {"count": 1}
    [told] = (await home.ask("GET", "/notifications", params={"unread_only": "true"})).json()["notifications"]
    assert told["metadata"]["current_amount"] == "300.00" and told["title"] == "Food"
    read = (await home.ask("PATCH", f"/notifications/{told['id']}/read")).json()
    clock.set(START + timedelta(hours=1))
    assert (await home.ask("PATCH", f"/notifications/{told['id']}/read")).json() == read
    assert (await home.ask("POST", "/notifications/mark-all-read")).json() == {"marked": 0}
    assert (await home.ask("GET", "/notifications/unread-count")).json() == {"count": 0}


def spent(day: date, amount: int, name: str = "food") -> DaySum:
    return DaySum(name, name, "expense", "BRL", day, amount)


def test_a_spike_is_three_times_the_usual_of_the_days_before() -> None:
    today = date(2026, 5, 20)
    usual = [spent(today - timedelta(days=ago), 5000) for ago in range(8, 18)]
    few = usual[:6]
    assert spikes([*usual, spent(today, 14999)], today) == []
    assert spikes([*usual, spent(today, 15000)], today) == ["2026-05-20"]
    assert spikes([*few, spent(today, 99000)], today) == []


def spikes(sums: list[DaySum], today: date) -> list[str]:
    return [one.facts["date"] for one in find_insights(sums, [], today) if one.type == "spending_spike"]


def test_months_of_different_lengths_are_compared_by_day() -> None:
    sums = [spent(date(2026, 2, 28), 10000), spent(date(2026, 3, 30), 20000)]
    [found] = find_insights(sums, [], date(2026, 3, 31))
    assert (found.facts["previous_amount"], found.facts["variation_percent"]) == ("100.00", 100)
    assert find_insights(sums, [], date(2026, 3, 31)) == [found]


def test_a_budget_is_not_at_risk_on_its_first_days_but_passed_at_once() -> None:
    budget = [Budget("food", "food", "BRL", 30000)]
    early = find_insights([spent(date(2026, 4, 1), 9000)], budget, date(2026, 4, 2))
    assert [one for one in early if one.type == "budget_at_risk"] == []
    passed = find_insights([spent(date(2026, 4, 1), 30001)], budget, date(2026, 4, 1))
    assert [one.facts["spent"] for one in passed if one.type == "budget_at_risk"] == ["300.01"]
