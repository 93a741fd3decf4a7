"""`dumont ledger audit` and the nightly audit: a sound book passes, one that was tampered with is told by name."""

import base64
import json
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from tests.ledger.books import Books

from dumont.app.main import app
from dumont.db import Database, DatabaseUrls
from dumont.durable import REGISTRY
from dumont.ledger import BROKEN, audit_by_night

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
def books(database_urls: DatabaseUrls) -> Books:
    return Books(database_urls)


def _audit(books: Books, home: Path, *options: str) -> Result:
    key = base64.b64encode(b"k" * 32).decode()
    environment = {"DATABASE_URL": books.urls.owner, "DUMONT_HOME": str(home), "DUMONT_SECRET_KEY": key}
    return CliRunner().invoke(app, ["ledger", "audit", *options], env=environment)


def _tamper(books: Books, account: str) -> None:
    """Give an account money that no entry explains, as somebody can who owns the tables and takes the guards away."""
    books.run("ALTER TABLE ledger_account DISABLE TRIGGER USER")
    books.run("UPDATE ledger_account SET balance = balance + 5000 WHERE id = %s", account)
    books.run("ALTER TABLE ledger_account ENABLE TRIGGER USER")


async def _night(books: Books) -> list[tuple[object, ...]]:
    database = Database(books.urls.worker, pool_size=1)
    try:
        await audit_by_night(SimpleNamespace(database=database), datetime(2026, 3, 14, 3, 41, tzinfo=timezone.utc))
    finally:
        await database.close()
    return books.rows("SELECT team_id, data FROM outbox_event WHERE topic = %s", BROKEN)


async def test_a_sound_book_passes(books: Books, tmp_path: Path) -> None:
    books.pair()
    said = _audit(books, tmp_path)
    assert said.exit_code == 0, said.output
    assert "The ledger adds up: 3 accounts, 2 entries, 1 transfers" in said.output and "broken" not in said.output
    document = json.loads(_audit(books, tmp_path, "--json").stdout)
    assert document["sound"] is True and document["entries"] == 2
    assert {check["broken"] for check in document["checks"]} == {0} and len(document["checks"]) >= 10
    assert await _night(books) == []


@pytest.mark.checklist("PIX-04")
async def test_a_tampered_book_is_told_by_name(books: Books, tmp_path: Path) -> None:
    """Exit code 1, the account in the output, and at night an error in the log and news for the operator."""
    _, one, two = books.pair()
    _tamper(books, two)
    said = _audit(books, tmp_path)
    assert said.exit_code == 1, said.output
    assert two in said.stdout and one not in said.stdout and "does not add up" in said.stderr
    document = json.loads(_audit(books, tmp_path, "--json").stdout)
    broken = {check["name"]: check["first"] for check in document["checks"] if check["broken"]}
    assert document["sound"] is False and broken["balances"] == [two] and "trial-balance" in broken
    [(team, data)] = await _night(books)
    assert team is None, "only the operator may read of all teams' books"
    assert isinstance(data, dict) and two in str(data["checks"])


def test_a_missing_guard_is_told(books: Books, tmp_path: Path) -> None:
    books.run("ALTER TABLE ledger_entry DISABLE TRIGGER ledger_entry_keeps")
    said = _audit(books, tmp_path)
    assert said.exit_code == 1 and "ledger_entry_keeps" in said.stdout


def test_a_clearing_account_at_rest_is_empty(books: Books, tmp_path: Path) -> None:
    """What lies on a clearing account is on its way for a while, and lost after that."""
    team = books.team()
    books.account(team, funds=700, kind="clearing", floor=None)
    assert _audit(books, tmp_path).exit_code == 0
    said = _audit(books, tmp_path, "--quiet-seconds", "0")
    assert said.exit_code == 1 and "clearing" in said.stdout and "700" in said.stdout


def test_a_home_without_a_database_is_told(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["ledger", "audit"], env={"DUMONT_HOME": str(tmp_path), "DATABASE_URL": ""})
    assert said.exit_code == 2 and "no secret.key" in said.stderr and list(tmp_path.iterdir()) == []


def test_every_worker_knows_the_nightly_audit() -> None:
    """The schedule is recorded by what every worker imports."""
    import dumont.app.roles

    assert dumont.app.roles.REGISTRY is REGISTRY and REGISTRY.schedules["ledger.audit"].cron == "41 3 * * *"
