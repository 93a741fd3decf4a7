"""Tokens: which of them open the door, and what the header X-Team-Id may do."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from tests.support.api import SECRET, Api, Person, running_api

from dumont.core import Settings, derive_key, new_id
from dumont.db import DatabaseUrls, psycopg_url
from dumont.identity.tokens import TokenClaims, Tokens

pytestmark = pytest.mark.requires_postgres
ME = "/api/v1/auth/me"


@pytest.fixture
async def api(database_urls: DatabaseUrls) -> AsyncIterator[Api]:
    async with running_api(database_urls) as running:
        yield running


def claims_of(person: Person) -> dict[str, object]:
    piece = person.session["access_token"].split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4)))
    return claims


def header_of(person: Person) -> dict[str, object]:
    piece = person.session["access_token"].split(".")[0]
    header: dict[str, object] = json.loads(base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4)))
    return header


def encoded(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def refusal(api: Api, token: str) -> str:
    answer = await api.http.get(ME, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["code"])


@pytest.mark.checklist("AUTH-05")
async def test_no_token_no_entry(api: Api) -> None:
    for path in (ME, "/api/v1/ssh-keys"):
        answer = await api.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "missing-token")
        assert answer.headers["www-authenticate"] == "Bearer"
    for header in ("Basic YTpi", "Bearer", "Bearer a b", "bearer "):
        answer = await api.http.get(ME, headers={"Authorization": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token")


@pytest.mark.checklist("AUTH-06")
async def test_a_token_ends_with_its_time(database_urls: DatabaseUrls) -> None:
    settings = Settings(home=Path("/nonexistent"), access_token_seconds=1)
    async with running_api(database_urls, settings=settings) as api:
        ana = await api.person()
        deadline = asyncio.get_running_loop().time() + 60
        answer = await api.http.get(ME, headers=ana.headers)
        while answer.status_code == 200 and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            answer = await api.http.get(ME, headers=ana.headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "expired-token")


async def test_a_session_that_is_over_counts_even_where_the_token_says_more(api: Api) -> None:
    ana = await api.person()
    claims = claims_of(ana)
    later = datetime.now(timezone.utc) - timedelta(seconds=5)
    told = TokenClaims(ana.user_id, str(claims["sid"]), str(claims["jti"]), later)
    token = Tokens(SECRET).issue(told, email="x@y.example", team_id=ana.team_id, role="admin", issued_at=later)
    assert await refusal(api, token) == "expired-token"


@pytest.mark.checklist("AUTH-13")
async def test_forged_tokens_are_refused(api: Api) -> None:
    ana, bob = await api.person(), await api.person()
    header, claims = header_of(ana), claims_of(ana)
    good = ana.session["access_token"].split(".")
    bobs = bob.session["access_token"].split(".")
    stranger = OctKey.import_key(derive_key(b"another installation's secret", "jwt"))
    own = OctKey.import_key(derive_key(SECRET, "jwt"))
    forged = {
        "another key": jwt.encode(dict(header), dict(claims), stranger, algorithms=["HS256"]),
        "no algorithm": f"{encoded({**header, 'alg': 'none'})}.{encoded(claims)}.",
        "no algorithm, old signature": f"{encoded({**header, 'alg': 'none'})}.{good[1]}.{good[2]}",
        "another algorithm": jwt.encode({**header, "alg": "HS512"}, dict(claims), own, algorithms=["HS512"]),
        "another key id": jwt.encode({**header, "kid": "0"}, dict(claims), own, algorithms=["HS256"]),
        "swapped claims": f"{good[0]}.{encoded({**claims, 'sub': bob.user_id})}.{good[2]}",
        "swapped signature": f"{good[0]}.{good[1]}.{bobs[2]}",
        "two users in one": jwt.encode(dict(header), {**claims, "sub": bob.user_id}, own, algorithms=["HS256"]),
        "another audience": jwt.encode(dict(header), {**claims, "aud": "else"}, own, algorithms=["HS256"]),
        "no expiry": jwt.encode(
            dict(header), {k: v for k, v in claims.items() if k != "exp"}, own, algorithms=["HS256"]
        ),
        "no session": jwt.encode(dict(header), {**claims, "sid": new_id("ses")}, own, algorithms=["HS256"]),
        "rubbish": "a.b.c",
        "one part": "abc",
    }
    assert {name: await refusal(api, token) for name, token in forged.items()} == dict.fromkeys(forged, "invalid-token")
    assert (await api.http.get(ME, headers=ana.headers)).status_code == 200


async def test_claims_of_the_token_give_no_rights(api: Api, database_urls: DatabaseUrls) -> None:
    ana, bob = await api.person(), await api.person()
    own = OctKey.import_key(derive_key(SECRET, "jwt"))
    boasting = {**claims_of(ana), "team_id": bob.team_id, "role": "operator"}
    token = jwt.encode(dict(header_of(ana)), boasting, own, algorithms=["HS256"])
    me = (await api.http.get(ME, headers={"Authorization": f"Bearer {token}"})).json()
    assert me["team"]["id"] == ana.team_id and me["team"]["role"] == "admin" and me["user"]["is_operator"] is False


async def test_only_the_token_before_the_last_refresh_still_counts(api: Api) -> None:
    """Requests that were under way with it end well; one older still, and both after signing out, are refused."""
    session = (await api.person()).session
    tokens = [session["access_token"]]
    for _ in range(2):
        session = (await api.http.post("/api/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})).json()
        tokens.append(session["access_token"])
    assert await refusal(api, tokens[0]) == "revoked-token"
    for token in tokens[1:]:
        assert (await api.http.get(ME, headers={"Authorization": f"Bearer {token}"})).status_code == 200
    await api.http.post("/api/v1/auth/logout", headers={"Authorization": f"Bearer {tokens[1]}"})
    assert [await refusal(api, token) for token in tokens] == ["revoked-token"] * 3


async def test_an_older_jti_of_the_session_is_revoked(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("UPDATE login_session SET jti = 'the next one' WHERE user_id = %s", [ana.user_id])
    assert await refusal(api, ana.session["access_token"]) == "revoked-token"


async def test_a_disabled_user_is_out_at_once(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person("ana@example.com")
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("UPDATE user_account SET disabled_at = clock_timestamp() WHERE id = %s", [ana.user_id])
    assert await refusal(api, ana.session["access_token"]) == "revoked-token"


async def test_another_team_only_by_membership(api: Api, database_urls: DatabaseUrls) -> None:
    ana, bob = await api.person(), await api.person()
    for team in (bob.team_id, new_id("team"), "x", ""):
        answer = await api.http.get(ME, headers={**ana.headers, "X-Team-Id": team})
        assert (answer.status_code, answer.json()["code"]) == (404, "team-not-found")
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute(
            "INSERT INTO membership (team_id, user_id, role, created_at) VALUES (%s, %s, 'viewer', clock_timestamp())",
            [bob.team_id, ana.user_id],
        )
    me = (await api.http.get(ME, headers={**ana.headers, "X-Team-Id": bob.team_id})).json()
    assert (me["team"]["id"], me["team"]["role"]) == (bob.team_id, "viewer")
