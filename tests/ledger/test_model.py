"""The ledger beside a sequential model: the same wishes one by one and in batches, and tampering that must raise.

Two teams with the same accounts are given the same wishes, one of them singly and the other in batches; after each step
both must be what the model is.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.ledger.books import Books, move, posting
from tests.ledger.sequential import Account, Hold, Model, Wish
from tests.ledger.stage import named, problems, through_lane
from tests.support.postgres import clone_database, drop_database

from dumont.db import psycopg_url
from dumont.db.migrations.ledger_mends import BEFORE
from dumont.ledger import MOST_AMOUNT, HoldRequest, Lane, Leg, Posting

pytestmark = pytest.mark.requires_postgres

START = datetime(2026, 3, 14, tzinfo=timezone.utc)
KINDS: list[tuple[str, int | None]] = [
    ("BRL", 0),
    ("BRL", -100),
    ("BRL", None),
    ("BRL", 0),
    ("USD", None),
    ("BRL", None),
]
FOREIGN = len(KINDS)
NUMBERS = st.sampled_from([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, FOREIGN])
AMOUNTS = st.one_of(st.integers(1, 120), st.integers(1, 120), st.integers(1, 120), st.just(MOST_AMOUNT))
SHAPES = st.sampled_from(
    ["move", "move", "move", "three", "reverse", "reverse", "differing", "settle", "settle", "odd"]
)
SPECS = st.lists(
    st.tuples(SHAPES, st.integers(0, 60), NUMBERS, NUMBERS, NUMBERS, AMOUNTS, st.integers(0, 30)),
    min_size=1,
    max_size=6,
)
TAMPERING = (
    "UPDATE ledger_account SET balance = balance + 1 WHERE id = %(account)s",
    "UPDATE ledger_account SET version = version + 1 WHERE id = %(account)s",
    "UPDATE ledger_account SET held = held + 1 WHERE id = %(account)s",
    "UPDATE ledger_account SET team_id = %(other)s WHERE id = %(account)s",
    "UPDATE ledger_account SET currency = 'EUR' WHERE id = %(account)s",
    "UPDATE ledger_account SET number = DEFAULT WHERE id = %(account)s",
    "UPDATE ledger_account SET floor = balance - held + 1 WHERE id = %(account)s",
    "UPDATE ledger_entry SET amount = amount + 1 WHERE account = %(number)s",
    "UPDATE ledger_entry SET created_at = now() WHERE account = %(number)s",
    "DELETE FROM ledger_entry WHERE account = %(number)s",
    "UPDATE ledger_transfer SET memo = 'x' WHERE team_id = %(team)s",
    "DELETE FROM ledger_transfer WHERE team_id = %(team)s",
    "DELETE FROM ledger_account WHERE id = %(account)s",
    "UPDATE ledger_hold SET amount = amount + 1 WHERE team_id = %(team)s",
    "UPDATE ledger_hold SET status = 'open', ended_at = NULL WHERE team_id = %(team)s",
    "DELETE FROM ledger_hold WHERE team_id = %(team)s",
    "DELETE FROM ledger_hold_event WHERE team_id = %(team)s",
    "TRUNCATE ledger_entry",
    "INSERT INTO ledger_entry SELECT account, seq + 1, transfer_id, amount, balance_after + amount, now(), team_id "
    "FROM ledger_entry WHERE account = %(number)s",
    "INSERT INTO ledger_transfer SELECT gen_random_uuid(), team_id, fingerprint, kind, currency, accounts, seqs, date, "
    "memo, NULL, NULL, NULL, created_at FROM ledger_transfer WHERE team_id = %(team)s AND refusal IS NULL",
)


class Twin:
    """One of the two teams, and its accounts by number; the last is another team's."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.team, self.other = books.team(), books.team()
        self.accounts = [books.account(self.team, floor=floor, currency=currency) for currency, floor in KINDS]
        self.accounts.append(books.account(self.other, floor=None))

    def posting(self, wish: Wish) -> Posting:
        """Turn a wish into a posting of this team."""
        legs = [Leg(self.accounts[number], amount) for number, amount in wish.legs]
        reverses = None if wish.reverses is None else posting(self.team, legs, key=wish.reverses).id
        settles = None if wish.settles is None else self.hold(wish.settles).id
        return posting(self.team, legs, key=wish.key, reverses=reverses, settles=settles)

    def hold(self, name: str, number: int = 0, amount: int = 1, expires: int | None = None) -> HoldRequest:
        """Make a request for a hold of this team."""
        ends = None if expires is None else START + timedelta(minutes=expires)
        return HoldRequest(self.team, "test", name, self.accounts[number], amount, "a test", expires_at=ends)


class Beside(RuleBasedStateMachine):
    """Wishes, holds and tampering, on both teams and the model."""

    books: Books

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.lane = Lane(self.books.urls.app)
        self.owner = psycopg.connect(psycopg_url(self.books.urls.owner), autocommit=True)
        self.model, self.known, self.names = Model(), list[Wish](), 0

    def teardown(self) -> None:
        """Compare every entry, and let go."""
        try:
            if self.model.accounts:
                self._compare_chains()
        finally:
            self.loop.run(self.lane.close())
            self.loop.close()
            self.owner.close()

    @initialize(funds=st.integers(0, 400))
    def open(self, funds: int) -> None:
        """Give both teams the same accounts, the first of them with funds."""
        self.single, self.batch = Twin(self.books), Twin(self.books)
        self.model.accounts = [Account(currency, floor) for currency, floor in KINDS]
        self.model.accounts.append(Account("BRL", None, foreign=True))
        if funds:
            self._post([Wish("opening", ((2, -funds), (0, funds)))])

    @rule(specs=SPECS)
    def post(self, specs: Sequence[tuple[str, int, int, int, int, int, int]]) -> None:
        """Ask for some things, one by one and together."""
        wishes = dict[str, Wish]()
        for spec in specs:
            wish = self._wish(*spec)
            if wish is not None and wish.key not in wishes:
                wishes[wish.key] = wish
                self.known.append(wish)
        if wishes:
            self._post(list(wishes.values()))

    @rule(number=NUMBERS, amount=st.integers(1, 150), expires=st.one_of(st.none(), st.integers(0, 10)))
    def hold(self, number: int, amount: int, expires: int | None) -> None:
        """Keep something aside."""
        self.names += 1
        name = f"hold {self.names}"
        expected = self.model.hold(name, Hold(number, amount, "", expires))
        for twin in (self.single, self.batch):
            asked = twin.hold(name, number, amount, expires)
            [(outcome, code)] = self._run(
                "SELECT outcome, code FROM ledger_hold(%s, %s, '\\x00', %s, %s, 'a test', NULL, %s)",
                twin.team, asked.id, asked.account_id, amount, asked.expires_at,
            )  # fmt: skip
            assert (code or outcome) == expected.replace("balance-too-low", "insufficient")

    @rule(pick=st.integers(1, 12))
    def void(self, pick: int) -> None:
        """End a hold, or one that never was."""
        expected = self.model.void(f"hold {pick}")
        for twin in (self.single, self.batch):
            asked = twin.hold(f"hold {pick}")
            assert self._run("SELECT ledger_void(%s, %s, NULL)", twin.team, asked.id) == [(expected,)]

    @rule(now=st.integers(0, 10))
    def expire(self, now: int) -> None:
        """End the holds of each team whose time is over."""
        expected = self.model.expire(now)
        for twin in (self.single, self.batch):
            with self.owner.transaction():
                self._run("SELECT set_config('dumont.team_id', %s, true)", twin.team)
                found = self._run("SELECT ledger_expire(%s, 500)", START + timedelta(minutes=now))
            assert found == [(expected,)]

    @rule(number=NUMBERS)
    def close(self, number: int) -> None:
        """Close an account that is empty."""
        expected = self.model.close(number)
        for twin in (self.single, self.batch):
            said = self._run("SELECT ledger_close_account(%s, %s, now())", twin.team, twin.accounts[number])
            assert said == [(expected,)]

    @rule(number=NUMBERS, floor=st.integers(-200, 50))
    def change_floor(self, number: int, floor: int) -> None:
        """Change a limit."""
        expected = self.model.change_floor(number, floor)
        for twin in (self.single, self.batch):
            asked = "SELECT ledger_change_account(%s, %s, NULL, NULL, %s, false)"
            assert self._run(asked, twin.team, twin.accounts[number], floor) == [(expected,)]

    @rule(statement=st.sampled_from(TAMPERING), number=NUMBERS)
    def tamper(self, statement: str, number: int) -> None:
        """Write what does not add up, as the owner: it raises, or there was no row to write to."""
        twin = self.single
        account = twin.accounts[number]
        [(numbered,)] = self._run("SELECT number FROM ledger_account WHERE id = %s", account)
        values = {"account": account, "number": numbered, "team": twin.team, "other": twin.other}
        try:
            done = self.owner.execute(statement.encode(), values)
        except (psycopg.errors.IntegrityError, psycopg.errors.DataError):
            return
        assert done.rowcount == 0, f"nobody refused {statement}"

    @invariant()
    def agree(self) -> None:
        """Both teams are what the model is."""
        if not self.model.accounts:
            return
        for twin in (self.single, self.batch):
            found = self._run(
                "SELECT id, balance, held, version FROM ledger_account WHERE id = ANY (%s)", twin.accounts
            )
            heads = {row[0]: tuple(row[1:]) for row in found}
            assert [heads[account] for account in twin.accounts] == self.model.heads()

    def _wish(self, shape: str, key: int, x: int, y: int, z: int, amount: int, pick: int) -> Wish | None:
        name, others = f"key {key}", [number for number in (y, z, 2, 5) if number != x]
        if shape in ("reverse", "differing") and self.known:
            target = self.known[-1 - pick % len(self.known)]
            more = 1 if shape == "differing" else 0
            (one, two), rest = target.legs[:2], target.legs[2:]
            legs = ((one[0], -one[1] + more), (two[0], -two[1] - more), *((leg[0], -leg[1]) for leg in rest))
            return Wish(name, legs, reverses=target.key) if all(leg[1] for leg in legs) else None
        if shape == "settle":
            hold = self.model.holds.get(f"hold {pick % (self.names + 1)}")
            x = x if hold is None else hold.account
            y = next(number for number in (y, z, 2, 5) if number != x)
            return Wish(name, ((x, -amount), (y, amount)), settles=f"hold {pick % (self.names + 1)}")
        if shape in ("three", "odd") and len({x, y, z}) == 3:
            return Wish(name, ((x, -amount), (y, 1), (z, max(1, amount - 1) + (shape == "odd"))))
        return Wish(name, ((x, -amount), (others[0], amount)))

    def _post(self, wishes: list[Wish]) -> None:
        expected = [self.model.post(wish) for wish in wishes]
        singly = [named(self.loop.run(self.lane.post([self.single.posting(wish)]))[0]) for wish in wishes]
        together = [
            named(outcome) for outcome in self.loop.run(self.lane.post([self.batch.posting(wish) for wish in wishes]))
        ]
        assert (singly, together) == (expected, expected)

    def _compare_chains(self) -> None:
        for twin in (self.single, self.batch):
            for number, account in enumerate(self.model.accounts):
                query = "SELECT amount, balance_after FROM ledger_account_entry WHERE account_id = %s ORDER BY seq"
                assert self._run(query, twin.accounts[number]) == account.chain

    def _run(self, query: str, *values: Any) -> list[Any]:
        return self.owner.execute(query.encode(), values).fetchall()


@pytest.mark.checklist("PIX-04", "PIX-16")
def test_the_ledger_is_its_model(books: Books, request: pytest.FixtureRequest) -> None:
    """Whatever is asked, in whatever order, singly or together: the answers and the rows are the model's."""
    _compare(books, long=request.config.getoption("--long"))


def test_the_model_notices() -> None:
    """Batches that are decided as they were before they were mended differ from the model, and it says so."""
    urls = clone_database()
    books = Books(urls)
    books.run(BEFORE["ledger_post_batch"].replace("%", "%%"))
    with pytest.raises(AssertionError, match=r"already-reversed|hold-ended|transfer-not-found"):
        _compare(books, long=False)
    drop_database(urls)


def test_no_balance_passes_its_limit(books: Books) -> None:
    """The greatest balance holds for plain transfers as for batches, on both sides of zero."""
    team = books.team()
    one, two, three = (books.account(team, floor=None) for _ in range(3))
    for _ in range(2):
        through_lane(books, [move(team, one, two, MOST_AMOUNT) for _ in range(500)])
    assert (books.balance(one), books.balance(two)) == (-(10**18), 10**18)
    for source, target in ((one, three), (three, two)):
        said = [problems([through_lane(books, asked)]) for asked in _alone_and_together(team, source, target)]
        assert said == [["balance-out-of-range"], ["balance-out-of-range", "posted"]]


def _alone_and_together(team: str, source: str, target: str) -> list[list[Posting]]:
    return [[move(team, source, target, 1)], [move(team, source, target, 1), move(team, target, source, 1)]]


def _compare(books: Books, *, long: bool) -> None:
    examples = settings(
        max_examples=1000 if long else 30,
        stateful_step_count=60 if long else 25,
        deadline=None,
        derandomize=not long,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=list(Phase) if long else [Phase.generate],
    )
    run_state_machine_as_test(type("BesideBooks", (Beside,), {"books": books}), settings=examples)
