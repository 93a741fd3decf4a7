"""Money back, and bad days: refunds bounded by what remains, a payment service that is away, processes that die."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.billing.counter import Counter, micro
from tests.support.api import Person
from tests.support.sandbox import wait_until

from dumont.billing import Rate, TopupDesk, topups_turn
from dumont.billing.topups_service import txid_of
from dumont.db import psycopg_url

pytestmark = pytest.mark.requires_postgres
CRASH = Path(__file__).with_name("mortal_till.py")


async def _refund(counter: Counter, person: Person, topup: dict[str, Any], **body: Any) -> tuple[int, dict[str, Any]]:
    answer = await counter.ask(person, "POST", f"/{topup['id']}/refund", json=body)
    return answer.status_code, answer.json()


async def _settle(counter: Counter) -> None:
    """Ask the payment service for the return, and then whether it has arrived."""
    for _ in range(2):
        await counter.turn()
        counter.look_now()
    await counter.turn()


async def test_a_refund_leaves_nothing_behind(counter: Counter) -> None:
    """The wallet, both sides of the exchange, the clearing account and what the service owes are as before."""
    person = await counter.person()
    made = await counter.paid(person)
    status, shown = await _refund(counter, person, made)
    assert (status, shown["status"], shown["refunded"]["amount"]) == (200, "refunded", "100.00")
    under_way = counter.balances(person.team_id)
    assert (under_way["wallet USD"], under_way["clearing BRL"]) == (0, 10000), "on its way, and no longer in the wallet"
    await _settle(counter)
    assert set(counter.balances(person.team_id).values()) == {0}
    back = await counter.service.give_back(made["end_to_end_id"], _return_id(counter, made), 10000)
    assert (back.amount, back.status.value) == (10000, "done"), "the payer has it"


def _return_id(counter: Counter, topup: dict[str, Any]) -> str:
    [(id_,)] = counter.rows("SELECT id FROM topup_refund WHERE topup_id = %s", topup["id"])
    return str(id_).replace("_", "")


async def test_refunds_in_parts_are_bounded_by_what_remains(counter: Counter) -> None:
    """Three odd parts give back exactly the credit; one centavo more is refused and writes nothing."""
    person = await counter.person()
    made = await counter.paid(person, "10.00")
    for amount in ("3.33", "3.33"):
        assert (await _refund(counter, person, made, amount=amount))[0] == 200
    status, problem = await _refund(counter, person, made, amount="3.35")
    assert (status, problem["code"], problem["available"]) == (409, "balance-too-low", 334)
    status, shown = await _refund(counter, person, made, amount="3.34")
    assert (status, shown["status"], shown["refunded"]["amount"]) == (200, "refunded", "10.00")
    status, problem = await _refund(counter, person, made)
    assert (status, problem["code"]) == (409, "topup-ended")
    await _settle(counter)
    assert set(counter.balances(person.team_id).values()) == {0}
    assert counter.rows("SELECT count(*), sum(amount) FROM topup_refund WHERE topup_id = %s", made["id"]) == [(3, 1000)]


async def test_two_refunds_at_once_do_not_give_back_twice(counter: Counter) -> None:
    person = await counter.person()
    made = await counter.paid(person)
    answers = await asyncio.gather(*(_refund(counter, person, made, amount="60.00") for _ in range(4)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409]
    await _settle(counter)
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"]) - micro(made["credit"]) * 60 // 100


async def test_what_is_spent_is_not_refunded(counter: Counter) -> None:
    """The wallet's floor holds: nothing is written and nothing is sent."""
    person = await counter.person()
    made = await counter.paid(person)
    [(wallet,)] = counter.rows("SELECT account_id FROM wallet WHERE team_id = %s", person.team_id)
    [(revenue,)] = counter.rows("SELECT revenue_id FROM wallet WHERE team_id = %s", person.team_id)
    counter.rows(
        "SELECT ledger_post(%s, gen_random_uuid(), '\\x00', 'usage', '2026-03-14', NULL, least(%s, %s), "
        "CASE WHEN %s < %s THEN -%s ELSE %s END, greatest(%s, %s))",
        person.team_id, wallet, revenue, wallet, revenue, 10_000_000, 10_000_000, wallet, revenue,
    )  # fmt: skip
    status, problem = await _refund(counter, person, made)
    assert (status, problem["code"]) == (402, "insufficient-funds")
    assert counter.rows("SELECT count(*) FROM topup_refund WHERE topup_id = %s", made["id"]) == [(0,)]
    assert (await counter.show(person, made))["refunded"]["amount"] == "0.00"


async def test_a_return_that_fails_comes_back_into_the_wallet(counter: Counter) -> None:
    person = await counter.person()
    made = await counter.paid(person)
    await _refund(counter, person, made, amount="40.00")
    await counter.turn()
    ended = {"endToEndId": made["end_to_end_id"], "id": _return_id(counter, made), "status": "NAO_REALIZADO"}
    await asyncio.to_thread(counter.payer.ask, "POST", "sim/return", ended)
    counter.look_now()
    await counter.turn()
    shown = await counter.show(person, made)
    assert (shown["status"], shown["refunded"]["amount"]) == ("paid", "0.00")
    balances = counter.balances(person.team_id)
    assert (balances["wallet USD"], balances["clearing BRL"]) == (micro(made["credit"]), 0)
    assert counter.news("topup.refund-failed")[-1]["amount"] == 4000


async def test_only_the_operator_refunds(counter: Counter) -> None:
    person = await counter.person(operator=False)
    made = await counter.topup(person)
    status, problem = await _refund(counter, person, made)
    assert (status, problem["code"]) == (403, "forbidden")
    operator = await counter.person()
    pending = await counter.topup(operator)
    status, problem = await _refund(counter, operator, pending)
    assert (status, problem["code"]) == (409, "topup-ended")
    for body in ({"amount": "0.00"}, {"amount_cents": 0}, {"amount": "-1.00"}, {"more": 1}):
        assert (await _refund(counter, operator, pending, **body))[0] == 422


async def test_while_the_payment_service_is_away_nothing_is_lost(counter: Counter) -> None:
    """A charge cannot be made, with what to do; payments and refunds wait, and are done once it is back."""
    person = await counter.person()
    made, other = await counter.paid(person), await counter.topup(person, "50.00")
    paid = await counter.pay(txid=other["txid"])
    await counter.tell(paid, other["txid"])
    assert (await _refund(counter, person, made))[0] == 200
    away = TopupDesk(_away(counter), Rate(5_000_000, "operator", counter.clock.now()), counter.clock)
    counter.api.app.state.topup_desk = away
    refused = await counter.ask(person, "POST", "", json={"amount": "10.00"})
    assert (refused.status_code, refused.json()["act"]) == (503, "wait") and refused.headers["retry-after"]
    await topups_turn(counter.worker, away)
    assert (await counter.show(person, other))["status"] == "pending"
    assert counter.balances(person.team_id)["clearing BRL"] == 10000
    counter.look_now()
    await _settle(counter)
    assert (await counter.show(person, other))["status"] == "paid"
    assert counter.balances(person.team_id)["clearing BRL"] == 0
    await away.service().close()


def _away(counter: Counter) -> Any:
    from dumont.payments import PixService

    secrets = {"client_id": "a", "client_secret": "b", "webhook_secret": "c"}
    return PixService("http://127.0.0.1:9/_psp", **secrets, key="k", receiver="r", city="c")


async def test_without_payments_or_a_rate_the_operator_is_told_what_to_set(counter: Counter) -> None:
    person = await counter.person()
    for desk, setting in (
        (TopupDesk(None, counter.desk.rate, counter.clock), "DUMONT_PIX_URL"),
        (TopupDesk(counter.service, None, counter.clock), "DUMONT_FX_BRL_PER_USD"),
    ):
        counter.api.app.state.topup_desk = desk
        answer = await counter.ask(person, "POST", "", json={"amount": "10.00"})
        assert (answer.status_code, answer.json()["code"]) == (400, "payments-not-configured")
        assert answer.json()["setting"] == setting and setting in answer.json()["detail"]


async def test_a_retry_after_a_crash_finds_the_same_charge(counter: Counter) -> None:
    """The charge was made and our process died before its row was written: the same key finds it again."""
    person = await counter.person()
    txid = txid_of(person.team_id, person.user_id, "the-key")
    before = await counter.service.create_charge(txid, 1000, 1800, "")
    answer = await counter.ask(person, "POST", "", key="the-key", json={"amount": "10.00"})
    assert answer.status_code == 201 and answer.json()["pix_copy_paste"] == before.code


@pytest.mark.checklist("PIX-02", "PIX-09")
@pytest.mark.parametrize("moment", ["credited", "committed"])
async def test_a_worker_that_is_killed_credits_once(counter: Counter, moment: str) -> None:
    """kill -9 after the credit is written and before its commit, and right after the commit; then another worker."""
    person = await counter.person()
    made = await counter.topup(person)
    await counter.tell(await counter.pay(txid=made["txid"]), made["txid"])
    done = await asyncio.to_thread(_die, counter, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    credited = counter.balances(person.team_id).get("wallet USD", 0)
    assert credited == (micro(made["credit"]) if moment == "committed" else 0)
    counter.look_now()
    counter.rows("UPDATE pix_notice SET ended_at = NULL RETURNING 1")
    await counter.turn()
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"])
    assert (await counter.show(person, made))["status"] == "paid"


def _die(counter: Counter, moment: str) -> "subprocess.CompletedProcess[str]":
    names = {"URL": counter.urls.worker, "PSP": f"{counter.sandbox.url}/_psp", "KEY": counter.sandbox.key}
    environment = {**os.environ, **{f"MORTAL_{name}": value for name, value in names.items()}}
    command = [sys.executable, str(CRASH), moment]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_an_api_that_dies_before_its_answer_is_asked_again(counter: Counter) -> None:
    """The notice is written and the connection ends before the 200: the service brings it again, and it counts once."""
    person = await counter.person()
    made = await counter.topup(person)
    await asyncio.to_thread(counter.payer.pay, txid=made["txid"])
    [notice] = counter.mailbox.wait_for(1)
    headers, body = notice
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/api/v1/wallet/pix/callback", "raw_path": b"/api/v1/wallet/pix/callback", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "client": ("127.0.0.1", 1),
        "server": ("api", 80), "root_path": "",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await counter.api.app(scope, receive, send)
    wait_until(lambda: counter.rows("SELECT 1 FROM pix_notice WHERE txid = %s", made["txid"]), what="the notice")
    assert (await counter.call_back(notice)).status_code == 200
    await counter.turn()
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"])


def test_the_application_cannot_credit_itself(counter: Counter) -> None:
    """Its role writes no payment and sees no notice; a payment is the worker's to confirm."""
    import psycopg

    with psycopg.connect(psycopg_url(counter.urls.app), autocommit=True) as connection:
        for statement in (
            "INSERT INTO topup_payment (end_to_end_id, team_id, amount, fate, paid_at, seen_at) "
            "VALUES ('E', 't', 1, 'credited', now(), now())",
            "SELECT * FROM pix_notice",
            "UPDATE topup_refund SET status = 'done'",
            "SELECT dumont_house_team(now())",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
