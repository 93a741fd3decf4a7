"""API tokens: shown once, never more than their maker, for one team, ended at once."""

from collections.abc import AsyncIterator

import asyncssh
import httpx
import pytest
from tests.http.notes import Gate, make_table, notes_routers
from tests.identity.conftest import Rows
from tests.support.api import Api, Person, running_api

from dumont.db import DatabaseUrls

pytestmark = pytest.mark.requires_postgres
TOKENS = "/api/v1/tokens"
ME = "/api/v1/auth/me"
NOTES = "/api/v1/notes"


@pytest.fixture
async def api(database_urls: DatabaseUrls) -> AsyncIterator[Api]:
    make_table(database_urls)
    async with running_api(database_urls, *notes_routers(Gate())) as running:
        yield running


async def make(api: Api, who: Person, **more: object) -> dict[str, object]:
    answer = await api.http.post(TOKENS, headers=who.headers, json={"name": "ci", **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()
    return found


def bearing(token: dict[str, object]) -> dict[str, str]:
    return {"Authorization": f"Bearer {token['token']}"}


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_a_token_calls_as_its_maker_in_its_team(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    token = await make(api, ana)
    assert str(token["token"]).startswith("dmt_") and str(token["token"]).startswith(str(token["prefix"]))
    assert token["expires_at"] is None and token["last_used_at"] is None and "team.manage" in token["scopes"]
    me = (await api.http.get(ME, headers=bearing(token))).json()
    assert me["user"]["email"] == "ana@example.com" and me["team"]["id"] == ana.team_id and me["session"] is None
    written = await api.http.post(NOTES, headers=bearing(token), json={"title": "by a program"})
    assert written.status_code == 201
    listed = (await api.http.get(TOKENS, headers=ana.headers)).json()
    assert listed["count"] == 1 and listed["tokens"][0]["id"] == token["id"] and listed["tokens"][0]["last_used_at"]
    assert "token" not in listed["tokens"][0] and str(token["token"]) not in str(listed)


async def test_a_retry_shows_the_token_again_and_makes_no_second(api: Api, sql: Rows) -> None:
    ana = await api.person()
    headers = {**ana.headers, "Idempotency-Key": "one"}
    first = await api.http.post(TOKENS, headers=headers, json={"name": "ci"})
    again = await api.http.post(TOKENS, headers=headers, json={"name": "ci"})
    assert first.json() == again.json() and again.headers["idempotency-replayed"] == "true"
    assert sql("SELECT count(*) FROM api_token") == [(1,)]
    assert sql("SELECT sealed FROM idempotency_key") == [(True,)]
    sql("UPDATE idempotency_key SET created_at = created_at - interval '25 hours'")
    later = await api.http.post(TOKENS, headers=headers, json={"name": "ci"})
    assert later.status_code == 201 and later.json()["id"] != first.json()["id"]


@pytest.mark.checklist("AUTH-15")
async def test_scopes_are_never_more_than_the_maker_and_his_role_of_now(api: Api, sql: Rows) -> None:
    ana = await api.person()
    narrow = await make(api, ana, scopes=["gpu.view"])
    refused(await api.http.post(NOTES, headers=bearing(narrow), json={"title": "note"}), 403, "forbidden")
    wide = await make(api, ana)
    sql("UPDATE membership SET role = 'viewer' WHERE user_id = %s", ana.user_id)
    refused(await api.http.post(NOTES, headers=bearing(wide), json={"title": "note"}), 403, "forbidden")
    asked = await api.http.post(TOKENS, headers=ana.headers, json={"name": "up", "scopes": ["team.manage"]})
    refused(asked, 403, "forbidden")
    assert asked.json()["permission"] == "team.manage"
    assert sorted((await make(api, ana))["scopes"]) == ["cost.view_own", "gpu.view", "ledger.view"]  # type: ignore[call-overload]
    odd = await api.http.post(TOKENS, headers=ana.headers, json={"name": "odd", "scopes": ["root"]})
    refused(odd, 422, "invalid-request")


async def test_a_token_cannot_become_more_than_it_is(api: Api) -> None:
    ana = await api.person()
    token = await make(api, ana, scopes=["gpu.view"])
    attempts = (
        ("POST", TOKENS, {"name": "child"}),
        ("POST", "/api/v1/users/me/switch-team", {"team_id": ana.team_id}),
        ("POST", "/api/v1/auth/logout", {"all": True}),
        ("POST", "/api/v1/auth/password", {"current_password": "x", "new_password": "long enough words"}),
        ("GET", "/api/v1/auth/sessions", None),
        ("PATCH", "/api/v1/users/me", {"name": "x"}),
        ("POST", "/api/v1/teams", {"name": "x"}),
        ("POST", f"/api/v1/teams/{ana.team_id}/leave", None),
        ("DELETE", f"/api/v1/teams/{ana.team_id}", None),
    )
    for method, path, body in attempts:
        answer = await api.http.request(method, path, headers=bearing(token), json=body)
        refused(answer, 403, "session-required")
    line = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    body = {"name": "way in", "public_key": line}
    own = await api.http.post("/api/v1/ssh-keys", headers=ana.headers, json={**body, "name": "own"})
    everything = await make(api, ana)
    for program in (token, everything):
        asked = await api.http.post("/api/v1/ssh-keys", headers=bearing(program), json=body)
        refused(asked, 403, "session-required")
        gone = await api.http.delete(f"/api/v1/ssh-keys/{own.json()['id']}", headers=bearing(program))
        refused(gone, 403, "session-required")
    listed = (await api.http.get("/api/v1/ssh-keys", headers=bearing(everything))).json()
    assert [key["name"] for key in listed["ssh_keys"]] == ["own"]
    assert (await api.http.get(ME, headers=ana.headers)).status_code == 200


async def test_nobody_gives_a_role_that_holds_more_than_he_does(api: Api, sql: Rows) -> None:
    ana, bob = await api.person("ana@example.com"), await api.person("bob@example.com")
    members = f"/api/v1/teams/{ana.team_id}/members"
    viewing = ["gpu.view", "cost.view_own", "ledger.view"]
    inviter = await make(api, ana, scopes=["team.invite", *viewing])
    bare = await make(api, ana, scopes=["team.invite"])
    for token, role in ((inviter, "admin"), (inviter, "developer"), (bare, "viewer")):
        body = {"email": "bob@example.com", "role": role}
        refused(await api.http.post(members, headers=bearing(token), json=body), 403, "forbidden")
    assert sql("SELECT count(*) FROM membership WHERE user_id = %s", bob.user_id) == [(1,)]
    body = {"email": "bob@example.com", "role": "viewer"}
    assert (await api.http.post(members, headers=bearing(inviter), json=body)).status_code == 201
    manager = await make(api, ana, scopes=["team.manage", *viewing])
    where = f"{members}/{bob.user_id}/role"
    asked = await api.http.put(where, headers=bearing(manager), json={"role": "admin"})
    refused(asked, 403, "forbidden")
    assert asked.json()["permission"] not in ("team.manage", *viewing)
    assert (await api.http.put(where, headers=bearing(manager), json={"role": "viewer"})).status_code == 200
    assert sql("SELECT role FROM membership WHERE team_id = %s AND user_id = %s", ana.team_id, bob.user_id) == [
        ("viewer",)
    ]
    assert (await api.http.put(where, headers=ana.headers, json={"role": "admin"})).json()["role"] == "admin"


async def test_a_token_is_for_one_team(api: Api) -> None:
    ana = await api.person()
    token = await make(api, ana)
    second = (await api.http.post("/api/v1/teams", headers=ana.headers, json={"name": "Second"})).json()["id"]
    there = {**ana.headers, "X-Team-Id": second}
    assert (await api.http.get(ME, headers=there)).status_code == 200
    refused(await api.http.get(ME, headers={**bearing(token), "X-Team-Id": second}), 404, "team-not-found")
    refused(await api.http.get(f"/api/v1/teams/{second}", headers=bearing(token)), 404, "team-not-found")
    assert (await api.http.get(TOKENS, headers=there)).json()["count"] == 0


async def test_it_ends_with_revocation_time_account_and_membership(api: Api, sql: Rows) -> None:
    ana = await api.person()
    first = await make(api, ana)
    assert (await api.http.delete(f"{TOKENS}/{first['id']}", headers=ana.headers)).json() == {"success": True}
    refused(await api.http.get(ME, headers=bearing(first)), 401, "revoked-token")
    refused(await api.http.delete(f"{TOKENS}/{first['id']}", headers=ana.headers), 404, "token-not-found")
    dated = await make(api, ana, expires_in_days=1)
    assert dated["expires_at"]
    sql("UPDATE api_token SET expires_at = clock_timestamp() - interval '1 second' WHERE id = %s", dated["id"])
    refused(await api.http.get(ME, headers=bearing(dated)), 401, "expired-token")
    third = await make(api, ana)
    sql("DELETE FROM membership WHERE user_id = %s", ana.user_id)
    refused(await api.http.get(ME, headers=bearing(third)), 401, "revoked-token")
    refused(await api.http.get(ME, headers={"Authorization": "Bearer dmt_" + "x" * 43}), 401, "invalid-token")
    for days in (0, 3651):
        bob = await api.person()
        answer = await api.http.post(TOKENS, headers=bob.headers, json={"name": "x", "expires_in_days": days})
        refused(answer, 422, "invalid-request")


@pytest.mark.checklist("AUTH-14")
async def test_tokens_of_others_are_seen_and_ended_only_by_admins_of_the_team(api: Api, sql: Rows) -> None:
    ana, bob, eve = await api.person(), await api.person(), await api.person()
    sql("UPDATE user_account SET current_team_id = %s WHERE id = %s", ana.team_id, bob.user_id)
    sql(
        "INSERT INTO membership (team_id, user_id, role, created_at) VALUES (%s, %s, 'viewer', clock_timestamp())",
        ana.team_id,
        bob.user_id,
    )
    boss, guest = await make(api, ana), {**bob.headers, "X-Team-Id": ana.team_id}
    his = (await api.http.post(TOKENS, headers=guest, json={"name": "his"})).json()
    assert [one["id"] for one in (await api.http.get(TOKENS, headers=guest)).json()["tokens"]] == [his["id"]]
    seen = (await api.http.get(f"{TOKENS}?sort=name", headers=ana.headers)).json()["tokens"]
    assert [one["id"] for one in seen] == [boss["id"], his["id"]]
    for who in (guest, eve.headers):
        refused(await api.http.delete(f"{TOKENS}/{boss['id']}", headers=who), 404, "token-not-found")
    assert (await api.http.get(ME, headers=bearing(boss))).status_code == 200
    assert (await api.http.delete(f"{TOKENS}/{his['id']}", headers=ana.headers)).status_code == 200
    refused(await api.http.get(ME, headers=bearing(his)), 401, "revoked-token")
    assert (await api.http.delete(f"{TOKENS}/{boss['id']}", headers=bearing(boss))).status_code == 200
