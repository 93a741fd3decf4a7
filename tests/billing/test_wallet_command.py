"""`dumont wallet` as people type it, in both of their languages."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner, Result
from tests.billing.till import Till
from tests.support.api import Person

from dumont.cli.app import app
from dumont.cli.wallet import show_money
from dumont.client import read
from dumont.client.model import Wallet

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
async def address(till: Till) -> AsyncIterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        server = uvicorn.Server(uvicorn.Config(till.api.app, log_level="warning", access_log=False, lifespan="off"))
        server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


def typist(person: Person, address: str, home: Path) -> Callable[..., Awaitable[Result]]:
    """Give what types commands as somebody, under the locale that is told beside them."""
    token = person.headers["Authorization"].removeprefix("Bearer ")
    kept: dict[str, str | None] = {name: None for name in os.environ if name.startswith("DUMONT_")}
    kept |= {"DUMONT_HOME": str(home), "DUMONT_URL": address, "DUMONT_TOKEN": token, "LANG": "C", "LC_ALL": ""}

    async def dumont(*words: str, **more: str) -> Result:
        done = await asyncio.to_thread(CliRunner().invoke, app, words, env={**kept, **more})
        assert done.exit_code == 0, done.output
        return done

    return dumont


async def test_the_wallet_is_shown_and_set(till: Till, address: str, tmp_path: Path) -> None:
    person = await till.person()
    await till.fund(person.team_id, 1_234_560_000)
    gpu = await till.begin(person.team_id, rate=412_345_678)
    till.clock.turn(hours=2)
    await till.charge()
    dumont = typist(person, address, tmp_path)
    shown = (await dumont("wallet")).stdout
    for line in ("balance           $1,234.56", "burn              $0.4123/h", "spent today       $0.82"):
        assert line in shown, shown
    brazilian = (await dumont("wallet", LC_ALL="pt_BR.UTF-8")).stdout
    assert "balance           US$ 1.234,56" in brazilian and "US$ 0,4123/h" in brazilian
    document = json.loads((await dumont("wallet", "--json")).stdout)
    assert document["posted"] == {"amount": "1234.560000", "currency": "USD"}
    changed = json.loads(
        (await dumont("wallet", "set", "--limit-day", "1.000,50", "--mode", "prepaid", "--json")).stdout
    )
    assert (changed["mode"], changed["limit_day"]["amount"]) == ("prepaid", "1000.500000")
    assert "limit per day" not in (await dumont("wallet", "set", "--limit-day", "none")).stdout
    usage = json.loads((await dumont("wallet", "usage", "--by", "kind", "--json")).stdout)
    assert usage["usage"] == [
        {"key": "gpu", "quantity": "2.000000", "unit": "hour", "amount": {"amount": "0.824691", "currency": "USD"}}
    ]
    assert usage["unconfirmed"] == usage["total"]
    table = (await dumont("wallet", "usage")).stdout
    assert gpu.instance_id in table and "$0.824691" in table
    statement = (await dumont("wallet", "statement")).stdout
    assert "topup" in statement and "closing" in statement
    await till.write("UPDATE user_account SET is_operator = true WHERE id = %(id)s", {"id": person.user_id})
    refunded = (
        await dumont("wallet", "refund", gpu.instance_id, "0,50", "--reason", "slow disk", LC_ALL="pt_BR")
    ).stdout
    assert "US$ 0,500000" in refunded and "US$ 0,324691" in refunded


async def test_amounts_and_days_are_taken_as_their_writer_means_them(till: Till, address: str, tmp_path: Path) -> None:
    dumont = typist(await till.person(), address, tmp_path)
    changed = json.loads((await dumont("wallet", "set", "--limit-month", "US$ 1,234.56", "--json")).stdout)
    assert changed["limit_month"]["amount"] == "1234.560000"
    brazilian = (await dumont("wallet", "set", "--limit-month", "2.000", LC_ALL="pt_BR.UTF-8")).stdout
    assert "US$ 2.000,00" in brazilian, brazilian
    assert "No entries." in (await dumont("wallet", "statement", "--from", "31/12/2020", "--to", "2020-12-31")).stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("a lot", "not an amount"),
        ("1.000", "two ways"),
        ("0.1234567", "not an amount"),
        ("12/13/2026", "not an amount"),
    ],
)
async def test_amounts_that_are_none_are_refused_before_anybody_is_asked(tmp_path: Path, typed: str, said: str) -> None:
    words = ["wallet", "set", "--limit-day", typed]
    env = {"DUMONT_HOME": str(tmp_path), "DUMONT_URL": "http://127.0.0.1:9", "LC_ALL": "C.UTF-8"}
    done = CliRunner().invoke(app, words, env=env)
    assert done.exit_code == 2 and said in done.output


def test_what_is_unknown_is_a_dash() -> None:
    wallet = read(Wallet, {"mode": "showback", "posted": None})
    assert show_money(wallet.posted) == "-"
