"""Accounts: sign-up, sign-in, the signed-in user, and what he may not do."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from tests.support.api import PASSWORD, Api, running_api

from dumont.db import DatabaseUrls, psycopg_url

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
async def api(database_urls: DatabaseUrls) -> AsyncIterator[Api]:
    async with running_api(database_urls) as running:
        yield running


def rows(urls: DatabaseUrls, statement: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        return connection.execute(statement, values).fetchall()  # type: ignore[arg-type]


def part(token: str, index: int) -> dict[str, object]:
    piece = token.split(".")[index]
    decoded: dict[str, object] = json.loads(base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4)))
    return decoded


async def test_registering_makes_user_team_and_membership_in_one_go(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.register("Ana@Example.com", name="Ana")
    found = rows(
        database_urls,
        "SELECT u.email, t.name, m.role FROM user_account u JOIN membership m ON m.user_id = u.id"
        " JOIN team t ON t.id = m.team_id WHERE u.id = %s",
        ana.user_id,
    )
    assert found == [("Ana@Example.com", "Ana", "admin")]
    (stored,) = rows(database_urls, "SELECT password_hash FROM user_account")
    assert str(stored[0]).startswith("$argon2id$") and PASSWORD not in str(stored[0])


async def test_registering_again_with_its_key_gets_the_first_answer(api: Api, database_urls: DatabaseUrls) -> None:
    body = {"email": "ana@example.com", "password": PASSWORD}

    async def register(key: str | None, **changed: str) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await api.http.post("/api/v1/auth/register", json={**body, **changed}, headers=headers)

    first, *others = await asyncio.gather(*(register("try-1") for _ in range(3)))
    codes = {answer.json().get("code") for answer in (first, *others) if answer.status_code != 201}
    assert codes <= {"idempotency-in-progress"}
    again = await register("try-1")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    made = {answer.json()["access_token"] for answer in (first, *others, again) if answer.status_code == 201}
    assert made == {again.json()["access_token"]}
    headers = {"Authorization": f"Bearer {again.json()['access_token']}"}
    assert (await api.http.get("/api/v1/auth/me", headers=headers)).status_code == 200
    stranger = await register("try-1", password="another long password")
    assert (stranger.status_code, stranger.json()["code"]) == (422, "idempotency-key-reused")
    for key in ("try-2", None):
        assert (await register(key)).json()["code"] == "email-taken"
    assert (await register("a key with spaces")).status_code == 422
    assert rows(database_urls, "SELECT count(*) FROM user_account") == [(1,)]
    (kept,) = rows(database_urls, "SELECT sealed, body FROM idempotency_key")
    assert kept[0] is True and again.json()["access_token"].encode() not in bytes(kept[1])  # type: ignore[call-overload]


async def test_a_failing_hook_leaves_nothing_of_the_registration(api: Api, database_urls: DatabaseUrls) -> None:
    seen: list[str] = []

    async def fail(session: AsyncSession, team_id: str) -> None:
        seen.append(team_id)
        raise RuntimeError("the wallet could not be made")

    api.identity.on_team_created(fail)
    answer = await api.http.post("/api/v1/auth/register", json={"email": "a@b.example", "password": PASSWORD})
    assert answer.status_code == 500 and len(seen) == 1
    assert "wallet" not in answer.text and answer.json()["instance"] in answer.json()["detail"]
    for table in ("user_account", "team", "membership", "login_session"):
        assert rows(database_urls, f"SELECT count(*) FROM {table}") == [(0,)]


async def test_one_address_has_one_account_whatever_its_case(api: Api, database_urls: DatabaseUrls) -> None:
    await api.person("ana@example.com")
    answer = await api.http.post("/api/v1/auth/register", json={"email": "ANA@example.com", "password": PASSWORD})
    assert (answer.status_code, answer.json()["code"], answer.json()["act"]) == (409, "email-taken", "fix")
    assert rows(database_urls, "SELECT count(*) FROM user_account") == [(1,)]


@pytest.mark.checklist("AUTH-01", "AUTH-03", "AUTH-04")
async def test_signing_in_gives_a_signed_token_of_the_promised_form(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.register("ana@example.com", username="Ana.S")
    for name in ({"email": "ANA@example.com"}, {"username": "ana.s"}, {"username": "ana@example.com"}):
        answer = await api.http.post("/api/v1/auth/login", json={**name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        session = answer.json()
        assert session["token_type"] == "bearer" and session["expires_in"] == 3600
        header, claims = part(session["access_token"], 0), part(session["access_token"], 1)
        assert header["alg"] == "HS256" and header["typ"] == "JWT" and header["kid"]
        assert {"iss", "aud", "sub", "email", "sid", "jti", "team_id", "role", "iat", "exp"} == set(claims)
        assert claims["sub"] == ana.user_id and int(str(claims["exp"])) - int(str(claims["iat"])) == 3600
        me = await api.http.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {session['access_token']}"})
        assert me.json()["user"]["id"] == ana.user_id
    assert rows(database_urls, "SELECT count(*) FROM login_session WHERE user_id = %s", ana.user_id) == [(4,)]


@pytest.mark.checklist("AUTH-02")
async def test_wrong_password_and_unknown_account_get_the_same_answer(api: Api, database_urls: DatabaseUrls) -> None:
    await api.person("ana@example.com")
    told = []
    for email, password in (
        ("ana@example.com", "wrong"),
        ("nobody@example.com", PASSWORD),
        ("ana@example.com", "x" * 500),
    ):
        answer = await api.http.post("/api/v1/auth/login", json={"email": email, "password": password})
        assert answer.headers["www-authenticate"] == "Bearer"
        told.append({**answer.json(), "instance": None})
    assert told[0]["code"] == "invalid-credentials" and told[0] == told[1] == told[2]
    assert rows(database_urls, "SELECT count(*) FROM login_session") == [(1,)]


async def test_an_unknown_account_costs_as_much_work_as_a_known_one(api: Api) -> None:
    """Measured in processor time of this process, the least of several: others on the machine can only add to it."""
    await api.register("ana@example.com")

    async def work(email: str) -> float:
        begin = time.process_time()
        answer = await api.http.post("/api/v1/auth/login", json={"email": email, "password": "wrong password"})
        assert answer.status_code == 401
        return time.process_time() - begin

    await work("warm@example.com")
    pairs = [(await work("ana@example.com"), await work("nobody@example.com")) for _ in range(4)]
    known, unknown = (min(side) for side in zip(*pairs, strict=True))
    assert 0.7 * known < unknown < 1.4 * known


async def test_what_is_not_an_address_is_refused_and_not_repeated(api: Api) -> None:
    attack = ["' OR '1'='1", "admin@x.com'; DROP TABLE team;--", "<script>alert(1)</script>@x.com"]
    for email in (*attack, "a@b@c", "@x.com", "ab@", "a..b@x.com", "a@-x.com", "a" * 65 + "@x.com"):
        for path in ("register", "login"):
            answer = await api.http.post(f"/api/v1/auth/{path}", json={"email": email, "password": PASSWORD})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), email
            assert [error["pointer"] for error in answer.json()["errors"]] == ["/email"]
            assert email not in answer.text and PASSWORD not in answer.text


@pytest.mark.checklist("AUTH-10")
async def test_hostile_input_to_the_login_form_does_no_harm(api: Api, database_urls: DatabaseUrls) -> None:
    await api.person("ana@example.com")
    hostile = (
        "' OR '1'='1' --",
        "x'; UPDATE user_account SET is_operator = true; --",
        "<script>alert(1)</script>",
        "${jndi:ldap://x}",
        "../../etc/passwd",
        "a\u0000b",
        "\ud800",
        "\u202e\u0130",
        "ana@example.com\r\nX-Injected: 1",
    )
    before = rows(database_urls, "SELECT count(*), bool_or(is_operator) FROM user_account")
    for text in hostile:
        bodies = ({"username": text, "password": PASSWORD}, {"email": "ana@example.com", "password": text})
        for body in bodies:
            content = json.dumps(body)
            headers = {"Content-Type": "application/json", "User-Agent": "<script>'; --"}
            answer = await api.http.post("/api/v1/auth/login", content=content, headers=headers)
            assert answer.status_code in (401, 422, 429) and "x-injected" not in answer.headers, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert text not in answer.text and "Traceback" not in answer.text
    assert rows(database_urls, "SELECT count(*), bool_or(is_operator) FROM user_account") == before == [(1, False)]
    assert rows(database_urls, "SELECT count(*) FROM login_session") == [(1,)]


async def test_a_password_that_anybody_would_guess_is_refused(api: Api) -> None:
    for password in ("12345678", "aaaaaaaaaaaa", "ana@example.com"):
        answer = await api.http.post("/api/v1/auth/register", json={"email": "ana@example.com", "password": password})
        assert (answer.status_code, answer.json()["code"]) == (422, "weak-password")


async def test_sign_in_wants_one_name(api: Api) -> None:
    for body in ({}, {"email": "a@b.example", "username": "c@d.example"}):
        answer = await api.http.post("/api/v1/auth/login", json={**body, "password": PASSWORD})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


@pytest.mark.checklist("AUTH-11", "AUTH-12")
async def test_me_shows_user_team_settings_and_permissions(api: Api) -> None:
    ana = await api.register("ana@example.com", name="Ana")
    me = (await api.http.get("/api/v1/auth/me", headers=ana.headers)).json()
    assert me["authenticated"] is True
    assert me["user"]["email"] == "ana@example.com" and me["user"]["name"] == "Ana" and me["user"]["settings"] == {}
    assert me["user"]["is_operator"] is False and me["user"]["email_verified_at"] is None
    assert (
        me["team"]["id"] == ana.team_id and me["team"]["role"] == "admin" and "team.manage" in me["team"]["permissions"]
    )
    assert me["session"]["expires_at"].endswith("Z")


@pytest.mark.checklist("AUTH-08")
async def test_signing_out_ends_this_token_and_no_other(api: Api) -> None:
    await api.person("ana@example.com")
    sessions = [
        (await api.http.post("/api/v1/auth/login", json={"email": "ana@example.com", "password": PASSWORD})).json()
        for _ in range(2)
    ]
    first, second = ({"Authorization": f"Bearer {session['access_token']}"} for session in sessions)
    answer = await api.http.post("/api/v1/auth/logout", headers=first)
    assert answer.status_code == 200 and answer.json()["sessions_revoked"] == 1
    refused = await api.http.get("/api/v1/auth/me", headers=first)
    assert (refused.status_code, refused.json()["code"]) == (401, "revoked-token")
    assert (await api.http.get("/api/v1/auth/me", headers=second)).status_code == 200
    everywhere = await api.http.post("/api/v1/auth/logout", headers=second, json={"all": True})
    assert everywhere.json()["sessions_revoked"] == 2
    assert (await api.http.get("/api/v1/auth/me", headers=second)).status_code == 401


async def test_the_role_is_the_row_and_not_the_claim(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("UPDATE membership SET role = 'viewer' WHERE user_id = %s", [ana.user_id])
    me = (await api.http.get("/api/v1/auth/me", headers=ana.headers)).json()
    assert me["team"]["role"] == "viewer" and "gpu.provision" not in me["team"]["permissions"]


async def test_losing_the_membership_ends_the_session(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("DELETE FROM membership WHERE user_id = %s", [ana.user_id])
    refused = await api.http.get("/api/v1/auth/me", headers=ana.headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "revoked-token")


async def test_when_too_many_sign_in_at_once_some_are_told_to_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    logins = [{"email": f"ana{number}@example.com", "password": PASSWORD} for number in range(4)]
    for login in logins:
        await api.register(login["email"])  # a full-cost hash: the checks must overlap
    assert (await api.http.post("/api/v1/auth/login", json=logins[0])).status_code == 200
    monkeypatch.setattr("dumont.identity.passwords._MAX_WAITING", 1)
    answers = await asyncio.gather(*(api.http.post("/api/v1/auth/login", json=login) for login in logins))
    told = sorted(answer.status_code for answer in answers)
    assert told[0] == 200 and told[-1] == 429 and set(told) == {200, 429}
    waiting = next(answer for answer in answers if answer.status_code == 429)
    assert waiting.json()["act"] == "wait" and int(waiting.headers["retry-after"]) >= 1
