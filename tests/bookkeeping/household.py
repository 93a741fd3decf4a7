"""A household that keeps books over the API: what it asks, and what the rows say afterwards."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

import httpx
from tests.ledger.books import Books
from tests.support.api import Api, Person

TODAY = date.today().isoformat()
TABLES = ("bookkeeping_transaction", "bookkeeping_change", "ledger_transfer", "ledger_entry", "ledger_hold")


@dataclass
class Household:
    """A team with accounts and categories."""

    api: Api
    books: Books
    person: Person
    checking: str = ""
    savings: str = ""
    salary: str = ""
    food: str = ""

    @classmethod
    async def furnish(cls, api: Api, books: Books) -> "Household":
        """Make the team with what it has."""
        home = cls(api, books, await api.person())
        home.checking = await home.account("Everyday", opening_balance="100.00")
        home.savings = await home.account("Reserve", type="savings")
        home.salary = await home.category("Salary", "income")
        home.food = await home.category("Food", "expense")
        return home

    async def ask(self, method: str, path: str, *, key: str | None = None, **more: Any) -> httpx.Response:
        """Send a request as the household's person, with an Idempotency-Key where one is given."""
        headers = {**self.person.headers, **more.pop("headers", {})}
        if key is not None:
            headers["Idempotency-Key"] = key
        return await self.api.http.request(method, f"/api/v1{path}", headers=headers, **more)

    async def post(self, path: str, body: dict[str, Any], *, key: str | None = None, **headers: str) -> httpx.Response:
        """Post a body under a key, a fresh one unless it is given."""
        return await self.ask("POST", path, key=key or uuid4().hex, json=body, headers=headers)

    async def account(self, name: str, **more: Any) -> str:
        """Open an account and return its id."""
        answer = await self.post("/accounts", {"name": name, "type": "checking", **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def category(self, name: str, kind: str) -> str:
        """Make a category and return its id."""
        answer = await self.post("/categories", {"name": name, "type": kind})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def body(self, kind: str = "expense", cents: int = 1000, **more: Any) -> dict[str, Any]:
        """Return the body of a transaction of the checking account."""
        sides = {
            "income": {"category_id": self.salary},
            "expense": {"category_id": self.food},
            "transfer": {"to_account_id": self.savings},
        }
        named = {"date": TODAY, "account_id": self.checking, "type": kind, "description": f"some {kind}"}
        return {**named, "amount_cents": cents, **sides[kind], **more}

    async def record(self, kind: str = "expense", cents: int = 1000, **more: Any) -> dict[str, Any]:
        """Record a transaction and return its document."""
        answer = await self.post("/transactions", self.body(kind, cents, **more))
        assert answer.status_code == 201, answer.text
        recorded: dict[str, Any] = answer.json()
        return recorded

    async def shown(self, transaction_id: str) -> dict[str, Any]:
        """Read a transaction with its entries."""
        answer = await self.ask("GET", f"/transactions/{transaction_id}")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def balances(self) -> tuple[int, int]:
        """Return the balances of checking and savings, each seen to be the sum of its entries."""
        return self.books.balance(self.checking), self.books.balance(self.savings)

    def counts(self) -> dict[str, int]:
        """Count the team's rows."""
        return {
            table: int(self.books.rows(f"SELECT count(*) FROM {table} WHERE team_id = %s", self.person.team_id)[0][0])
            for table in TABLES
        }
