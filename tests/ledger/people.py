"""What people do with transactions, each in a thread with a connection and a commit of its own."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from tests.ledger.books import TODAY, Books, Household
from tests.ledger.stage import alone, in_session

from dumont.bookkeeping import Facts, Key, Who, edit, record, reverse
from dumont.db import Database, set_team

NOW = datetime(2026, 3, 14, 12, tzinfo=timezone.utc)


class Person:
    """Somebody of a household, who asks again under the same key while the database cannot take it."""

    def __init__(self, books: Books, home: Household) -> None:
        self.books, self.home = books, home
        self.who = Who(home.team, home.user, NOW)

    def facts(self, cents: int = 10) -> Facts:
        """State a transfer from the first account to the second."""
        return Facts("transfer", TODAY, self.home.account, cents, "groceries", to_account_id=self.home.second)

    def record(self, cents: int = 10, key: str = "one") -> str:
        """Record a transfer and return its id."""
        facts = self.facts(cents)
        done = self._persist(lambda session: record(session, self.who, facts, Key("web", key)))
        if done.problem is not None:
            raise done.problem
        return str(done.transaction.id)

    def edit(self, id_: str, cents: int) -> int:
        """Change the amount of a transaction and return its version."""
        row = self._persist(lambda session: edit(session, self.who, id_, {"cents": cents}, ["*"]))
        return int(row.version)

    def delete(self, id_: str) -> str:
        """Delete a transaction and return its status."""
        return str(self._persist(lambda session: reverse(session, self.who, id_, None, ["*"])).status)

    def once(self, verb: Callable[[Any], Any], **options: Any) -> Any:
        """Do a verb in a session of its own."""

        async def go() -> Any:
            database = Database(self.books.urls.app, pool_size=1, **options)
            try:
                async with database.begin() as session:
                    await set_team(session, self.home.team)
                    return await verb(session)
            finally:
                await database.close()

        return alone(go())

    def _persist(self, verb: Callable[[Any], Any]) -> Any:
        return in_session(self.books, self.home.team, verb)

    def rows(self) -> tuple[int, int, int]:
        """Count the household's transactions, transfers and entries, without those of the opening."""
        [found] = self.books.rows(
            "SELECT (SELECT count(*) FROM bookkeeping_transaction WHERE team_id = %s), "
            "(SELECT count(*) FROM ledger_transfer WHERE team_id = %s AND kind <> 'opening'), "
            "(SELECT count(*) FROM ledger_entry WHERE team_id = %s) - 2",
            self.home.team, self.home.team, self.home.team,
        )  # fmt: skip
        return found[0], found[1], found[2]
