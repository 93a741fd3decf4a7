"""PostgreSQL itself refuses what does not add up, whoever writes: here the owner, by hand."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from tests.ledger.books import Books

from dumont.db import psycopg_url

pytestmark = pytest.mark.requires_postgres

REFUSED = (psycopg.errors.IntegrityConstraintViolation, psycopg.errors.RestrictViolation, psycopg.errors.CheckViolation)
AT = "greatest(clock_timestamp(), (SELECT max(moved_at) FROM ledger_account))"


class Hand:
    """The owner's hand on two accounts with 100 on the first, of which each has one entry or none."""

    def __init__(self, books: Books, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        self.team, self.one, self.two = books.pair()
        self.other = books.pair()[1]
        self.books, self.connection = books, connection
        self.numbers = [books.number(self.one), books.number(self.two)]

    def write(
        self,
        *,
        amounts: tuple[int, int] = (-40, 40),
        accounts: tuple[str, str] | None = None,
        seqs: tuple[int, int] = (2, 1),
        after: tuple[int, int] = (60, 40),
        move: tuple[int, int] = (-40, 40),
        step: int = 1,
        transfer: bool = True,
        named: tuple[int, int] | None = None,
        at: str = AT,
    ) -> None:
        """Write a transfer, both entries and both balances in one statement, with what the caller changes of it."""
        id_, (one, two) = uuid4(), accounts or (self.one, self.two)
        self.connection.execute(
            f"""WITH t AS (INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date,
                                                        created_at)
                     SELECT %(id)s, %(team)s, '', 'transfer', 'BRL', %(numbers)s::bigint[], %(named)s, '2026-01-01',
                            now() WHERE %(transfer)s),
                a AS (UPDATE ledger_account u SET balance = u.balance + n.amount, version = u.version + %(step)s
                        FROM unnest(%(accounts)s::text[], %(move)s::bigint[]) AS n(id, amount)
                       WHERE u.id = n.id AND %(step)s > 0)
                INSERT INTO ledger_entry (account, seq, transfer_id, amount, balance_after, created_at, team_id)
                SELECT n.account, n.seq, %(id)s, n.amount, n.after, {at}, %(team)s
                  FROM unnest(%(numbers)s::bigint[], %(seqs)s::bigint[], %(amounts)s::bigint[], %(after)s::bigint[])
                       AS n(account, seq, amount, after)""".encode(),
            {
                "id": id_, "team": self.team, "accounts": [one, two], "seqs": list(seqs), "after": list(after),
                "amounts": list(amounts), "move": list(move), "step": step, "transfer": transfer,
                "named": list(named or seqs), "numbers": [self.books.number(one), self.books.number(two)],
            },
        )  # fmt: skip


@pytest.fixture
def hand(books: Books) -> Iterator[Hand]:
    """The owner in a transaction that is rolled back."""
    with psycopg.connect(psycopg_url(books.urls.owner)) as connection:
        yield Hand(books, connection)
        connection.rollback()


def test_a_sound_write_by_hand_is_taken(hand: Hand, books: Books) -> None:
    """The statement of these tests is refused for what a test changes of it, and for nothing else."""
    hand.write()
    hand.connection.commit()
    assert (books.balance(hand.one), books.balance(hand.two)) == (60, 40)


@pytest.mark.checklist("PIX-11")
@pytest.mark.parametrize(
    "change",
    [
        {"amounts": (-40, 41), "after": (60, 41), "move": (-40, 41)},
        {"transfer": False},
        {"step": 0},
        {"seqs": (3, 1)},
        {"seqs": (2, 2), "after": (60, 40)},
        {"after": (59, 40), "move": (-41, 40)},
        {"after": (61, 40), "move": (-39, 40)},
        {"move": (-40, 39)},
        {"step": 2},
        {"named": (2, 7)},
        {"amounts": (0, 0), "after": (100, 0), "move": (0, 0)},
        {"amounts": (-101, 101), "after": (-1, 101), "move": (-101, 101)},
        {"at": "'2020-01-01'::timestamptz"},
    ],
    ids=[
        "not zero-sum",
        "no transfer",
        "no balance",
        "a gap",
        "a gap at the start",
        "a wrong sum",
        "a wrong sum, other way",
        "a balance that no entry says",
        "a version too far",
        "another place than the transfer says",
        "amount zero",
        "below the floor",
        "a time before the last entry",
    ],
)
def test_what_does_not_add_up_is_refused(hand: Hand, change: dict[str, object]) -> None:
    """Each change of one thing in a sound write raises, whoever writes."""
    with pytest.raises(REFUSED):
        hand.write(**change)  # type: ignore[arg-type]


def test_teams_do_not_mix(hand: Hand) -> None:
    """A transfer of one team has no entry on an account of another."""
    with pytest.raises(REFUSED):
        hand.write(accounts=(hand.one, hand.other), seqs=(2, 2), after=(60, 140))


@pytest.mark.checklist("PIX-03")
def test_nothing_is_changed_or_removed(hand: Hand) -> None:
    """Entries and transfers are neither updated nor deleted, and no table is emptied, by its owner too."""
    statements = [
        "UPDATE ledger_entry SET amount = amount",
        "UPDATE ledger_transfer SET memo = 'x'",
        "UPDATE ledger_account SET team_id = team_id",
        "UPDATE ledger_account SET currency = 'USD'",
    ]
    for table in ("account", "transfer", "entry", "hold", "hold_event"):
        statements += [f"TRUNCATE ledger_{table} CASCADE"]
    statements += [f"DELETE FROM ledger_{table}" for table in ("account", "transfer", "entry")]
    for statement in statements:
        with pytest.raises(psycopg.errors.RestrictViolation), hand.connection.transaction():
            hand.connection.execute(statement.encode())


@pytest.mark.checklist("PIX-04")
def test_no_balance_without_an_entry(hand: Hand) -> None:
    """A balance, a version or a held amount that nothing explains is refused at once."""
    for change in ("balance = balance + 1", "version = version + 1", "held = 5", "version = 0, balance = 0"):
        with pytest.raises(REFUSED), hand.connection.transaction():
            hand.connection.execute(f"UPDATE ledger_account SET {change} WHERE id = %s".encode(), [hand.one])


def test_a_transfer_has_its_entries(hand: Hand) -> None:
    """A transfer without entries is refused, and later entries cannot be added to one that stands."""
    with pytest.raises(REFUSED), hand.connection.transaction():
        hand.connection.execute(
            "INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date, created_at) "
            "VALUES (gen_random_uuid(), %s, '', 'transfer', 'BRL', %s::bigint[], '{7,7}', '2026-01-01', now())",
            [hand.team, hand.numbers],
        )
    hand.write()
    with pytest.raises(REFUSED):
        hand.connection.execute(
            f"""WITH t AS (SELECT id FROM ledger_transfer WHERE accounts = %(numbers)s::bigint[] AND seqs = '{{2,1}}'),
                a AS (UPDATE ledger_account SET balance = balance + CASE id WHEN %(one)s THEN -5 ELSE 5 END,
                             version = version + 1 WHERE id = ANY (%(accounts)s))
                INSERT INTO ledger_entry SELECT n.account, n.seq, t.id, n.amount, n.after, {AT}, %(team)s
                  FROM t, (VALUES (%(first)s, 3, -5, 55), (%(second)s, 2, 5, 45))
                          AS n(account, seq, amount, after)""".encode(),
            {
                "accounts": [hand.one, hand.two],
                "numbers": hand.numbers,
                "one": hand.one,
                "team": hand.team,
                "first": hand.numbers[0],
                "second": hand.numbers[1],
            },
        )


def test_a_hold_ends_once_and_stays_what_it_was(hand: Hand) -> None:
    """A hold's amount, account and end are not written over; without its event, or held amount, it is not written."""
    connection = hand.connection
    connection.execute(
        "SELECT ledger_hold(%s, gen_random_uuid(), '\\x00', %s, 30, 'test', NULL, NULL)", [hand.team, hand.one]
    )
    for change in ("amount = 10", "account_id = account_id || 'x'", "status = 'voided', ended_at = now()"):
        with pytest.raises(REFUSED), connection.transaction():
            connection.execute(f"UPDATE ledger_hold SET {change} WHERE account_id = %s".encode(), [hand.one])
    with pytest.raises(REFUSED), connection.transaction():
        connection.execute("UPDATE ledger_account SET held = 0 WHERE id = %s", [hand.one])
