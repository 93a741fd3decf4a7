"""Payments that fit no charge: the operator lists them, credits them or has them sent back, each once."""

import asyncio
import base64
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.billing.counter import Counter, micro

from dumont.billing import Rate, Suspended, begin_return, credit_suspended, suspended
from dumont.billing.suspense import return_id
from dumont.core import Problem
from dumont.db import set_sweep

pytestmark = pytest.mark.requires_postgres
HOUSE = "team_" + "0" * 26


class Operator:
    """Whoever decides, by the verbs behind the commands, or by a command of the installation itself."""

    def __init__(self, counter: Counter, home: Path) -> None:
        self.counter = counter
        self.rate = Rate(4_000_000, "operator", counter.clock.now())
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DATABASE_URL": counter.urls.owner,
            "DUMONT_HOME": str(home),
            "DUMONT_SECRET_KEY": base64.b64encode(b"k" * 32).decode(),
            "DUMONT_FX_BRL_PER_USD": "4",
            "DUMONT_FX_DATE": "2026-03-14",
        }

    async def type(self, *words: str) -> tuple[int, str]:
        """Type a command of `dumont ledger`; returns its exit code and all it says."""
        program = [sys.executable, "-c", "from dumont.app.main import main; main()", "ledger", *words]
        both = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        process = await asyncio.create_subprocess_exec(*program, env=self._env, **both)  # type: ignore[arg-type]
        said = (await process.communicate())[0].decode()
        return process.returncode or 0, said

    async def credit(self, payment: str, team_id: str | None = None) -> str:
        """Credit a payment; returns what came of it."""
        return await self._do(credit_suspended, payment, team_id=team_id, rate=self.rate, now=self.counter.clock.now())

    async def send_back(self, payment: str) -> str:
        """Have a payment sent back; returns what came of it."""
        return await self._do(begin_return, payment, now=self.counter.clock.now())

    async def listed(self, payment: str) -> Suspended | None:
        """Return what is listed of a payment."""
        async with self.counter.worker.begin() as session:
            await set_sweep(session)
            return next((one for one in await suspended(session) if one.end_to_end_id == payment), None)

    async def _do(self, verb: Any, payment: str, **more: Any) -> str:
        try:
            async with self.counter.worker.begin() as session:
                await set_sweep(session)
                await verb(session, payment, **more)
        except Problem as problem:
            return problem.code
        return "done"


@pytest.fixture
def operator(counter: Counter, tmp_path: Path) -> Operator:
    return Operator(counter, tmp_path)


async def aside(counter: Counter, txid: str | None, amount: str) -> str:
    """Have a payment come that fits no charge; returns its end-to-end id."""
    paid = await counter.pay(txid=txid, amount=amount, force=True)
    await counter.tell(paid, txid)
    await counter.turn()
    return paid


async def test_a_payment_of_another_amount_is_credited_at_its_charges_rate(
    counter: Counter, operator: Operator
) -> None:
    """To the team of the charge, once, however many ask for it at the same time."""
    person = await counter.person()
    made = await counter.topup(person, "100.00")
    paid = await aside(counter, made["txid"], "50.00")
    found = await operator.listed(paid)
    assert found is not None and (found.amount, found.reason, found.topup_id) == (5000, "other-amount", made["id"])
    said = await asyncio.gather(*(operator.credit(paid) for _ in range(3)))
    assert sorted(said) == ["done", "payment-resolved", "payment-resolved"]
    assert counter.balances(person.team_id) == {
        "pix BRL": -5000,
        "clearing BRL": 0,
        "suspense BRL": 0,
        "exchange BRL": 5000,
        "exchange USD": -micro(made["credit"]) // 2,
        "wallet USD": micro(made["credit"]) // 2,
    }
    assert await operator.listed(paid) is None
    assert await operator.send_back(paid) == "payment-resolved"


async def test_a_payment_that_names_no_charge_goes_to_whom_the_operator_says(
    counter: Counter, operator: Operator
) -> None:
    """Out of the house's books and into the team's, at today's rate; without a team it stays. By the commands."""
    person = await counter.person()
    before = counter.balances(HOUSE).get("suspense BRL", 0)
    paid = await aside(counter, uuid4().hex, "20.00")
    assert paid in (await operator.type("suspense"))[1]
    code, said = await operator.type("credit", paid)
    assert code == 2 and "say whose it is" in said
    assert counter.balances(HOUSE)["suspense BRL"] == before + 2000
    assert "$5.00" in (await operator.type("credit", paid, "--team", person.team_id))[1]
    code, said = await operator.type("return", paid)
    assert code == 2 and "This payment is credited" in said
    assert counter.balances(HOUSE)["suspense BRL"] == before
    assert counter.balances(person.team_id) == {
        "pix BRL": -2000,
        "exchange BRL": 2000,
        "exchange USD": -5_000_000,
        "wallet USD": 5_000_000,
    }


async def test_a_payment_is_sent_back_and_nothing_is_left(counter: Counter, operator: Operator) -> None:
    """It lies on clearing until the payer has it; a return that fails puts it back, and it can be tried again."""
    person = await counter.person()
    made = await counter.paid(person, "100.00")
    wallet = micro(made["credit"])
    paid = await aside(counter, made["txid"], "100.00")
    assert [await operator.send_back(paid) for _ in range(2)] == ["done", "payment-resolved"]
    on_its_way = counter.balances(person.team_id)
    assert (on_its_way["suspense BRL"], on_its_way["clearing BRL"]) == (0, 10000)
    await counter.turn()
    failed = {"endToEndId": paid, "id": return_id(paid, 1), "status": "NAO_REALIZADO"}
    await asyncio.to_thread(counter.payer.ask, "POST", "sim/return", failed)
    await _look(counter)
    assert counter.balances(person.team_id)["suspense BRL"] == 10000
    found = await operator.listed(paid)
    assert found is not None and found.fate == "suspense"
    assert await operator.send_back(paid) == "done"
    for _ in range(3):
        await _look(counter)
    after = counter.balances(person.team_id)
    assert (after["suspense BRL"], after["clearing BRL"], after["pix BRL"], after["wallet USD"]) == (
        0,
        0,
        -10000,
        wallet,
    )
    back = await counter.service.give_back(paid, return_id(paid, 2), 10000)
    assert (back.amount, back.status.value) == (10000, "done"), "the payer has it"
    assert await operator.listed(paid) is None
    assert await operator.credit(paid) == "payment-resolved"


async def test_what_is_not_there_is_told(operator: Operator) -> None:
    assert [await operator.credit("E0"), await operator.send_back("E0")] == ["payment-not-found"] * 2


async def _look(counter: Counter) -> None:
    counter.rows("UPDATE topup_payment SET due_at = now() WHERE fate = 'returning' RETURNING 1")
    await counter.turn()
