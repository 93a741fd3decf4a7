"""The application's role writes ledger rows through the functions and in no other way, and for its own team alone."""

import psycopg
import pytest
from tests.ledger.books import Books, move

from dumont.db import Database, psycopg_url, set_team
from dumont.ledger import AccountNotFound, get_account, post

pytestmark = pytest.mark.requires_postgres

DENIED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction)
TABLES = ("ledger_account", "ledger_transfer", "ledger_entry", "ledger_hold", "ledger_hold_event")
INSIDE = ("ledger_write", "ledger_classify", "ledger_classify_bound", "ledger_run", "ledger_refuse_short",
          "ledger_end_holds", "ledger_rename_account", "ledger_guard_entries", "ledger_refuse")  # fmt: skip


def _attempts(account: str) -> list[str]:
    attempts = [
        f"UPDATE ledger_account SET balance = balance + 1 WHERE id = '{account}'",
        "INSERT INTO ledger_entry SELECT * FROM ledger_entry",
        "DROP TRIGGER ledger_entry_chain ON ledger_entry",
        "ALTER TABLE ledger_account DROP CONSTRAINT ck_ledger_account_floor",
        "CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "ALTER FUNCTION ledger_post_batch(text[], uuid[], bytea[], text[], date[], text[], uuid[], uuid[], integer[], "
        "text[], bigint[]) SET search_path = pg_temp, public",
        "SET session_replication_role = replica",
        "SET ROLE dumont",
        "SET ROLE pg_write_all_data",
        "SET SESSION AUTHORIZATION dumont",
        "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'",
        "CREATE TABLE public.mine (id text)",
        "SELECT setval('ledger_account_number_seq', 1)",
    ]
    for table in TABLES:
        attempts += [
            f"DELETE FROM {table}",
            f"TRUNCATE {table} CASCADE",
            f"COPY {table} FROM PROGRAM 'true'",
            f"COPY {table} FROM STDIN",
            f"SELECT 1 FROM {table} FOR UPDATE",
            f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
            f"MERGE INTO {table} t USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT DEFAULT VALUES",
            f"CREATE RULE quiet AS ON INSERT TO {table} DO INSTEAD NOTHING",
            f"DROP TABLE {table}",
        ]
    return attempts


@pytest.mark.checklist("PIX-03")
@pytest.mark.parametrize("role", ["app", "worker"])
def test_no_way_in_but_the_functions(books: Books, role: str) -> None:
    """Every statement that would write, and every way to become somebody who may, is refused."""
    team, one, _ = books.pair()
    before = books.total(team), books.balance(one)
    url = psycopg_url(getattr(books.urls, role))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT set_config('dumont.team_id', %s, false)", [team])
        connection.execute("SELECT set_config('dumont.sweep', 'on', false)")
        for attempt in _attempts(one):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(attempt.encode())
        for name in INSIDE:
            found = connection.execute(
                "SELECT bool_or(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_proc p WHERE proname = %s", [name]
            ).fetchone()
            assert found == (False,), name
    assert (books.total(team), books.balance(one)) == before


def test_shadows_in_a_temporary_schema_change_nothing(books: Books) -> None:
    """Tables, types and functions of the same names before everything on the search path are not what is used."""
    team, one, two = books.pair()
    asked = move(team, one, two, 30)
    with psycopg.connect(psycopg_url(books.urls.app), autocommit=True) as connection:
        for table in TABLES:
            connection.execute(
                f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS INCLUDING IDENTITY)".encode()
            )
        connection.execute(
            "INSERT INTO pg_temp.ledger_account (id, team_id, type, name, currency, balance, created_at, moved_at) "
            "SELECT x, %s, 'checking', x, 'BRL', 1000000, now(), now() FROM unnest(%s::text[]) x",
            [team, [one, two]],
        )
        connection.execute("CREATE FUNCTION pg_temp.ledger_write() RETURNS void LANGUAGE sql AS 'SELECT NULL::void'")
        connection.execute("SET search_path = pg_temp, public, pg_catalog")
        said = connection.execute(
            "SELECT public.ledger_post(%s, %s, %s, 'transfer', %s, NULL, %s, %s, %s)",
            [team, asked.id, b"\0", asked.date, *((one, -30, two) if one < two else (two, 30, one))],
        ).fetchone()
        assert said == (None,)
        refused = connection.execute(
            "SELECT public.ledger_post(%s, gen_random_uuid(), %s, 'transfer', %s, NULL, %s, %s, %s)",
            [team, b"\0", asked.date, *((one, -71, two) if one < two else (two, 71, one))],
        ).fetchone()
        assert refused is not None and refused[0]["code"] == "insufficient"
        assert connection.execute("SELECT count(*) FROM pg_temp.ledger_entry").fetchone() == (0,)
    assert (books.balance(one), books.balance(two)) == (70, 30)


async def test_each_posting_is_of_its_accounts_team(books: Books, database: Database) -> None:
    """Accounts of another team are not found, for whoever asks, alone or in a batch with sound ones."""
    team, one, two = books.pair()
    other, foreign, _ = books.pair()
    async with books.writer() as writer:
        for asked in (move(team, one, foreign, 5), move(other, one, two, 5), move(team, foreign, two, 5)):
            with pytest.raises(AccountNotFound):
                (await writer.post(asked)).stands()
        sound, crossed = await writer.post_batch([move(team, one, two, 5), move(team, foreign, two, 5)])
    assert sound.problem is None and isinstance(crossed.problem, AccountNotFound)
    async with database.begin() as session:
        await set_team(session, team)
        assert (await get_account(session, one)).balance == 95
        with pytest.raises(AccountNotFound):
            await get_account(session, foreign)
    with pytest.raises(Exception, match="does not post for another"):
        async with database.begin() as session:
            await set_team(session, other)
            await post(session, move(team, one, two, 5))
    assert (books.balance(one), books.balance(foreign)) == (95, 100)


def test_a_team_sees_its_own_rows(books: Books) -> None:
    """Without a team nothing is seen; with one, its rows alone; the sweep setting does nothing for the application."""
    team, _, _ = books.pair()
    books.pair()
    with psycopg.connect(psycopg_url(books.urls.app), autocommit=True) as connection:
        connection.execute("SELECT set_config('dumont.sweep', 'on', false)")
        for table in TABLES:
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)
        connection.execute("SELECT set_config('dumont.team_id', %s, false)", [team])
        for table in TABLES[:3]:
            found = connection.execute(f"SELECT DISTINCT team_id FROM {table}".encode()).fetchall()
            assert found == [(team,)]


def test_entries_by_id_are_the_own_teams(books: Books) -> None:
    """The view of entries shows a session what its tables show: nothing without a team, and never another team's."""
    team, one, _ = books.pair()
    books.pair()
    with psycopg.connect(psycopg_url(books.urls.app), autocommit=True) as connection:
        query = "SELECT account_id, amount FROM ledger_account_entry"
        assert connection.execute(query.encode()).fetchall() == []
        connection.execute("SELECT set_config('dumont.team_id', %s, false)", [team])
        found = connection.execute(query.encode()).fetchall()
        assert (one, 100) in found and len(found) == 2
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="cannot delete"):
            connection.execute("DELETE FROM ledger_account_entry")
