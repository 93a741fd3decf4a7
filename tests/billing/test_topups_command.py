"""`dumont topup` over real connections: the charge, the payer, the callback, the worker, and what a person is told."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner, Result
from tests.billing.counter import Counter, micro
from tests.support.api import Person

from dumont.billing import keep_topups
from dumont.cli.app import app
from dumont.payments import read_code

pytestmark = pytest.mark.requires_postgres


class Terminal:
    """Somebody who types commands; he is the operator too."""

    def __init__(self, counter: Counter, person: Person, url: str, home: Path) -> None:
        self.counter, self.person = counter, person
        gone = {name: None for name in os.environ if name.startswith("DUMONT_")}
        token = person.headers["Authorization"].removeprefix("Bearer ")
        own = {
            "DUMONT_HOME": str(home),
            "DUMONT_URL": url,
            "DUMONT_TOKEN": token,
            "LANG": "C",
            "LC_ALL": "",
            "TZ": "UTC",
        }
        self.environment: dict[str, str | None] = {**gone, **own}

    async def __call__(self, *words: str, **environment: str) -> Result:
        """Run a command, while the API goes on."""
        env = {**self.environment, **environment}
        return await asyncio.to_thread(CliRunner().invoke, app, words, env=env)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as found:
        found.bind(("127.0.0.1", 0))
        found.listen(64)
        yield found


@asynccontextmanager
async def serving(counter: Counter, listening: socket.socket) -> AsyncIterator[str]:
    """Answer over real connections, with a worker beside."""
    config = uvicorn.Config(counter.api.app, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listening])),
        asyncio.create_task(keep_topups(counter.worker, counter.desk)),
    ]
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    await counter.service.watch(f"{url}/api/v1/wallet/pix/callback")
    try:
        yield url
    finally:
        server.should_exit = True
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await counter.service.watch(counter.mailbox.url)


@pytest.fixture
async def terminal(counter: Counter, listening: socket.socket, tmp_path: Path) -> AsyncIterator[Terminal]:
    async with serving(counter, listening) as url:
        yield Terminal(counter, await counter.person(), url, tmp_path)


async def test_a_person_copies_the_code_pays_and_is_told(terminal: Terminal, tmp_path: Path) -> None:
    """The code alone is on stdout first; the picture is in its file; it ends when the wallet has the money."""
    waiting = asyncio.create_task(
        terminal("topup", "R$ 1.652,29", "--minutes", "60", "--save-qr", str(tmp_path / "q.png"))
    )
    team = terminal.person.team_id
    async with asyncio.timeout(60):
        while not (rows := terminal.counter.rows("SELECT code FROM topup WHERE team_id = %s", team)):
            await asyncio.sleep(0.05)
    code = rows[0][0]
    await asyncio.to_thread(terminal.counter.payer.pay, code=code)
    said = await asyncio.wait_for(waiting, 60)
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[0] == code and read_code(code)["54"] == "1652.29"
    assert "Pay R$ 1,652.29 by Pix" in said.stderr and "Paid: the wallet got $304.1" in said.stdout
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")
    assert terminal.counter.balances(terminal.person.team_id)["wallet USD"] > 304_000_000


async def test_programs_get_one_document(terminal: Terminal) -> None:
    """Paid by the simulated payer, listed, given back in part, and shown in Portuguese."""
    said = await terminal("topup", "100", "--simulate", "--json")
    assert said.exit_code == 0, said.output
    made = json.loads(said.stdout)
    assert made["status"] == "paid" and micro(made["credit"]) > 0
    back = await terminal("topups", "refund", made["id"], "40,00", "--json", LC_ALL="pt_BR.UTF-8")
    assert back.exit_code == 0 and json.loads(back.stdout)["refunded"]["amount"] == "40.00", back.output
    listed = await terminal("topups", LC_ALL="pt_BR.UTF-8")
    assert "paid" in listed.stdout and "R$ 100,00" in listed.stdout and "R$ 40,00" in listed.stdout
    document = json.loads((await terminal("topups", "--json", "--status", "paid")).stdout)
    assert [one["id"] for one in document["topups"]] == [made["id"]] and document["count"] == 1
    async with asyncio.timeout(60):
        while terminal.counter.balances(terminal.person.team_id)["clearing BRL"]:
            await asyncio.sleep(0.05)
    assert terminal.counter.rows("SELECT status FROM topup_refund WHERE topup_id = %s", made["id"]) == [("done",)]


async def test_a_charge_is_left_open_and_taken_back(terminal: Terminal) -> None:
    said = await terminal("topup", "5.00", "--no-wait", "--json")
    made = json.loads(said.stdout)
    shown = await terminal("topups", "show", made["id"])
    assert made["status"] == "pending" and made["pix_copy_paste"] in shown.stdout
    gone = await terminal("topups", "cancel", made["id"])
    assert gone.exit_code == 0 and "cancelled" in gone.stdout
    refused = await terminal("topups", "simulate-payment", made["id"])
    assert refused.exit_code == 2 and "cancelled" in refused.stderr


async def test_an_amount_that_cannot_be_is_told(terminal: Terminal) -> None:
    for amount in ("ten", "1.234", "0,50", "1,005.005", "99999999"):
        said = await terminal("topup", amount, "--no-wait")
        assert said.exit_code == 2 and said.stdout == "" and said.stderr.strip(), said.output
    assert terminal.counter.rows("SELECT 1 FROM topup WHERE team_id = %s", terminal.person.team_id) == []
