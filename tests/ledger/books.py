"""Books for the ledger's tests: teams, accounts with funds, writers, and what the rows say afterwards."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

import psycopg

from dumont.core import new_id
from dumont.db import DatabaseUrls, psycopg_url
from dumont.ledger import Lane, Leg, Posting, Writer

TODAY = date(2026, 3, 14)
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Household:
    """Somebody who keeps books: his team, two accounts of which the first has 100, and a category of expenses."""

    user: str
    team: str
    account: str
    second: str
    category: str


class Books:
    """A ledger in a database of its own."""

    def __init__(self, urls: DatabaseUrls) -> None:
        self.urls = urls

    def rows(self, query: str, *values: object) -> list[Row]:
        """Run a query as the owner and return its rows."""
        with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def run(self, statement: str, *values: object) -> None:
        """Run a statement as the owner."""
        with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
            connection.execute(statement.encode(), values)

    def team(self) -> str:
        """Make a team."""
        id_ = new_id("team")
        self.run("INSERT INTO team (id, name, created_at) VALUES (%s, 'books', now())", id_)
        return id_

    def household(self) -> Household:
        """Make somebody with a team of his own, two accounts and a category."""
        user, team = new_id("usr"), self.team()
        self.run(
            "INSERT INTO user_account (id, email, email_key, password_hash, current_team_id, created_at) "
            "VALUES (%s, %s, %s, 'none', %s, now())",
            user, f"{user}@example.com", f"{user}@example.com", team,
        )  # fmt: skip
        self.run("INSERT INTO membership VALUES (%s, %s, 'admin', now())", team, user)
        accounts = self.account(team, funds=100), self.account(team, kind="savings")
        return Household(user, team, *accounts, self.account(team, floor=None, kind="expense"))

    def account(
        self, team: str, *, funds: int = 0, floor: int | None = 0, kind: str = "checking", currency: str = "BRL"
    ) -> str:
        """Open an account, with funds that come from an account of the team without a floor."""
        id_ = new_id("acc")
        self._open(team, id_, kind, floor, currency)
        if funds:
            source = new_id("acc")
            self._open(team, source, "opening", None, currency)
            self.run(
                "SELECT ledger_post(%s, %s, '\\x00', 'opening', '2026-01-01', NULL, least(%s, %s), "
                "CASE WHEN %s < %s THEN %s ELSE -%s END, greatest(%s, %s))",
                team, uuid4(), id_, source, id_, source, funds, funds, id_, source,
            )  # fmt: skip
        return id_

    def _open(self, team: str, id_: str, kind: str, floor: int | None, currency: str) -> None:
        found = self.rows(
            "SELECT ledger_open_account(%s, %s, %s, %s, %s, %s, now())", team, id_, kind, id_, currency, floor
        )
        assert found == [("opened",)]

    def pair(self, *, funds: int = 100) -> tuple[str, str, str]:
        """Make a team with two accounts, the first with funds; returns team and accounts."""
        team = self.team()
        return team, self.account(team, funds=funds), self.account(team)

    def number(self, account: str) -> int:
        """Read the number by which entries and transfers name an account."""
        [(number,)] = self.rows("SELECT number FROM ledger_account WHERE id = %s", account)
        return int(number)

    def balance(self, account: str) -> int:
        """Read an account's balance, and see that it is the sum of its entries."""
        [(balance, total)] = self.rows(
            "SELECT a.balance, (SELECT coalesce(sum(e.amount), 0) FROM ledger_entry e WHERE e.account = a.number) "
            "FROM ledger_account a WHERE a.id = %s",
            account,
        )
        assert balance == total
        return int(balance)

    def entries(self, account: str) -> list[Row]:
        """Read an account's entries as (seq, amount, balance after)."""
        return self.rows(
            "SELECT seq, amount, balance_after FROM ledger_account_entry WHERE account_id = %s ORDER BY seq", account
        )

    def transfers(self, *ids: str) -> int:
        """Count which of these transfers stand."""
        found = self.rows(
            "SELECT count(*) FROM ledger_transfer WHERE id = ANY (%s::uuid[]) AND refusal IS NULL", list(ids)
        )
        return int(found[0][0])

    def total(self, team: str) -> list[Row]:
        """Count a team's transfers and entries."""
        return self.rows(
            "SELECT (SELECT count(*) FROM ledger_transfer WHERE team_id = %s), "
            "(SELECT count(*) FROM ledger_entry WHERE team_id = %s)",
            team, team,
        )  # fmt: skip

    def deadlocks(self) -> int:
        """Count the deadlocks of this database since it was made."""
        found = self.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(found[0][0])

    @asynccontextmanager
    async def writer(self, url: str | None = None, *, lanes: int = 1, **options: Any) -> AsyncIterator[Writer]:
        """Give a writer as the application's role."""
        lane = {name: options.pop(name) for name in list(options) if name.endswith(("_ms", "silence_seconds"))}
        writer = Writer(*(Lane(url or self.urls.app, **lane) for _ in range(lanes)), **options)
        try:
            yield writer
        finally:
            await writer.close()


def move(team: str, source: str, target: str, amount: int, *, key: str | None = None, **more: Any) -> Posting:
    """Ask for a transfer of an amount from one account to another."""
    legs = (Leg(source, -amount), Leg(target, amount))
    return posting(team, legs, key=key, **more)


def posting(team: str, legs: Sequence[Leg], *, key: str | None = None, **more: Any) -> Posting:
    """Ask for a transfer with these legs; without a key, under a fresh one."""
    values: dict[str, Any] = {"scope": "test", "kind": "transfer", "date": TODAY, **more}
    return Posting(team, key=key or uuid4().hex, legs=tuple(legs), **values)
