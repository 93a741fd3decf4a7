"""The Pix plug-in over the sandbox's payment service: charges, payments, returns, and notices that are signed."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from tests.support.payments import PIX_KEY, Mailbox, Payer, pix_service, webhook_secret
from tests.support.sandbox import SandboxProcess

from dumont.payments import (
    HEADER,
    ChargeStatus,
    InvalidSignature,
    PaymentRefused,
    PaymentUnreachable,
    PixService,
    ReturnStatus,
    read_code,
    sign,
)


def txid() -> str:
    return uuid4().hex


async def test_a_charge_is_made_once_and_paid_by_its_code(service: PixService, payer: Payer) -> None:
    """A payer's app reads our code, finds the charge behind it, and the charge then holds his payment."""
    name = txid()
    charge = await service.create_charge(name, 165229, 1800, "Dumont")
    assert (charge.status, charge.amount, charge.payments) == (ChargeStatus.OPEN, 165229, ())
    assert (charge.expires_at - charge.created_at).total_seconds() == 1800
    fields = read_code(charge.code)
    assert (fields["54"], fields["59"], fields["60"]) == ("1652.29", "Dumont Computacao Ltda", "Sao Paulo")
    again = await service.create_charge(name, 165229, 1800, "Dumont")
    assert again.code == charge.code, "the same one, asked for again"
    paid = payer.pay(code=charge.code, copies=0)
    found = await service.charge(name)
    assert found is not None and found.status is ChargeStatus.PAID
    [payment] = found.payments
    assert (payment.end_to_end_id, payment.amount, payment.txid) == (paid["endToEndId"], 165229, name)
    assert await service.payment(payment.end_to_end_id) == payment


async def test_what_is_not_there_is_none(service: PixService) -> None:
    assert await service.charge(txid()) is None and await service.payment("E" + txid()[:31]) is None


async def test_one_txid_has_one_amount(service: PixService) -> None:
    name = txid()
    await service.create_charge(name, 100, 300, "")
    with pytest.raises(PaymentRefused):
        await service.create_charge(name, 200, 300, "")


async def test_a_removed_charge_cannot_be_paid_and_a_paid_one_not_removed(service: PixService, payer: Payer) -> None:
    one, two = txid(), txid()
    await service.create_charge(one, 100, 300, "")
    await service.create_charge(two, 100, 300, "")
    assert (await service.remove_charge(one)).status is ChargeStatus.REMOVED
    payer.ask("POST", "sim/pay", {"txid": one}, status=400)
    assert (await service.remove_charge(one)).status is ChargeStatus.REMOVED, "once more changes nothing"
    payer.pay(txid=two, copies=0)
    assert (await service.remove_charge(two)).status is ChargeStatus.PAID


async def test_money_goes_back_once_for_each_return_and_never_more_than_came(service: PixService, payer: Payer) -> None:
    name = txid()
    await service.create_charge(name, 1000, 300, "")
    paid = payer.pay(txid=name, copies=0)["endToEndId"]
    first = await service.give_back(paid, "r1", 400)
    assert (first.amount, first.status) == (400, ReturnStatus.UNDER_WAY)
    assert (await service.give_back(paid, "r1", 400)).status is ReturnStatus.DONE, "the same one, later"
    with pytest.raises(PaymentRefused):
        await service.give_back(paid, "r2", 601)
    await service.give_back(paid, "r3", 600)
    with pytest.raises(PaymentRefused):
        await service.give_back("E" + txid()[:31], "r1", 1)


async def test_notices_are_signed_and_brought_again_until_somebody_takes_them(
    service: PixService, payer: Payer, mailbox: Mailbox
) -> None:
    """Twice as asked for, after two refusals, and each with a signature that the plug-in proves."""
    await service.watch(mailbox.url)
    mailbox.refuse = 2
    name = txid()
    await service.create_charge(name, 100, 300, "")
    paid = payer.pay(txid=name, copies=2)
    for headers, body in mailbox.wait_for(2):
        [notice] = service.read_notice(headers, body, real_now=time.time())
        assert (notice.end_to_end_id, notice.txid) == (paid["endToEndId"], name)
        told = json.loads(body)["pix"][0]
        assert told["valor"] == "1.00" and set(told) >= {"endToEndId", "txid", "valor", "horario"}


async def test_notices_come_in_any_order(service: PixService, payer: Payer, mailbox: Mailbox) -> None:
    await service.watch(mailbox.url)
    names = [txid(), txid()]
    for name in names:
        await service.create_charge(name, 100, 300, "")
    paid = [payer.pay(txid=name, hold=True)["endToEndId"] for name in names]
    payer.ask("POST", "sim/deliver", {"endToEndIds": paid[::-1]})
    bodies = [json.loads(body)["pix"][0]["endToEndId"] for _, body in mailbox.wait_for(2)]
    assert bodies == paid[::-1]


BODY = json.dumps({"pix": [{"endToEndId": "E1", "txid": "t", "valor": "1.00", "horario": "2026-01-01T00:00:00Z"}]})


@pytest.mark.parametrize(
    "change",
    [
        {"header": ""},
        {"header": "t=1700000000,v1=" + "0" * 64},
        {"header": "nonsense"},
        {"secret": "another"},
        {"body": BODY.replace("E1", "E2")},
        {"later": 301},
        {"later": -301},
        {"header": "t=99999999999999999999999,v1=00"},
    ],
    ids=["none", "zeros", "nonsense", "other secret", "other body", "too old", "from the future", "a huge time"],
)
def test_what_is_not_signed_now_is_not_believed(
    sandbox: SandboxProcess, reader: PixService, change: dict[str, Any]
) -> None:
    now = 1_700_000_000
    header = sign(change.get("secret", webhook_secret(sandbox)), now, BODY.encode())
    headers = {HEADER: change.get("header", header)}
    with pytest.raises(InvalidSignature):
        reader.read_notice(headers, change.get("body", BODY).encode(), real_now=now + change.get("later", 0))


def test_what_is_signed_within_five_minutes_is_believed(sandbox: SandboxProcess, reader: PixService) -> None:
    now = 1_700_000_000
    headers = {HEADER: sign(webhook_secret(sandbox), now, BODY.encode())}
    for later in (-300, 0, 300):
        assert reader.read_notice(headers, BODY.encode(), real_now=now + later)[0].end_to_end_id == "E1"
    for body in (b"", b"[]", b'{"pix": 3}', b'{"pix": [{"endToEndId": "E\'1"}]}', b'{"pix": [3]}'):
        with pytest.raises(InvalidSignature):
            reader.read_notice({HEADER: sign(webhook_secret(sandbox), now, body)}, body, real_now=now)


@pytest.fixture
async def reader(sandbox: SandboxProcess) -> AsyncIterator[PixService]:
    service = pix_service(sandbox)
    yield service
    await service.close()


async def test_a_wrong_secret_and_a_dead_service_are_told_apart(sandbox: SandboxProcess) -> None:
    """A wrong secret is for the operator to mend; a service that is away is for waiting."""
    wrong = pix_service(sandbox, client_secret="wrong")
    away = PixService(
        "http://127.0.0.1:9/_psp",
        client_id="a",
        client_secret="b",
        webhook_secret="c",
        key=PIX_KEY,
        receiver="d",
        city="e",
    )
    with pytest.raises(PaymentRefused) as refused:
        await wrong.charge(txid())
    assert "wrong" in refused.value.detail and sandbox.key not in refused.value.detail
    with pytest.raises(PaymentUnreachable):
        await away.charge(txid())
    with pytest.raises(PaymentRefused):
        await away.simulate_payment(txid())
    for service in (wrong, away):
        await service.close()
