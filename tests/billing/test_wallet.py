"""A wallet comes with its team, shows itself, and is changed by its admins only."""

import asyncio
from datetime import datetime

import pytest
from tests.billing.till import Till

from dumont.billing import ensure_wallet

pytestmark = pytest.mark.requires_postgres
NOTHING = {"amount": "0.000000", "currency": "USD"}


async def test_a_registration_makes_the_wallet_with_the_team(till: Till) -> None:
    person = await till.api.register()
    kinds = await till.rows(
        "SELECT type, currency, floor, balance FROM ledger_account WHERE team_id = %s ORDER BY type", person.team_id
    )
    assert kinds == [
        ("receivable", "USD", None, 0),
        ("revenue", "USD", None, 0),
        ("showback", "USD", None, 0),
        ("wallet", "USD", 0, 0),
    ]
    [(mode, account)] = await till.rows("SELECT mode, account_id FROM wallet WHERE team_id = %s", person.team_id)
    assert mode == "showback"
    shown = await till.get(person, "/wallet")
    assert (shown["account_id"], shown["mode"]) == (account, "showback")
    assert shown["posted"] == shown["held"] == shown["available"] == shown["burn_hour"] == NOTHING
    assert shown["runs_out_at"] is None


async def test_two_at_once_make_one_wallet(till: Till) -> None:
    person = await till.api.person()

    async def make() -> str:
        async with till.session(person.team_id) as session:
            return (await ensure_wallet(session, person.team_id, till.clock.now())).account_id

    made = await asyncio.gather(*(make() for _ in range(4)))
    assert len(set(made)) == 1
    assert await till.rows(
        "SELECT type, count(*) FROM ledger_account WHERE team_id = %s GROUP BY 1 ORDER BY 1", person.team_id
    ) == [("receivable", 1), ("revenue", 1), ("showback", 1), ("wallet", 1)]


async def test_settings_are_changed_and_told(till: Till) -> None:
    person = await till.person()
    shown = await till.change(person, low_threshold="7.5", limit_day="20", auto_hibernate_at_zero=False)
    assert (shown["low_threshold"]["amount"], shown["limit_day"]["amount"]) == ("7.500000", "20.000000")
    assert (shown["auto_hibernate_at_zero"], shown["version"]) == (False, 2)
    assert (await till.change(person, limit_day="20"))["version"] == 2
    assert (await till.change(person, limit_day=None))["limit_day"] is None
    told = await till.rows(
        "SELECT data->'changed' FROM outbox_event WHERE topic = 'wallet.changed' AND team_id = %s ORDER BY id",
        person.team_id,
    )
    assert told == [(["auto_hibernate", "limit_day", "low_threshold"],), (["limit_day"],)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"balance": "5"}, 422, "invalid-request"),
        ({"limit_day": "-1"}, 422, "invalid-request"),
        ({"limit_day": "0"}, 422, "invalid-request"),
        ({"limit_day": 1.5}, 422, "invalid-request"),
        ({"low_threshold": "1.0000001"}, 422, "invalid-request"),
        ({"limit_month": "9999999999"}, 422, "invalid-request"),
        ({"credit_limit": "50"}, 403, "forbidden"),
    ],
)
async def test_what_may_not_be_changed_is_refused(till: Till, body: dict[str, object], status: int, code: str) -> None:
    person = await till.person()
    answer = await till.api.http.patch("/api/v1/wallet", json=body, headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert (await till.get(person, "/wallet"))["version"] == 1


async def test_the_operator_gives_credit_and_takes_only_what_is_free(till: Till) -> None:
    person = await till.person()
    await till.rows("UPDATE user_account SET is_operator = true WHERE id = %s", person.user_id)
    shown = await till.change(person, credit_limit="50")
    assert (shown["available"]["amount"], shown["posted"]["amount"]) == ("50.000000", "0.000000")
    await till.rows(
        "SELECT * FROM ledger_hold(%s, gen_random_uuid(), '\\x00', %s, 30000000, 'a test', NULL, NULL)",
        person.team_id, shown["account_id"],
    )  # fmt: skip
    answer = await till.api.http.patch("/api/v1/wallet", json={"credit_limit": "20"}, headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "wallet-in-use"), answer.text
    assert (await till.get(person, "/wallet"))["available"]["amount"] == "20.000000"


async def test_a_statement_chains_from_opening_to_closing(till: Till) -> None:
    person = await till.person()
    await till.fund(person.team_id, 10_000_000)
    till.clock.turn(days=20)
    await till.fund(person.team_id, 2_500_000)
    whole = await till.get(person, "/wallet/statement", **{"from": "2026-03-01", "to": "2026-04-30"})
    assert (whole["opening_str"], whole["closing_str"]) == ("0.000000", "12.500000")
    assert [row["balance_after_str"] for row in whole["entries"]] == ["10.000000", "12.500000"]
    april = await till.get(person, "/wallet/statement")
    assert (april["from"], april["opening_str"], april["closing_str"]) == ("2026-04-01", "10.000000", "12.500000")
    assert april["total_credits_str"] == "2.500000"


async def test_holds_are_listed_by_state_and_subject(till: Till) -> None:
    person, stranger = await till.person(), await till.person()
    await till.fund(person.team_id, 10_000_000)
    account = (await till.get(person, "/wallet"))["account_id"]
    for subject in ("ins_a", "ins_b"):
        await till.rows(
            "SELECT * FROM ledger_hold(%s, gen_random_uuid(), '\\x00', %s, 1000000, 'ahead', %s, NULL)",
            person.team_id, account, subject,
        )  # fmt: skip
    both = await till.get(person, "/holds", status="open")
    assert both["count"] == 2 and both["next_cursor"] is None
    first = await till.get(person, "/holds", limit=1)
    second = await till.get(person, "/holds", limit=1, cursor=first["next_cursor"])
    assert {first["holds"][0]["subject"], second["holds"][0]["subject"]} == {"ins_a", "ins_b"}
    [one] = (await till.get(person, "/holds", subject="ins_b"))["holds"]
    assert one["amount"] == {"amount": "1.000000", "currency": "USD"}
    assert await till.get(person, f"/holds/{one['id']}") == one
    answer = await till.api.http.get(f"/api/v1/holds/{one['id']}", headers=stranger.headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "hold-not-found")
    assert (await till.get(stranger, "/holds"))["count"] == 0
    assert datetime.fromisoformat(one["created_at"]).tzinfo is not None
