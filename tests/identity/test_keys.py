"""SSH keys of a user, and the walls around users and teams in the database itself."""

import uuid
from collections.abc import AsyncIterator

import asyncssh
import psycopg
import pytest
from sqlalchemy import text
from tests.support.api import PASSWORD, SECRET, Api, running_api
from tests.support.postgres import clone_database, drop_database

from dumont.db import Database, DatabaseUrls, migrate, psycopg_url, set_team, with_role
from dumont.identity import ssh_keys_of

pytestmark = pytest.mark.requires_postgres
KEYS = "/api/v1/ssh-keys"


@pytest.fixture
async def api(database_urls: DatabaseUrls) -> AsyncIterator[Api]:
    async with running_api(database_urls) as running:
        yield running


def public_line(kind: str = "ssh-ed25519", **options: int) -> tuple[str, str]:
    key = asyncssh.generate_private_key(kind, **options)
    return key.export_public_key().decode().strip(), key.get_fingerprint()


async def test_a_key_is_stored_listed_used_and_forgotten(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    line, fingerprint = public_line()
    added = await api.http.post(
        KEYS, headers=ana.headers, json={"name": "laptop", "public_key": f"{line} ana@laptop\n"}
    )
    assert added.status_code == 201 and added.json()["fingerprint"] == fingerprint
    again = await api.http.post(KEYS, headers=ana.headers, json={"name": "twice", "public_key": line})
    assert (again.status_code, again.json()["code"]) == (409, "name-taken")
    listed = (await api.http.get(KEYS, headers=ana.headers)).json()
    assert listed == {"ssh_keys": [added.json()], "count": 1}
    worker = Database(database_urls.worker)
    try:
        async with worker.begin() as session:
            await set_team(session, ana.team_id)
            assert await ssh_keys_of(session, ana.user_id) == [" ".join(line.split()[:2])]
    finally:
        await worker.close()
    gone = await api.http.delete(f"{KEYS}/{added.json()['id']}", headers=ana.headers)
    assert gone.json() == {"success": True}
    assert (await api.http.delete(f"{KEYS}/{added.json()['id']}", headers=ana.headers)).json()[
        "code"
    ] == "ssh-key-not-found"
    assert (await api.http.get(KEYS, headers=ana.headers)).json() == {"ssh_keys": [], "count": 0}


async def test_keys_of_others_do_not_exist(api: Api) -> None:
    ana, bob = await api.person(), await api.person()
    added = await api.http.post(KEYS, headers=ana.headers, json={"name": "mine", "public_key": public_line()[0]})
    assert (await api.http.get(KEYS, headers=bob.headers)).json()["count"] == 0
    answer = await api.http.delete(f"{KEYS}/{added.json()['id']}", headers=bob.headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "ssh-key-not-found")
    assert (await api.http.get(KEYS, headers=ana.headers)).json()["count"] == 1


async def test_what_is_not_one_plain_key_is_refused(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    good, _ = public_line()
    weak, _ = public_line("ssh-rsa", key_size=2048)
    bad = [
        weak,
        f'command="rm -rf /" {good}',
        f"{good}\n{good}",
        f"{good} me\r\n{good}",
        good[:-8],
        "ssh-dss AAAAB3NzaC1kc3MAAACB",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n-----END OPENSSH PRIVATE KEY-----",
        "",
    ]
    for line in bad:
        answer = await api.http.post(KEYS, headers=ana.headers, json={"name": "k", "public_key": line})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), line
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/public_key"]
        assert "SECRET" not in answer.text and "rm -rf" not in answer.text
    assert (await api.http.get(KEYS, headers=ana.headers)).json()["count"] == 0


async def test_strong_kinds_are_accepted(api: Api) -> None:
    ana = await api.person()
    for kind, options in (("ecdsa-sha2-nistp256", {}), ("ssh-rsa", {"key_size": 3072})):
        line, fingerprint = public_line(kind, **options)
        answer = await api.http.post(KEYS, headers=ana.headers, json={"name": kind, "public_key": line})
        assert answer.status_code == 201 and answer.json()["fingerprint"] == fingerprint


async def test_the_applications_role_cannot_touch_accounts_or_sessions(api: Api, database_urls: DatabaseUrls) -> None:
    if not database_urls.second_wall:
        pytest.fail("the test database has no second wall")
    ana, bob = await api.person(), await api.person()
    for url in (database_urls.app, database_urls.worker):
        with psycopg.connect(psycopg_url(url), autocommit=True) as connection:
            for table in ("user_account", "login_session"):
                for verb in (f"SELECT 1 FROM {table}", f"DELETE FROM {table}", f"UPDATE {table} SET id = id"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(verb)  # type: ignore[arg-type]
    with psycopg.connect(psycopg_url(database_urls.app)) as connection:
        assert connection.execute("SELECT count(*) FROM team").fetchone() == (0,)
        connection.execute("SELECT set_config('dumont.team_id', %s, true)", [ana.team_id])
        assert connection.execute("SELECT id FROM team").fetchall() == [(ana.team_id,)]
        assert connection.execute("SELECT user_id FROM membership").fetchall() == [(ana.user_id,)]
        assert (
            connection.execute("UPDATE membership SET role = 'viewer' WHERE user_id = %s", [bob.user_id]).rowcount == 0
        )


async def test_entering_with_a_strangers_team_leaves_no_team_set(api: Api, database_urls: DatabaseUrls) -> None:
    ana, bob = await api.person(), await api.person()
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        found = connection.execute("SELECT id, jti FROM login_session WHERE user_id = %s", [ana.user_id]).fetchone()
    assert found is not None
    with psycopg.connect(psycopg_url(database_urls.app)) as connection:
        row = connection.execute(
            "SELECT outcome FROM dumont_enter(%s, %s, %s, %s, clock_timestamp())",
            [found[0], ana.user_id, found[1], bob.team_id],
        ).fetchone()
        assert row == ("stranger",)
        assert connection.execute("SELECT current_setting('dumont.team_id', true)").fetchone() == ("",)
        assert connection.execute("SELECT count(*) FROM membership").fetchone() == (0,)


async def test_all_of_it_works_for_an_owner_who_is_no_superuser() -> None:
    """As on an operator's own server, where row-level security binds the owner and no other role exists for us."""
    urls = clone_database(empty=True)
    role = f"plain_{uuid.uuid4().hex[:10]}"
    name = urls.owner.rsplit("/", 1)[1].partition("?")[0]
    with psycopg.connect(psycopg_url(urls.owner), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'plain'")  # type: ignore[arg-type]
        connection.execute(f"ALTER DATABASE {name} OWNER TO {role}")  # type: ignore[arg-type]
    owner = with_role(urls.owner, role, "plain")
    try:
        migrate(owner, SECRET)
        async with running_api(DatabaseUrls(owner, owner, owner, second_wall=False)) as api:
            ana, bob = await api.register(), await api.register()
            added = await api.http.post(KEYS, headers=ana.headers, json={"name": "k", "public_key": public_line()[0]})
            assert added.status_code == 201
            assert (await api.http.get(KEYS, headers=bob.headers)).json()["count"] == 0
            async with api.database.begin() as session:
                assert len(await ssh_keys_of(session, ana.user_id)) == 1
                assert (await session.scalar(text("SELECT count(*) FROM team"))) == 0
            again = await api.http.post(
                "/api/v1/auth/login", json={"email": bob.session["email"], "password": PASSWORD}
            )
            assert again.json()["team_id"] == bob.team_id
    finally:
        drop_database(urls)
        with psycopg.connect(psycopg_url(urls.owner.replace(name, "postgres")), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}")  # type: ignore[arg-type]
