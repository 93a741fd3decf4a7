"""The statements of the ledger: calls of the functions that alone may write, and what is read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import Row
from dumont.ledger.model import HoldRequest, LedgerAccount, Outcome, Posting, problem_of

PATIENCE_MS = 2000
"""How long a request in its own session waits for an account that somebody else has locked."""

_PLAIN_ARGUMENTS = "{}::text, {}::uuid, {}::bytea, {}::text, {}::date, {}::text, {}::text, {}::bigint, {}::text"
_BATCH_ARGUMENTS = (
    "{}::text[], {}::uuid[], {}::bytea[], {}::text[], {}::date[], {}::text[], {}::uuid[], {}::uuid[], "
    "{}::integer[], {}::text[], {}::bigint[]"
)
PLAIN = f"SELECT ledger_post({_PLAIN_ARGUMENTS.format(*(f'${n}' for n in range(1, 10)))})".encode()
BATCH = (
    f"SELECT item, outcome, code, detail FROM ledger_post_batch("
    f"{_BATCH_ARGUMENTS.format(*(f'${n}' for n in range(1, 12)))})"
).encode()
_MANY_ARGUMENTS = (
    "{}::text[], {}::uuid[], {}::bytea[], {}::text[], {}::date[], {}::text[], {}::text[], {}::integer[], "
    "{}::integer[], {}::bigint[]"
)
MANY = (
    f"SELECT item, outcome, code, detail FROM ledger_post_many("
    f"{_MANY_ARGUMENTS.format(*(f'${n}' for n in range(1, 11)))})"
).encode()
BUSY = b"SELECT ledger_busy($1::text[])"
_Told = tuple[str, str | None, dict[str, Any] | None]
_NAMES = [f"v{n}" for n in range(11)]


def _casts() -> str:
    kinds = ("text", "uuid", "bytea", "text", "date", "text", "uuid", "uuid", "integer", "text", "bigint")
    return ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in zip(_NAMES, kinds, strict=True))


_BATCH = text(
    "SELECT item, outcome, code, detail FROM (SELECT set_config('lock_timeout', :patience, true)) AS p(ms), "
    f"LATERAL ledger_post_batch({_casts()})"
)
_HOLD = text(
    "SELECT outcome, code, detail FROM (SELECT set_config('lock_timeout', :patience, true)) AS p(ms), "
    "LATERAL ledger_hold(:team, CAST(:id AS uuid), CAST(:fingerprint AS bytea), :account, :amount, :reason, :subject, "
    ":expires)"
)
_ACCOUNT = (
    "SELECT id, number, team_id, type, name, currency, balance, held, floor, version, created_at, moved_at, closed_at "
    "FROM ledger_account"
)


def is_plain(posting: Posting) -> bool:
    """Tell whether a posting has two legs and nothing else to it, for which there is a function of its own."""
    return len(posting.legs) == 2 and posting.reverses is None and posting.settles is None


def plain_values(posting: Posting) -> list[bytes | None]:
    """Return the arguments of `PLAIN`, as text that PostgreSQL reads by itself."""
    one, two = posting.legs
    if one.account_id > two.account_id:
        one, two = two, one
    return [
        posting.team_id.encode(),
        posting.id.encode(),
        b"\\x" + posting.fingerprint.encode(),
        posting.kind.encode(),
        posting.date.isoformat().encode(),
        None if posting.memo is None else posting.memo.encode(),
        one.account_id.encode(),
        b"%d" % one.amount,
        two.account_id.encode(),
    ]


def many_values(postings: Sequence[Posting]) -> list[bytes | None]:
    """Return the arguments of `MANY` for plain postings: each account once, and of each posting where its two stand."""
    places: dict[str, int] = {}
    firsts: list[str] = []
    seconds: list[str] = []
    amounts: list[str] = []
    for posting in postings:
        one, two = posting.legs
        firsts.append(str(places.setdefault(one.account_id, len(places) + 1)))
        seconds.append(str(places.setdefault(two.account_id, len(places) + 1)))
        amounts.append(str(one.amount))
    own = [_quoted(list(places)), _plain(firsts), _plain(seconds), _plain(amounts)]
    return _written([*_common_texts(postings), *own])


def batch_values(postings: Sequence[Posting]) -> list[bytes | None]:
    """Return the arguments of `BATCH`, as text that PostgreSQL reads by itself."""
    return _written(_batch_texts(postings))


def _batch_texts(postings: Sequence[Posting]) -> list[str | None]:
    items: list[str] = []
    accounts: list[str] = []
    amounts: list[str] = []
    for item, posting in enumerate(postings, 1):
        for leg in posting.legs:
            items.append(str(item))
            accounts.append(leg.account_id)
            amounts.append(str(leg.amount))
    return [
        *_common_texts(postings),
        _references([posting.reverses for posting in postings]),
        _references([posting.settles for posting in postings]),
        _plain(items),
        _quoted(accounts),
        _plain(amounts),
    ]


def _common_texts(postings: Sequence[Posting]) -> list[str | None]:
    return [
        _quoted([posting.team_id for posting in postings]),
        _plain([posting.id for posting in postings]),
        _plain([f'"\\\\x{posting.fingerprint}"' for posting in postings]),
        _quoted([posting.kind for posting in postings]),
        _plain([posting.date.isoformat() for posting in postings]),
        _quoted([posting.memo for posting in postings]),
    ]


def account_values(accounts: Iterable[str]) -> list[bytes | None]:
    """Return the argument of `BUSY`."""
    return _written([_quoted(list(accounts))])


def accounts_of(rows: Iterable[Row]) -> set[str]:
    """Read the rows of `BUSY`."""
    return {_read(row[0]) for row in rows}


def outcomes_of(postings: Sequence[Posting], rows: Iterable[Row]) -> list[Outcome]:
    """Turn the rows of a batch, which tell of all that did not plainly stand, into one outcome for each posting."""
    told: dict[int, _Told] = {
        int(_read(item)): (
            _read(outcome),
            None if code is None else _read(code),
            None if detail is None else json.loads(detail),
        )
        for item, outcome, code, detail in rows
    }
    return _outcomes(postings, told)


def plain_outcome(posting: Posting, rows: Sequence[Row]) -> Outcome:
    """Read the row of `PLAIN`, which holds nothing where the posting stands."""
    told = rows[0][0]
    return Outcome(posting.id) if told is None else outcome_of(posting.id, **json.loads(told))


def _outcomes(postings: Sequence[Posting], told: Mapping[int, _Told]) -> list[Outcome]:
    if not told:
        return [Outcome(posting.id) for posting in postings]
    return [
        Outcome(posting.id) if row is None else outcome_of(posting.id, *row)
        for posting, row in ((posting, told.get(item)) for item, posting in enumerate(postings, 1))
    ]


def outcome_of(id_: str, outcome: str, code: str | None, detail: dict[str, Any] | None) -> Outcome:
    """Make the outcome that a function of the ledger told."""
    return Outcome(id_, outcome == "replay", None if code is None else problem_of(code, detail))


async def post_batch(session: AsyncSession, postings: Sequence[Posting]) -> list[Outcome]:
    """Post in the session's transaction; one outcome for each, in their order. Keys must differ."""
    values = dict(zip(_NAMES, _batch_texts(postings), strict=True))
    rows = (await session.execute(_BATCH, {**values, "patience": str(PATIENCE_MS)})).all()
    return _outcomes(postings, {row.item: (row.outcome, row.code, row.detail) for row in rows})


async def hold(session: AsyncSession, request: HoldRequest) -> Outcome:
    """Open a hold in the session's transaction."""
    row = (
        await session.execute(
            _HOLD,
            {
                "patience": str(PATIENCE_MS),
                "team": request.team_id,
                "id": request.id,
                "fingerprint": f"\\x{request.fingerprint}",
                "account": request.account_id,
                "amount": request.amount,
                "reason": request.reason,
                "subject": request.subject,
                "expires": request.expires_at,
            },
        )
    ).one()
    return outcome_of(request.id, row.outcome, row.code, row.detail)


async def void(session: AsyncSession, team_id: str, hold_id: str, reason: str | None) -> str:
    """End a hold without a transfer and return what came of it."""
    statement = text("SELECT ledger_void(:team, CAST(:id AS uuid), :reason)")
    return str((await session.execute(statement, {"team": team_id, "id": hold_id, "reason": reason})).scalar_one())


async def expire(session: AsyncSession, now: datetime, limit: int) -> int:
    """End holds whose time is over, in the order of their ends; of the session's team, or of all without one."""
    return int(
        (await session.execute(text("SELECT ledger_expire(:now, :limit)"), {"now": now, "limit": limit})).scalar_one()
    )


async def open_account(session: AsyncSession, values: dict[str, Any]) -> str:
    """Insert an account and return what came of it."""
    statement = text("SELECT ledger_open_account(:team, :id, :type, :name, :currency, :floor, :now)")
    return str((await session.execute(statement, values)).scalar_one())


async def change_account(session: AsyncSession, values: dict[str, Any]) -> str:
    """Change an account's type, name or floor and return what came of it."""
    statement = text("SELECT ledger_change_account(:team, :id, :type, :name, :floor, :unfloored)")
    return str((await session.execute(statement, values)).scalar_one())


async def close_account(session: AsyncSession, team_id: str, account_id: str, now: datetime) -> str:
    """Close an empty account and return what came of it."""
    statement = text("SELECT ledger_close_account(:team, :id, :now)")
    return str((await session.execute(statement, {"team": team_id, "id": account_id, "now": now})).scalar_one())


async def find_account(session: AsyncSession, account_id: str) -> LedgerAccount | None:
    """Read an account of the session's team."""
    row = (await session.execute(text(f"{_ACCOUNT} WHERE id = :id"), {"id": account_id})).one_or_none()
    return None if row is None else LedgerAccount(**row._mapping)


async def list_accounts(session: AsyncSession, team_id: str) -> list[LedgerAccount]:
    """Read the accounts of a team, by type, currency and name."""
    rows = await session.execute(
        text(f"{_ACCOUNT} WHERE team_id = :team ORDER BY type, currency, name, id"), {"team": team_id}
    )
    return [LedgerAccount(**row._mapping) for row in rows]


async def account_number(session: AsyncSession, account_id: str) -> int | None:
    """Read by what number entries name an account of the session's team; None where there is no such account.

    A query that is given the number reads entries in their order, and PostgreSQL knows of which account they are.
    """
    found = (
        await session.execute(text("SELECT number FROM ledger_account WHERE id = :id"), {"id": account_id})
    ).scalar()
    return None if found is None else int(found)


async def balance_at(session: AsyncSession, account_id: str, at: datetime) -> int | None:
    """Read what an account's balance was at a moment of the database's clock; None where there is no such account."""
    statement = text("SELECT ledger_balance_at(:account, :at)")
    found = (await session.execute(statement, {"account": account_id, "at": at})).scalar_one()
    return None if found is None else int(found)


def _written(texts: Sequence[str | None]) -> list[bytes | None]:
    return [None if text is None else text.encode() for text in texts]


def _read(value: bytes | None) -> str:
    if value is None:
        raise TypeError("the ledger's functions leave this column never empty")
    return value.decode()


def _plain(values: Sequence[str]) -> str:
    return "{" + ",".join(values) + "}"


def _quoted(values: Sequence[str | None]) -> str:
    """Write an array; what stands in it often is written once."""
    written = {value: "NULL" if value is None else _quote(value) for value in set(values)}
    return "{" + ",".join([written[value] for value in values]) + "}"


def _quote(value: str) -> str:
    """Write an element of an array's text; source: PostgreSQL manual, 8.15.6."""
    return value if value.isascii() and value.isidentifier() and value.upper() != "NULL" else _escaped(value)


def _escaped(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _references(values: Sequence[str | None]) -> str | None:
    return None if not any(values) else "{" + ",".join(value or "NULL" for value in values) + "}"
