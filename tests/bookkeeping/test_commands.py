"""The commands of bookkeeping against a real server: what people type, what they see, and the rows behind it."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from tests.bookkeeping.served import Served

from dumont.cli.app import app

pytestmark = pytest.mark.requires_postgres

BRAZIL = {"LC_ALL": "pt_BR.UTF-8"}
CSV = "Data;Histórico;Valor\n02/03/2026;Salário;R$ 1.652,29\n03/03/2026;Padaria;-52,30\n"


class Typist:
    """Somebody who types commands for the household."""

    def __init__(self, served: Served, home: Path) -> None:
        self.served = served
        self._env = {"DUMONT_HOME": str(home), "DUMONT_URL": f"http://127.0.0.1:{served.port}", "LC_ALL": "C.UTF-8"}
        self._env["DUMONT_TOKEN"] = str(served.home.person.session["access_token"])

    def type(self, *args: str, **env: str) -> Result:
        done = CliRunner().invoke(app, args, env={**self._env, **env})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    def json(self, *args: str, **env: str) -> Any:
        done = self.type(*args, "--json", **env)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def typist(served: Served, tmp_path: Path) -> Typist:
    return Typist(served, tmp_path)


@pytest.fixture
def account(typist: Typist) -> str:
    """The name of a fresh account with R$ 1.234,56."""
    name = f"acct-{uuid4().hex[:6]}"
    typist.json("accounts", "add", name, "--opening", "R$ 1.234,56")
    return name


def balance(typist: Typist, name: str) -> int:
    [found] = [row for row in typist.json("accounts")["accounts"] if row["name"] == name]
    return typist.served.home.books.balance(found["id"])


def test_money_is_shown_as_the_reader_writes_it(typist: Typist, account: str) -> None:
    assert "R$ 1,234.56" in typist.type("accounts").stdout
    assert "R$ 1.234,56" in typist.type("accounts", **BRAZIL).stdout
    assert "R$ 1.234,56" in typist.type("statement", account, **BRAZIL).stdout


@pytest.mark.parametrize(
    "text,env,cents",
    [("R$ 1.050,25", {}, 105025), ("1050.25", {}, 105025), ("12,5", BRAZIL, 1250), ("1.050", BRAZIL, 105000)],
)
def test_amounts_are_taken_as_people_type_them(
    typist: Typist, account: str, text: str, env: dict[str, str], cents: int
) -> None:
    before = balance(typist, account)
    made = typist.json(
        "transactions", "add", "expense", text, "Groceries", "--account", account, "--category", "Food", **env
    )
    assert made["amount_cents"] == cents and balance(typist, account) == before - cents


@pytest.mark.parametrize("text", ["1.050", "ten", "1.001", "-5.00", "0"])
def test_what_is_no_clear_amount_is_refused_with_what_to_do(typist: Typist, account: str, text: str) -> None:
    before = balance(typist, account)
    done = typist.type("transactions", "add", "expense", "--account", account, "--category", "Food", "--", text, "x")
    assert done.exit_code == 2 and done.stdout == "" and len(done.stderr) > 20
    assert balance(typist, account) == before


def test_a_transaction_is_added_listed_edited_and_deleted(typist: Typist, account: str) -> None:
    made = typist.json(
        *("transactions", "add", "expense", "52.30", "Bakery", "--account", account, "--category", "food"),
        *("--date", "31/01/2026", "--tag", "bread"),
    )
    assert (made["date"], made["tags"]) == ("2026-01-31", ["bread"])
    shown = typist.type("transactions", "--account", account, "--tag", "bread", **BRAZIL).stdout
    assert "Bakery" in shown and "-R$ 52,30" in shown and "Food" in shown
    edited = typist.json("transactions", "edit", made["id"][-8:], "--amount", "60")
    assert (edited["id"], edited["version"], edited["amount_str"]) == (made["id"], 2, "60.00")
    assert balance(typist, account) == 123456 - 6000
    assert "reversed" in typist.type("transactions", "delete", made["id"], "--reason", "wrong").stdout
    assert balance(typist, account) == 123456
    kept = typist.json("transactions", "--account", account, "--deleted")["transactions"]
    assert [(row["id"], row["status"]) for row in kept] == [(made["id"], "reversed")]
    assert typist.json("transactions", "--account", account)["count"] == 0


def test_the_same_again_is_told(typist: Typist, account: str) -> None:
    words = ("transactions", "add", "expense", "1.00", "Bus", "--account", account, "--category", "Food")
    assert "within the last minute" not in typist.type(*words).stderr
    assert "within the last minute" in typist.type(*words).stderr


def test_a_transfer_moves_between_accounts(typist: Typist, account: str) -> None:
    other = f"other-{uuid4().hex[:6]}"
    typist.json("accounts", "add", other, "--type", "savings")
    made = typist.json("transfer", "234,56", "--from", account, "--to", other)
    assert made["type"] == "transfer"
    assert (balance(typist, account), balance(typist, other)) == (100000, 23456)
    refused = typist.type("transfer", "5000", "--from", account, "--to", other)
    assert refused.exit_code == 2 and "1000.00 BRL may be spent" in refused.stderr
    assert typist.type("accounts", "close", other).exit_code == 2


def test_a_bank_file_is_taken_in_and_an_export_written(typist: Typist, account: str, tmp_path: Path) -> None:
    file = tmp_path / "extrato.csv"
    file.write_text(CSV, encoding="latin-1")
    dry = typist.json("transactions", "import", str(file), "--account", account, "--dry-run")
    assert (dry["added"], balance(typist, account)) == (2, 123456)
    done = typist.type("transactions", "import", str(file), "--account", account, **BRAZIL)
    assert "2 were added" in done.stderr and "1.652,29" in done.stdout and "-52,30" in done.stdout
    assert balance(typist, account) == 123456 + 165229 - 5230
    again = typist.json("transactions", "import", str(file), "--account", account)
    assert (again["added"], again["known"]) == (0, 2)
    written = typist.type("transactions", "export", account, "--from", "2026-03-01", "--to", "2026-03-31", **BRAZIL)
    assert "02/03/2026;Salário;1652,29;BRL" in written.stdout
    target = tmp_path / "book.ofx"
    typist.type("transactions", "export", account, "--format", "ofx", "-o", str(target))
    assert "<TRNAMT>1652.29</TRNAMT>" in target.read_text(encoding="utf-8")


def test_a_statement_opens_and_closes(typist: Typist, account: str) -> None:
    found = typist.json("statement", account, "--from", "01/01/2026")
    assert (found["opening_str"], found["closing_str"], len(found["entries"])) == ("0.00", "1234.56", 1)
    shown = typist.type("statement", account, "--from", "2026-01-01", **BRAZIL).stdout
    assert "Opening balance" in shown and "closing" in shown


def test_names_that_fit_nothing_or_several_are_told(typist: Typist, account: str) -> None:
    nothing = typist.type("statement", "no such account", "--json")
    assert (nothing.exit_code, json.loads(nothing.stderr)["code"]) == (2, "account-not-found")
    for kind in ("income", "expense"):
        typist.json("categories", "add", f"Twice {account}", "--type", kind)
    several = typist.type("categories", "delete", f"Twice {account}", "--json")
    assert (several.exit_code, json.loads(several.stderr)["code"]) == (2, "ambiguous")
    renamed = typist.json("accounts", "change", account, "--overdraft", "R$ 50,00")
    assert renamed["overdraft_limit"] == {"amount": "50.00", "currency": "BRL"}


def test_insights_are_shown_ignored_and_budgets_set(typist: Typist, account: str) -> None:
    name = f"Fun {account}"
    typist.json("categories", "add", name, "--type", "expense")
    typist.json("transactions", "add", "expense", "900", "Show", "--account", account, "--category", name)
    set_to = typist.json("insights", "budget", name, "R$ 100,00", **BRAZIL)
    assert set_to["limit"] == {"amount": "100.00", "currency": "BRL"}
    shown = typist.type("insights", **BRAZIL).stdout
    assert f"budget of {name}" in shown and "R$ 900,00" in shown
    risks = [one for one in typist.json("insights")["budgets_at_risk"] if one["name"] == name]
    assert "30 days" in typist.type("insights", "ignore", risks[0]["insight_hash"][:10]).stdout
    assert [one for one in typist.json("insights")["budgets_at_risk"] if one["name"] == name] == []
    assert "no budget" in typist.type("insights", "budget", name).stdout


def test_notifications_are_shown_and_marked_as_read(typist: Typist) -> None:
    home = typist.served.home
    typist.json("notifications", "read", "--all")
    for number in (1, 2):
        home.books.run(
            "INSERT INTO notification (id, team_id, user_id, type, subject, period, title, body, metadata, created_at) "
            "VALUES (%s, %s, %s, 'wallet_running_dry', %s, '2026-03-01', 'The wallet runs dry', %s, '{}', now())",
            f"ntf_{number:026d}", home.person.team_id, home.person.user_id, str(number), f"in {number} h",
        )  # fmt: skip
    shown = typist.type("notifications").stdout
    assert "The wallet runs dry in 1 h" in shown and "The wallet runs dry in 2 h" in shown
    read = typist.json("notifications", "read", f"ntf_{1:026d}")
    assert read["read_at"] is not None
    assert [one["body"] for one in typist.json("notifications", "--unread")["notifications"]] == ["in 2 h"]
    assert "Marked as read: 1" in typist.type("notifications", "read", "--all").stdout
    assert "Nothing new." in typist.type("notifications", "--unread").stdout
    assert typist.type("notifications", "read").exit_code == 2
    assert home.books.rows("SELECT count(*) FROM notification WHERE read_at IS NULL") == [(0,)]
