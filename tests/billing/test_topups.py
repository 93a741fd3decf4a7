"""Top-ups by Pix: each payment is credited once, whatever comes in whatever order; what fits no charge is set aside."""

import asyncio
import base64
import json
from typing import Any
from uuid import uuid4

import pytest
from tests.billing.counter import HOUSE, RATE_MICRO, Counter, micro
from tests.support.payments import webhook_secret

from dumont.payments import HEADER, read_code, sign

pytestmark = pytest.mark.requires_postgres


async def test_a_charge_is_made_paid_by_its_code_and_credited(counter: Counter) -> None:
    """From the copied code to the wallet, each currency summing to zero and the clearing account empty."""
    person = await counter.person()
    made = await counter.topup(person, "1652.29", expires_in_minutes=60)
    assert (made["status"], made["amount"]) == ("pending", {"amount": "1652.29", "currency": "BRL"})
    assert micro(made["credit"]) == 165229 * 10_000 * 1_000_000 // RATE_MICRO and made["credit"]["currency"] == "USD"
    assert (made["fx"]["rate"], made["fx"]["source"]) == ("5.4321", "operator")
    assert base64.b64decode(made["qr_code_png_base64"]).startswith(b"\x89PNG")
    assert read_code(made["pix_copy_paste"])["54"] == "1652.29"
    paid = await asyncio.to_thread(counter.payer.pay, code=made["pix_copy_paste"])
    [notice] = counter.mailbox.wait_for(1)
    answer = await counter.call_back(notice)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert counter.balances(person.team_id) == {}, "a notice alone credits nothing"
    await counter.turn()
    credit = micro(made["credit"])
    assert counter.balances(person.team_id) == {
        "pix BRL": -165229, "clearing BRL": 0, "exchange BRL": 165229, "exchange USD": -credit, "wallet USD": credit,
    }  # fmt: skip
    shown = await counter.show(person, made)
    assert (shown["status"], shown["end_to_end_id"]) == ("paid", paid["endToEndId"])
    assert shown["qr_code_png_base64"] is None and shown["paid_at"] and shown["transaction_id"]
    assert any(data["credit"] == credit for data in counter.news("topup.paid"))


async def test_ten_deliveries_of_one_payment_credit_once(counter: Counter) -> None:
    """Ten callbacks at once, ten more later, and workers that look into them at the same time."""
    person = await counter.person()
    made = await counter.topup(person)
    paid = await asyncio.to_thread(counter.payer.pay, txid=made["txid"], copies=10)
    notices = counter.mailbox.wait_for(10)
    answers = await asyncio.gather(*(counter.call_back(notice) for notice in notices))
    assert {answer.status_code for answer in answers} == {200}
    await asyncio.gather(*(counter.turn() for _ in range(5)))
    for notice in notices:
        assert (await counter.call_back(notice)).status_code == 200
    counter.rows("UPDATE pix_notice SET ended_at = NULL, due_at = now() RETURNING 1")
    await asyncio.gather(*(counter.turn() for _ in range(5)))
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"])
    assert counter.rows(
        "SELECT fate FROM topup_payment WHERE end_to_end_id = %s", paid["endToEndId"]
    ) == [("credited",)]  # fmt: skip


async def test_many_who_take_one_payment_in_at_once_credit_it_once(counter: Counter) -> None:
    """Ten transactions that hold the same confirmed payment at the same moment: the rows decide, not the leases."""
    from dumont.billing.topups_service import take_payment
    from dumont.db import set_sweep

    person = await counter.person()
    made = await counter.topup(person)
    payment = await counter.service.payment(await counter.pay(txid=made["txid"]))
    assert payment is not None

    async def take() -> str | None:
        async with counter.worker.begin() as session:
            await set_sweep(session)
            return await take_payment(session, payment, counter.clock.now())

    fates = await asyncio.gather(*(take() for _ in range(10)))
    assert sorted(str(fate) for fate in fates) == ["None"] * 9 + ["credited"]
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"])


async def test_two_payments_told_in_the_other_order(counter: Counter) -> None:
    person = await counter.person()
    tops = [await counter.topup(person, amount) for amount in ("10.00", "20.00")]
    paid = [(await asyncio.to_thread(counter.payer.pay, txid=top["txid"], hold=True))["endToEndId"] for top in tops]
    await asyncio.to_thread(counter.payer.ask, "POST", "sim/deliver", {"endToEndIds": paid[::-1]})
    for notice in counter.mailbox.wait_for(2):
        await counter.call_back(notice)
        await counter.turn()
    assert counter.balances(person.team_id)["wallet USD"] == sum(micro(top["credit"]) for top in tops)


async def test_a_notice_that_never_comes_costs_a_minute_and_no_money(counter: Counter) -> None:
    """A pending charge is read back without a notice."""
    person = await counter.person()
    made = await counter.topup(person)
    await counter.pay(txid=made["txid"])
    await counter.turn()
    assert (await counter.show(person, made))["status"] == "pending", "its time to be read back has not come"
    counter.look_now()
    await counter.turn()
    assert (await counter.show(person, made))["status"] == "paid"


async def test_what_a_notice_says_is_not_believed(counter: Counter) -> None:
    """A signed notice of more than was paid, and one of a payment that nobody made: only what is read back counts."""
    person = await counter.person()
    made = await counter.topup(person, "10.00")
    await asyncio.to_thread(counter.payer.pay, txid=made["txid"], notice_amount="9999.99")
    [notice] = counter.mailbox.wait_for(1)
    assert json.loads(notice[1])["pix"][0]["valor"] == "9999.99"
    await counter.call_back(notice)
    other = await counter.topup(person, "10.00")
    await counter.tell("E" + uuid4().hex[:31], other["txid"])
    await counter.turn()
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"])
    assert (await counter.show(person, other))["status"] == "pending"


@pytest.mark.parametrize("amount", ["99.99", "100.01"])
async def test_another_amount_is_set_aside(counter: Counter, amount: str) -> None:
    person = await counter.person()
    made = await counter.topup(person, "100.00")
    paid = await counter.pay(txid=made["txid"], amount=amount, force=True)
    await counter.tell(paid, made["txid"])
    await counter.turn()
    centavos = int(amount.replace(".", ""))
    assert counter.balances(person.team_id) == {"pix BRL": -centavos, "clearing BRL": 0, "suspense BRL": centavos}
    assert (await counter.show(person, made))["status"] == "pending"
    [told] = [data for data in counter.news("topup.suspense") if data["txid"] == made["txid"]]
    assert (told["reason"], told["amount"], told["team_id"]) == ("other-amount", centavos, person.team_id)


async def test_a_payment_of_no_charge_of_ours_belongs_to_the_house(counter: Counter) -> None:
    """Of an unknown txid, and of none at all: on the suspense account of a team without members."""
    before = counter.balances(HOUSE).get("suspense BRL", 0)
    for txid in (uuid4().hex, None):
        paid = await counter.pay(txid=txid, amount="7.00", force=True)
        await counter.tell(paid, txid)
        await counter.turn()
        assert counter.news("topup.suspense")[-1]["reason"] == "unknown-charge"
    assert counter.balances(HOUSE)["suspense BRL"] == before + 1400
    assert counter.balances(HOUSE)["clearing BRL"] == 0


async def test_a_second_payment_of_one_charge_is_set_aside(counter: Counter) -> None:
    person = await counter.person()
    made = await counter.paid(person)
    again = await counter.pay(txid=made["txid"], force=True)
    await counter.tell(again, made["txid"])
    await counter.turn()
    assert counter.balances(person.team_id)["wallet USD"] == micro(made["credit"])
    assert counter.balances(person.team_id)["suspense BRL"] == 10000
    assert counter.news("topup.suspense")[-1]["reason"] == "paid-already"


async def test_an_expired_charge_is_told_and_a_late_payment_is_set_aside(counter: Counter) -> None:
    person = await counter.person()
    made = await counter.topup(person, expires_in_minutes=5)
    await counter.later(301)
    await counter.turn()
    assert (await counter.show(person, made))["status"] == "expired"
    paid = await counter.pay(txid=made["txid"], force=True)
    await counter.tell(paid, made["txid"])
    await counter.turn()
    assert (await counter.show(person, made))["status"] == "expired"
    assert counter.balances(person.team_id)["suspense BRL"] == 10000
    assert counter.news("topup.suspense")[-1]["reason"] == "expired"


async def test_a_payment_in_time_counts_however_late_we_hear_of_it(counter: Counter) -> None:
    """Paid in the last minute; the charge is read back before it is called expired."""
    person = await counter.person()
    one, two = [await counter.topup(person, "10.00", expires_in_minutes=5) for _ in range(2)]
    await counter.pay(txid=one["txid"])
    paid = await counter.pay(txid=two["txid"])
    counter.rows("UPDATE topup SET status = 'expired' WHERE id = %s RETURNING 1", two["id"])
    await counter.later(301)
    await counter.tell(paid, two["txid"])
    await counter.turn()
    assert [(await counter.show(person, top))["status"] for top in (one, two)] == ["paid", "paid"]


async def test_a_cancelled_charge_cannot_be_paid(counter: Counter) -> None:
    """Cancelled here and at the service, once; a payment that comes all the same is set aside."""
    person = await counter.person()
    made = await counter.topup(person)
    for _ in range(2):
        answer = await counter.ask(person, "POST", f"/{made['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    await asyncio.to_thread(counter.payer.ask, "POST", "sim/pay", {"txid": made["txid"]}, status=400)
    paid = await counter.pay(txid=made["txid"], force=True)
    await counter.tell(paid, made["txid"])
    await counter.turn()
    assert counter.balances(person.team_id)["suspense BRL"] == 10000
    assert counter.news("topup.suspense")[-1]["reason"] == "cancelled"


async def test_a_charge_that_is_paid_is_not_cancelled(counter: Counter) -> None:
    """Also where we have not heard of the payment yet: the service says so, and the credit comes."""
    person = await counter.person()
    made = await counter.topup(person)
    await counter.pay(txid=made["txid"])
    answer = await counter.ask(person, "POST", f"/{made['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "topup-ended")
    counter.look_now()
    await counter.turn()
    assert (await counter.show(person, made))["status"] == "paid"
    again = await counter.ask(person, "POST", f"/{made['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "topup-ended")


BODY = b'{"pix": [{"endToEndId": "E1", "txid": "x", "valor": "1.00", "horario": "2026-01-01T00:00:00Z"}]}'


async def test_an_unsigned_callback_is_refused_and_writes_nothing(counter: Counter) -> None:
    now = int(counter.rows("SELECT extract(epoch FROM now())::bigint")[0][0])
    old = sign(webhook_secret(counter.sandbox), now - 301, BODY)
    before = counter.rows("SELECT count(*) FROM pix_notice")
    for header in (None, "", "t=1,v1=0", old, sign("a guess", now, BODY)):
        answer = await counter.call_back(({} if header is None else {HEADER: header}, BODY))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid-signature"), answer.text
    assert counter.rows("SELECT count(*) FROM pix_notice") == before


BAD: list[dict[str, Any]] = [
    {},
    {"amount_cents": 100, "amount": "1.00"},
    {"amount_cents": 99},
    {"amount_cents": 10_000_001},
    {"amount_cents": 100.0},
    {"amount_cents": True},
    {"amount_cents": "100"},
    {"amount": "1.001"},
    {"amount": "-5.00"},
    {"amount": "0.99"},
    {"amount": "100000.01"},
    {"amount": "1e3"},
    {"amount": 10},
    {"amount": "10.00", "currency": "USD"},
    {"amount": "10.00", "method": "card"},
    {"amount": "10.00", "expires_in_minutes": 4},
    {"amount": "10.00", "expires_in_minutes": 1441},
    {"amount": "10.00", "more": 1},
]


async def test_bad_input_makes_no_charge(counter: Counter) -> None:
    person = await counter.person()
    for body in BAD:
        answer = await counter.ask(person, "POST", "", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), (body, answer.text)
    assert counter.rows("SELECT count(*) FROM topup WHERE team_id = %s", person.team_id) == [(0,)]


async def test_one_key_makes_one_charge(counter: Counter) -> None:
    """Asked twice, one after the other and at once; with another amount it is refused; without a key as well."""
    person = await counter.person()
    key = uuid4().hex
    answers = [await counter.ask(person, "POST", "", key=key, json={"amount": "10.00"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json() and answers[1].headers["idempotency-replayed"] == "true"
    other = await counter.ask(person, "POST", "", key=key, json={"amount": "11.00"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    none = await counter.ask(person, "POST", "", key=None, json={"amount": "10.00"})
    assert (none.status_code, none.json()["code"]) == (400, "idempotency-key-missing")
    fresh = uuid4().hex
    crowd = await asyncio.gather(
        *(counter.ask(person, "POST", "", key=fresh, json={"amount": "5.00"}) for _ in range(8))
    )
    assert {answer.status_code for answer in crowd} <= {201, 409} and 201 in {answer.status_code for answer in crowd}
    assert counter.rows("SELECT count(*) FROM topup WHERE team_id = %s", person.team_id) == [(2,)]


async def test_lists_are_paged_filtered_and_of_the_team_alone(counter: Counter) -> None:
    person, other = await counter.person(), await counter.person()
    made = [await counter.topup(person, f"{amount}.00") for amount in (10, 20, 30)]
    await counter.ask(person, "POST", f"/{made[0]['id']}/cancel")
    first = (await counter.ask(person, "GET", "", params={"limit": 2})).json()
    assert [top["id"] for top in first["topups"]] == [made[2]["id"], made[1]["id"]] and first["next_cursor"]
    rest = (await counter.ask(person, "GET", "", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [top["id"] for top in rest["topups"]] == [made[0]["id"]] and rest["next_cursor"] is None
    gone = (await counter.ask(person, "GET", "", params={"status": "cancelled"})).json()
    assert [top["id"] for top in gone["topups"]] == [made[0]["id"]]
    none = (await counter.ask(person, "GET", "", params={"to": made[0]["created_at"]})).json()
    assert none["topups"] == [] and (await counter.ask(other, "GET", "")).json()["topups"] == []
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/refund")):
        answer = await counter.ask(other, method, f"/{made[1]['id']}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "topup-not-found")


async def test_only_the_operator_simulates_payments(counter: Counter) -> None:
    """What he lets be paid comes by the same callback as ever."""
    person, nobody = await counter.person(), await counter.person(operator=False)
    made, others = await counter.topup(person), await counter.topup(nobody)
    refused = await counter.ask(nobody, "POST", f"/{others['id']}/simulate-payment")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    answer = await counter.ask(person, "POST", f"/{made['id']}/simulate-payment")
    assert answer.status_code == 200, answer.text
    [notice] = counter.mailbox.wait_for(1)
    await counter.call_back(notice)
    await counter.turn()
    assert (await counter.show(person, made))["status"] == "paid"
    again = await counter.ask(person, "POST", f"/{made['id']}/simulate-payment")
    assert (again.status_code, again.json()["code"]) == (409, "topup-ended")
