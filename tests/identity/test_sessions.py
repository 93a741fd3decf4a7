"""Sessions: refreshed by tokens of one use, listed, ended, moved between teams; passwords and profiles."""

import asyncio
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import ProgrammingError
from tests.identity.conftest import Rows
from tests.support.api import PASSWORD, Api, Person, running_api

from dumont.core import Settings, new_id
from dumont.db import Database, DatabaseUrls
from dumont.identity import forget_access

pytestmark = pytest.mark.requires_postgres
AUTH = "/api/v1/auth"
ME = "/api/v1/users/me"


async def refresh(api: Api, session: dict[str, Any], key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await api.http.post(f"{AUTH}/refresh", json={"refresh_token": session["refresh_token"]}, headers=headers)


async def works(api: Api, session: dict[str, Any]) -> bool:
    answer = await api.http.get(f"{AUTH}/me", headers={"Authorization": f"Bearer {session['access_token']}"})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


async def sign_in(api: Api, email: str, password: str = PASSWORD, agent: str = "test") -> dict[str, Any]:
    answer = await api.http.post(
        f"{AUTH}/login", json={"email": email, "password": password}, headers={"User-Agent": agent}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.checklist("AUTH-07")
async def test_a_refresh_token_gives_a_new_pair_in_the_same_session(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    assert ana.session["refresh_expires_in"] == 30 * 24 * 3600
    answer = await refresh(api, ana.session)
    assert answer.status_code == 200, answer.text
    fresh = answer.json()
    assert set(fresh) == {*ana.session, "token_type"} and fresh["team_id"] == ana.team_id and fresh["role"] == "admin"
    assert fresh["refresh_token"] != ana.session["refresh_token"]
    assert fresh["access_token"] != ana.session["access_token"] and await works(api, fresh)
    assert sql("SELECT count(*) FROM login_session") == [(1,)]
    assert sql("SELECT count(*), count(spent_at) FROM refresh_token") == [(2, 1)]
    assert (await refresh(api, fresh)).status_code == 200


async def test_the_database_knows_no_token(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    fresh = (await refresh(api, ana.session, "a key")).json()
    made = await api.http.post("/api/v1/tokens", json={"name": "ci"}, headers={**ana.headers, "Idempotency-Key": "k"})
    assert made.status_code == 201
    everything = ""
    for table in ("refresh_token", "login_session", "api_token", "idempotency_key", "user_account"):
        found = sql(f"SELECT t::text FROM {table} t")
        everything += "".join(row[0] for row in found)
        for (raw,) in sql("SELECT retry_answer FROM refresh_token UNION ALL SELECT body FROM idempotency_key"):
            everything += bytes(raw or b"").decode("latin-1")
    for secret in (ana.session["refresh_token"], fresh["refresh_token"], fresh["access_token"], made.json()["token"]):
        assert secret not in everything and secret.encode().hex() not in everything


async def test_a_spent_token_ends_the_session_for_thief_and_owner(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    other = await sign_in(api, "ana@example.com")
    fresh = (await refresh(api, ana.session)).json()
    refused(await refresh(api, ana.session), 401, "refresh-token-reused")
    assert not await works(api, fresh) and not await works(api, ana.session)
    refused(await refresh(api, fresh), 401, "invalid-refresh-token")
    assert await works(api, other)
    assert sql("SELECT count(*) FROM login_session WHERE revoked_at IS NULL") == [(1,)]


async def test_a_retry_with_its_key_gets_the_same_pair_for_a_minute(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    first = await refresh(api, ana.session, "try-1")
    again = await refresh(api, ana.session, "try-1")
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert sql("SELECT count(*) FROM refresh_token") == [(2,)]
    sql("UPDATE refresh_token SET spent_at = spent_at - interval '61 seconds' WHERE spent_at IS NOT NULL")
    refused(await refresh(api, ana.session, "try-1"), 401, "refresh-token-reused")
    assert not await works(api, first.json())


async def test_another_key_is_another_use(api: Api) -> None:
    ana = await api.person("ana@example.com")
    assert (await refresh(api, ana.session, "try-1")).status_code == 200
    refused(await refresh(api, ana.session, "try-2"), 401, "refresh-token-reused")


async def test_of_two_uses_at_the_same_moment_with_one_key_both_get_one_pair(api: Api) -> None:
    ana = await api.person("ana@example.com")
    answers = await asyncio.gather(*(refresh(api, ana.session, "same") for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


async def test_sealed_retries_are_erased_by_the_next_refresh(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    fresh = (await refresh(api, ana.session, "try-1")).json()
    sql("UPDATE refresh_token SET spent_at = spent_at - interval '61 seconds' WHERE spent_at IS NOT NULL")
    assert (await refresh(api, fresh)).status_code == 200
    assert sql("SELECT count(*) FROM refresh_token WHERE retry_answer IS NOT NULL") == [(0,)]


async def test_refreshing_ends_with_session_account_membership_and_time(api: Api, sql: Rows) -> None:
    for damage in (
        "UPDATE login_session SET revoked_at = clock_timestamp()",
        "UPDATE user_account SET disabled_at = clock_timestamp()",
        "DELETE FROM membership",
        "UPDATE refresh_token SET expires_at = clock_timestamp() - interval '1 second'",
    ):
        ana = await api.person()
        sql(damage)
        refused(await refresh(api, ana.session), 401, "invalid-refresh-token")
    refused(await refresh(api, {"refresh_token": "dmr_nobody"}), 401, "invalid-refresh-token")
    refused(await api.http.post(f"{AUTH}/refresh", json={}), 422, "invalid-request")


async def test_how_long_a_session_lasts_is_a_setting(database_urls: DatabaseUrls, sql: Rows) -> None:
    settings = Settings(home=Path("/nonexistent"), refresh_token_seconds=1, access_token_seconds=3600)
    async with running_api(database_urls, settings=settings) as api:
        ana = await api.person()
        assert ana.session["refresh_expires_in"] == 1 and ana.session["expires_in"] == 1
        deadline = asyncio.get_running_loop().time() + 60
        over = "SELECT expires_at <= clock_timestamp() FROM refresh_token"
        while sql(over) == [(False,)] and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        assert not await works(api, ana.session)
        refused(await refresh(api, ana.session), 401, "invalid-refresh-token")


async def test_sessions_are_listed_and_ended_one_by_one(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    phone = await sign_in(api, "ana@example.com", agent="phone/1")
    bob = await api.person()
    listed = (await api.http.get(f"{AUTH}/sessions", headers=ana.headers)).json()
    assert listed["count"] == 2 and [one["current"] for one in listed["sessions"]].count(True) == 1
    other = next(one for one in listed["sessions"] if not one["current"])
    assert other["user_agent"] == "phone/1" and other["ip"] == "127.0.0.1" and other["last_used_at"]
    path = f"{AUTH}/sessions/{other['id']}"
    refused(await api.http.delete(path, headers=bob.headers), 404, "session-not-found")
    assert await works(api, phone)
    assert (await api.http.delete(path, headers=ana.headers)).json()["success"] is True
    assert not await works(api, phone) and await works(api, ana.session)
    refused(await refresh(api, phone), 401, "invalid-refresh-token")
    refused(await api.http.delete(path, headers=ana.headers), 404, "session-not-found")
    assert (await api.http.get(f"{AUTH}/sessions", headers=ana.headers)).json()["count"] == 1


async def test_use_is_noted_once_a_minute(api: Api, sql: Rows) -> None:
    ana = await api.person()
    sql("UPDATE login_session SET last_used_at = last_used_at - interval '1 hour'")
    (old,) = sql("SELECT last_used_at FROM login_session")
    assert await works(api, ana.session)
    (noted,) = sql("SELECT last_used_at FROM login_session")
    assert (noted[0] - old[0]).total_seconds() > 3000
    assert await works(api, ana.session)
    assert sql("SELECT last_used_at FROM login_session") == [noted]


@pytest.mark.checklist("AUTH-08")
async def test_signing_out_everywhere_ends_every_pair(api: Api) -> None:
    ana = await api.person("ana@example.com")
    other = await sign_in(api, "ana@example.com")
    bob = await api.person()
    answer = await api.http.post(f"{AUTH}/logout", headers=ana.headers, json={"all": True})
    assert answer.json()["sessions_revoked"] == 2
    for session in (ana.session, other):
        assert not await works(api, session)
        refused(await refresh(api, session), 401, "invalid-refresh-token")
    assert await works(api, bob.session)


async def test_a_new_password_ends_the_other_sessions(api: Api) -> None:
    ana = await api.person("ana@example.com")
    other = await sign_in(api, "ana@example.com")
    path, new = f"{AUTH}/password", "quite another battery"

    async def change(current: str, wanted: str) -> httpx.Response:
        body = {"current_password": current, "new_password": wanted}
        return await api.http.post(path, headers=ana.headers, json=body)

    refused(await change("wrong", new), 401, "invalid-credentials")
    weak = await change(PASSWORD, "ana@example.com")
    refused(weak, 422, "weak-password")
    assert weak.json()["errors"][0]["pointer"] == "/new_password"
    assert await works(api, other)
    assert (await change(PASSWORD, new)).status_code == 200
    assert await works(api, ana.session) and not await works(api, other)
    assert (await refresh(api, ana.session)).status_code == 200
    wrong = await api.http.post(f"{AUTH}/login", json={"email": "ana@example.com", "password": PASSWORD})
    refused(wrong, 401, "invalid-credentials")
    assert await works(api, await sign_in(api, "ana@example.com", new))


async def test_a_password_is_hashed_without_a_connection(api: Api, sql: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the password's threads are held up, no connection of the API is in a transaction."""
    ana = await api.person("ana@example.com")
    held, go = threading.Event(), threading.Event()
    body = {"current_password": PASSWORD, "new_password": "quite another battery"}
    headers = {**ana.headers, "Idempotency-Key": "change"}
    api.identity.passwords._threads.submit(lambda: (held.set(), go.wait(120)))
    api.identity.passwords._threads.submit(lambda: go.wait(120))
    changing = asyncio.create_task(api.http.post(f"{AUTH}/password", headers=headers, json=body))
    try:
        assert await asyncio.to_thread(held.wait, 60)
        for _ in range(3000):
            if api.identity.passwords._waiting:
                break
            await asyncio.sleep(0.02)
        assert api.identity.passwords._waiting == 1
        idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test-api' AND state <> 'idle'"
        assert sql(f"{idle} AND datname = current_database()") == [(0,)]
    finally:
        go.set()
        answer = await changing
    assert answer.status_code == 200, answer.text
    again = await api.http.post(f"{AUTH}/password", headers=headers, json=body)
    assert again.json() == answer.json() and again.headers["idempotency-replayed"] == "true"


async def test_two_changes_of_a_password_at_once_are_one_change(api: Api) -> None:
    ana = await api.person("ana@example.com")
    body = {"current_password": PASSWORD, "new_password": "quite another battery"}
    keyed = {**ana.headers, "Idempotency-Key": "change"}

    async def change(headers: dict[str, str], new: str) -> httpx.Response:
        sent = {**body, "new_password": new}
        while True:
            answer = await api.http.post(f"{AUTH}/password", headers=headers, json=sent)
            if answer.status_code != 409 or answer.json()["code"] != "idempotency-in-progress":
                return answer
            await asyncio.sleep(0.05)

    answers = await asyncio.gather(*(change(keyed, body["new_password"]) for _ in range(2)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200] and len({answer.text for answer in answers}) == 1
    body["current_password"] = body["new_password"]
    answers = await asyncio.gather(*(change(ana.headers, f"{word} horse stable") for word in ("blue", "green")))
    assert sorted(answer.status_code for answer in answers) == [200, 401]


async def test_what_ended_long_ago_is_forgotten(api: Api, sql: Rows, database_urls: DatabaseUrls) -> None:
    ana = await api.person("ana@example.com")
    for _ in range(3):
        await sign_in(api, "ana@example.com")
    for name in ("dated", "ended", "kept"):
        assert (await api.http.post("/api/v1/tokens", headers=ana.headers, json={"name": name})).status_code == 201
    old = "clock_timestamp() - interval '40 days'"
    mine = str((await api.http.get(f"{AUTH}/me", headers=ana.headers)).json()["session"]["id"])
    others = [str(row[0]) for row in sql("SELECT id FROM login_session WHERE id <> %s", mine)]
    sql(f"UPDATE login_session SET expires_at = {old} WHERE id = %s", others[0])
    sql(f"UPDATE login_session SET revoked_at = {old} WHERE id = %s", others[1])
    sql(f"UPDATE api_token SET expires_at = {old} WHERE name = 'dated'")
    sql(f"UPDATE api_token SET revoked_at = {old} WHERE name = 'ended'")
    sql(f"UPDATE refresh_token SET expires_at = {old} WHERE session_id = %s", others[2])
    worker = Database(database_urls.worker)
    try:
        async with worker.begin() as session:
            assert await forget_access(session, datetime.now(timezone.utc) - timedelta(days=30)) == 5
    finally:
        await worker.close()
    assert {str(row[0]) for row in sql("SELECT id FROM login_session")} == {others[2], mine}
    assert sql("SELECT name FROM api_token") == [("kept",)]
    assert sql("SELECT DISTINCT session_id FROM refresh_token") == [(mine,)]
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with api.database.begin() as session:
            await forget_access(session, datetime.now(timezone.utc))
    assert await works(api, ana.session)


@pytest.mark.checklist("AUTH-11", "AUTH-12")
async def test_a_profile_is_read_and_changed_field_by_field(api: Api) -> None:
    ana, bob = await api.register("ana@example.com", name="Ana"), await api.person()
    seen = (await api.http.get(ME, headers=ana.headers)).json()
    assert seen == {
        "id": ana.user_id,
        "email": "ana@example.com",
        "name": "Ana",
        "locale": "en",
        "timezone": "UTC",
        "currency": "USD",
        "current_team_id": ana.team_id,
        "current_team_name": "Ana",
        "current_role": "admin",
    }
    changes = {"locale": "pt-BR", "timezone": "America/Sao_Paulo", "currency": "BRL"}
    changed = await api.http.patch(ME, headers=ana.headers, json=changes)
    assert changed.json() == {**seen, **changes}
    assert (await api.http.patch(ME, headers=ana.headers, json={"name": None})).json()["name"] is None
    assert (await api.http.get(ME, headers=ana.headers)).json() == {**seen, **changes, "name": None}
    assert (await api.http.get(ME, headers=bob.headers)).json()["locale"] == "en"
    for wrong in ({"timezone": "../etc/passwd"}, {"timezone": "Mars/One"}, {"locale": "x"}, {"currency": "usd"}):
        answer = await api.http.patch(ME, headers=ana.headers, json=wrong)
        refused(answer, 422, "invalid-request")
        assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(wrong))}"


async def test_switching_moves_this_session_to_another_team(api: Api, sql: Rows) -> None:
    ana, bob = await api.person(), await api.person()
    made = await api.http.post("/api/v1/teams", headers=ana.headers, json={"name": "Second"})
    second = made.json()["id"]
    for team in (bob.team_id, new_id("team"), "x"):
        answer = await api.http.post(f"{ME}/switch-team", headers=ana.headers, json={"team_id": team})
        refused(answer, 404, "team-not-found")
    key = {"Idempotency-Key": "switch"}
    answer = await api.http.post(f"{ME}/switch-team", headers={**ana.headers, **key}, json={"team_id": second})
    assert answer.status_code == 200, answer.text
    there = answer.json()
    assert (there["team_id"], there["team_name"], there["role"]) == (second, "Second", "admin")
    assert "team.manage" in there["permissions"]
    me = (await api.http.get(f"{AUTH}/me", headers=Person(there).headers)).json()
    assert me["team"]["id"] == second
    assert sql("SELECT count(*) FROM login_session WHERE user_id = %s", ana.user_id) == [(1,)]
    assert (await refresh(api, there)).json()["team_id"] == second
    own = (await api.http.get(f"{ME}/teams", headers=Person(there).headers)).json()
    assert {team["id"]: team["is_current"] for team in own["teams"]} == {ana.team_id: False, second: True}
    refused(await refresh(api, ana.session), 401, "refresh-token-reused")
