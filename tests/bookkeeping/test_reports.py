"""What the books add up to: lists that stay whole, statements that chain, balances of any moment, months, the proof."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from tests.bookkeeping.household import Household

from dumont.db import psycopg_url

pytestmark = pytest.mark.requires_postgres


async def listed(home: Household, **query: Any) -> list[str]:
    answer = await home.ask("GET", "/transactions", params=query)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["transactions"]]


async def test_filters_narrow_and_nothing_else(home: Household) -> None:
    bread = await home.record("expense", 500, date="2026-01-10", description="Pão 100% da vila", tags=["a"])
    fish = await home.record("expense", 2000, date="2026-01-20", description="fish", tags=["a", "b"])
    pay = await home.record("income", 90000, date="2026-02-01", description="pay")
    saved = await home.record("transfer", 700, date="2026-02-02", description="saved")
    ids = {one["id"]: name for one, name in ((bread, "bread"), (fish, "fish"), (pay, "pay"), (saved, "saved"))}
    for query, expected in (
        ({}, ["saved", "pay", "fish", "bread"]),
        ({"type": "expense"}, ["fish", "bread"]),
        ({"category_id": home.salary}, ["pay"]),
        ({"account_id": home.savings}, ["saved"]),
        ({"start_date": "2026-01-20", "end_date": "2026-02-01"}, ["pay", "fish"]),
        ({"tag": "b"}, ["fish"]),
        ({"q": "pÃO".lower().replace("ã", "ã")}, ["bread"]),
        ({"q": "100%"}, ["bread"]),
        ({"q": "%"}, ["bread"]),
        ({"min_amount": "7.00", "max_amount": "20.00"}, ["saved", "fish"]),
        ({"sort": "amount"}, ["bread", "saved", "fish", "pay"]),
        ({"sort": "-created_at"}, ["saved", "pay", "fish", "bread"]),
    ):
        assert [ids[one] for one in await listed(home, **query)] == expected, query
    for bad in ({"sort": "color"}, {"type": "gift"}, {"min_amount": "1e9"}, {"cursor": "x"}, {"limit": 0}):
        assert (await home.ask("GET", "/transactions", params=bad)).status_code == 422, bad


async def test_pages_neither_repeat_nor_lose_while_others_record(home: Household) -> None:
    made = [(await home.record("expense", 100 + n, date="2026-03-01"))["id"] for n in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2, "sort": "date", **({"cursor": cursor} if cursor else {})}
        page = (await home.ask("GET", "/transactions", params=query)).json()
        seen += [one["id"] for one in page["transactions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await home.record("expense", 999, date="2026-02-01")
    assert seen == made
    pages = (await home.ask("GET", f"/accounts/{home.checking}/entries", params={"limit": 3})).json()
    rest = await home.ask(
        "GET", f"/accounts/{home.checking}/entries", params={"limit": 100, "cursor": pages["next_cursor"]}
    )
    whole = pages["entries"] + rest.json()["entries"]
    assert [one["id"] for one in whole] == [f"{home.checking}.{n}" for n in range(len(whole), 0, -1)]
    assert whole[-1]["kind"] == "opening" and whole[0]["balance_after_str"] == f"{home.balances()[0] / 100:.2f}"


async def test_statements_chain_whatever_was_corrected_meanwhile(home: Household) -> None:
    kept = await home.record("expense", 1000, date="2026-01-15")
    gone = await home.record("expense", 500, date="2026-02-10")
    await home.record("income", 7000, date="2026-02-20")
    assert (await home.ask("PATCH", f"/transactions/{kept['id']}", json={"amount_cents": 1200})).status_code == 200
    assert (await home.ask("DELETE", f"/transactions/{gone['id']}")).status_code == 200
    spans = (("2026-01-01", "2026-01-31"), ("2026-02-01", "2026-02-28"), ("2026-03-01", "2026-12-31"))
    closing, total = "0.00", Decimal(0)
    for start, end in spans:
        path = f"/accounts/{home.checking}/statement"
        found = (await home.ask("GET", path, params={"from": start, "to": end})).json()
        assert found["opening_str"] == closing
        moved = sum(
            (Decimal(e["amount_str"]) * (1 if e["side"] == "credit" else -1) for e in found["entries"]), Decimal(0)
        )
        assert Decimal(found["opening_str"]) + moved == Decimal(found["closing_str"])
        assert Decimal(found["total_credits_str"]) - Decimal(found["total_debits_str"]) == moved
        if found["entries"]:
            assert found["entries"][-1]["running_str"] == found["closing_str"]
        closing, total = found["closing_str"], total + moved
    assert closing == f"{home.balances()[0] / 100:.2f}" == f"{total:.2f}" == "158.00"
    for bad in ({"from": "2026-02-01", "to": "2026-01-31"}, {"from": "2026-01-01", "to": "2027-02-01"}, {}):
        assert (await home.ask("GET", f"/accounts/{home.checking}/statement", params=bad)).status_code == 422


async def test_a_statement_after_a_deletion_shows_both_lines_on_their_day(home: Household) -> None:
    gone = await home.record("expense", 500, date="2026-02-10")
    await home.ask("DELETE", f"/transactions/{gone['id']}")
    found = (
        await home.ask("GET", f"/accounts/{home.checking}/statement", params={"from": "2026-02-01", "to": "2026-02-28"})
    ).json()
    assert [(e["date"], e["kind"], e["transaction_id"]) for e in found["entries"]] == [
        ("2026-02-10", "posting", gone["id"]),
        ("2026-02-10", "reversal", gone["id"]),
    ]


async def test_the_balance_of_any_moment(home: Household) -> None:
    moments = [datetime.now(timezone.utc)]
    for cents in (100, 250, 300):
        await home.record("expense", cents)
        [(at,)] = home.books.rows(
            "SELECT max(created_at) FROM ledger_account_entry WHERE account_id = %s", home.checking
        )
        moments.append(at)
    path = f"/accounts/{home.checking}/balance"
    then = [(await home.ask("GET", path, params={"at": at.isoformat()})).json()["balance_str"] for at in moments]
    assert then == ["100.00", "99.00", "96.50", "93.50"]
    before = moments[1] - timedelta(microseconds=1)
    assert (await home.ask("GET", path, params={"at": before.isoformat()})).json()["balance_str"] == "100.00"
    old = {"at": "2001-01-01T00:00:00Z"}
    assert (await home.ask("GET", path, params=old)).json()["balance_str"] == "0.00"
    assert (await home.ask("GET", path)).json()["balance_str"] == "93.50"
    assert (await home.ask("GET", path, params={"at": "2026-01-01T00:00:00"})).status_code == 422


async def test_a_month_is_the_sum_of_what_stands(home: Household) -> None:
    rent = await home.category("Rent", "expense")
    await home.record("income", 500000, date="2026-04-01")
    await home.record("expense", 1050, date="2026-04-02")
    await home.record("expense", 950, date="2026-04-30")
    await home.record("expense", 200000, date="2026-04-05", category_id=rent)
    await home.record("transfer", 1000, date="2026-04-06")
    await home.record("expense", 77, date="2026-05-01")
    gone = await home.record("expense", 88, date="2026-04-07")
    await home.ask("DELETE", f"/transactions/{gone['id']}")
    found = (await home.ask("GET", "/transactions/summary/monthly", params={"year": 2026, "month": 4})).json()
    assert (found["total_income"], found["total_expenses"], found["net_balance"]) == ("5000.00", "2020.00", "2980.00")
    assert found["total_transactions"] == 5
    assert [(one["name"], one["total"]) for one in found["category_breakdown"]] == [
        ("Salary", "5000.00"),
        ("Rent", "2000.00"),
        ("Food", "20.00"),
    ]
    dollars = await home.ask("GET", "/transactions/summary/monthly", params={"currency": "USD", "year": 2026})
    assert (dollars.json()["total_transactions"], dollars.json()["net_balance"]) == (0, "0.00")


async def test_the_proof_holds_and_notices_a_balance_that_lies(home: Household) -> None:
    await home.record("expense", 100)
    found = (await home.ask("GET", "/ledger/proof")).json()
    assert found["balanced"] and found["mismatches"] == [] and found["accounts_checked"] == 4
    assert [(one["currency"], one["total_debits_str"] == one["total_credits_str"]) for one in found["totals"]] == [
        ("BRL", True)
    ]
    lie = "UPDATE ledger_account SET balance = balance + %s WHERE id = %s"
    for cents, ended in ((5, False), (-5, True)):
        with psycopg.connect(psycopg_url(home.books.urls.owner)) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(lie, [cents, home.checking])
        found = (await home.ask("GET", "/ledger/proof")).json()
        assert found["balanced"] is ended
        if not ended:
            [told] = found["mismatches"]
            assert told == {"account_id": home.checking, "balance_str": "99.05", "sum_str": "99.00"}
    one = (await home.ask("GET", "/ledger/proof", params={"account_id": home.checking})).json()
    assert one["balanced"] and one["accounts_checked"] == 1
