"""Teams: made, shared, left and closed; there is always an admin and nobody is locked out."""

import asyncio
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from tests.identity.conftest import Rows
from tests.support.api import PASSWORD, Api, Person, running_api

from dumont.core import Settings, new_id
from dumont.db import DatabaseUrls
from dumont.http import problems

pytestmark = pytest.mark.requires_postgres
TEAMS = "/api/v1/teams"
ME = "/api/v1/auth/me"


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def add(api: Api, admin: Person, email: str, role: str, team: str | None = None) -> httpx.Response:
    path = f"{TEAMS}/{team or admin.team_id}/members"
    return await api.http.post(path, headers=admin.headers, json={"email": email, "role": role})


async def role_in(api: Api, who: Person, team: str) -> str | None:
    answer = await api.http.get(ME, headers={**who.headers, "X-Team-Id": team})
    return str(answer.json()["team"]["role"]) if answer.status_code == 200 else None


async def test_a_team_is_made_shown_and_renamed(api: Api) -> None:
    ana, bob = await api.person(), await api.person()
    hooked: list[str] = []

    async def note(session: AsyncSession, team_id: str) -> None:
        hooked.append(team_id)

    api.identity.on_team_created(note)
    made = await api.http.post(TEAMS, headers={**ana.headers, "Idempotency-Key": "t"}, json={"name": "Research"})
    team = made.json()
    assert made.status_code == 201 and team["role"] == "admin" and team["member_count"] == 1
    assert hooked == [team["id"]]
    again = await api.http.post(TEAMS, headers={**ana.headers, "Idempotency-Key": "t"}, json={"name": "Research"})
    assert again.json() == team
    refused(await api.http.post(TEAMS, headers=ana.headers, json={"name": "RESEARCH"}), 409, "name-taken")
    assert (await api.http.post(TEAMS, headers=bob.headers, json={"name": "Research"})).status_code == 201
    listed = (await api.http.get(TEAMS, headers=ana.headers)).json()
    assert [one["id"] for one in listed["teams"]] == [ana.team_id, team["id"]] and listed["count"] == 2
    path = f"{TEAMS}/{team['id']}"
    renamed = await api.http.put(path, headers=ana.headers, json={"name": "Lab"})
    assert renamed.json() == {**team, "name": "Lab"} == (await api.http.get(path, headers=ana.headers)).json()
    for method in ("GET", "PUT", "DELETE"):
        body = {"name": "Mine"} if method == "PUT" else None
        refused(await api.http.request(method, path, headers=bob.headers, json=body), 404, "team-not-found")
    assert (await api.http.get(path, headers=ana.headers)).json()["name"] == "Lab"


@pytest.mark.checklist("AUTH-15")
async def test_members_come_with_a_role_that_an_admin_changes(api: Api) -> None:
    ana, bob = await api.person("ana@example.com"), await api.person("bob@example.com")
    assert await role_in(api, bob, ana.team_id) is None
    added = await add(api, ana, "BOB@example.com", "viewer")
    assert added.status_code == 201 and (added.json()["user_id"], added.json()["role"]) == (bob.user_id, "viewer")
    assert await role_in(api, bob, ana.team_id) == "viewer"
    assert (await add(api, ana, "bob@example.com", "admin")).json()["role"] == "viewer"
    path = f"{TEAMS}/{ana.team_id}/members"
    listed = (await api.http.get(path, headers=bob.headers)).json()
    assert [(one["email"], one["role"]) for one in listed["members"]] == [
        ("ana@example.com", "admin"),
        ("bob@example.com", "viewer"),
    ]
    carol = await api.person("carol@example.com")
    for method, where, body in (
        ("POST", path, {"email": "carol@example.com"}),
        ("PUT", f"{path}/{bob.user_id}/role", {"role": "admin"}),
        ("DELETE", f"{path}/{ana.user_id}", None),
        ("PUT", f"{TEAMS}/{ana.team_id}", {"name": "Bobs"}),
        ("DELETE", f"{TEAMS}/{ana.team_id}", None),
    ):
        refused(await api.http.request(method, where, headers=bob.headers, json=body), 403, "forbidden")
        refused(await api.http.request(method, where, headers=carol.headers, json=body), 404, "team-not-found")
    assert await role_in(api, bob, ana.team_id) == "viewer" and await role_in(api, ana, ana.team_id) == "admin"
    raised = await api.http.put(f"{path}/{bob.user_id}/role", headers=ana.headers, json={"role": "admin"})
    assert raised.json()["role"] == "admin" and await role_in(api, bob, ana.team_id) == "admin"
    odd = await api.http.put(f"{path}/{bob.user_id}/role", headers=ana.headers, json={"role": "owner"})
    refused(odd, 422, "invalid-request")
    nobody = f"{path}/{new_id('usr')}"
    refused(await api.http.put(f"{nobody}/role", headers=ana.headers, json={"role": "viewer"}), 404, "member-not-found")
    refused(await api.http.delete(nobody, headers=ana.headers), 404, "member-not-found")


async def test_a_permission_elsewhere_is_none_here(api: Api) -> None:
    """The header names a team where he is admin, the path one where he only looks."""
    ana, bob = await api.person(), await api.person("bob@example.com")
    await add(api, ana, "bob@example.com", "viewer")
    headers = {**bob.headers, "X-Team-Id": bob.team_id}
    answer = await api.http.put(f"{TEAMS}/{ana.team_id}", headers=headers, json={"name": "Taken over"})
    refused(answer, 403, "forbidden")


async def test_a_team_keeps_an_admin(api: Api, sql: Rows) -> None:
    ana, bob = await api.person(), await api.person("bob@example.com")
    path = f"{TEAMS}/{ana.team_id}"
    own = f"{path}/members/{ana.user_id}"
    for answer in (
        await api.http.post(f"{path}/leave", headers=ana.headers),
        await api.http.delete(own, headers=ana.headers),
        await api.http.put(f"{own}/role", headers=ana.headers, json={"role": "viewer"}),
    ):
        refused(answer, 409, "last-admin")
    await add(api, ana, "bob@example.com", "admin")
    answers = await asyncio.gather(
        api.http.post(f"{path}/leave", headers=ana.headers), api.http.post(f"{path}/leave", headers=bob.headers)
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert sql("SELECT count(*) FROM membership WHERE team_id = %s", ana.team_id) == [(1,)]


async def test_whoever_is_removed_is_out_at_once_and_stays_out(api: Api, sql: Rows) -> None:
    ana = await api.person()
    bob = await api.person("bob@example.com")
    await add(api, ana, "bob@example.com", "developer")
    moved = await api.http.post("/api/v1/users/me/switch-team", headers=bob.headers, json={"team_id": ana.team_id})
    there = Person(moved.json())
    token = (await api.http.post("/api/v1/tokens", headers=there.headers, json={"name": "ci"})).json()["token"]
    program = {"Authorization": f"Bearer {token}"}
    assert (await api.http.get(ME, headers=program)).status_code == 200
    removed = await api.http.delete(f"{TEAMS}/{ana.team_id}/members/{bob.user_id}", headers=ana.headers)
    assert removed.json() == {"success": True}
    for headers in (there.headers, program):
        refused(await api.http.get(ME, headers=headers), 401, "revoked-token")
    await add(api, ana, "bob@example.com", "developer")
    for headers in (there.headers, program):
        refused(await api.http.get(ME, headers=headers), 401, "revoked-token")
    await api.http.delete(f"{TEAMS}/{ana.team_id}/members/{bob.user_id}", headers=ana.headers)
    back = await api.http.post("/api/v1/auth/login", json={"email": "bob@example.com", "password": PASSWORD})
    assert back.json()["team_id"] == bob.team_id


async def test_whoever_is_in_no_team_gets_one_at_the_next_sign_in(api: Api, sql: Rows) -> None:
    bob = await api.person("bob@example.com")
    sql("DELETE FROM membership WHERE user_id = %s", bob.user_id)
    back = await api.http.post("/api/v1/auth/login", json={"email": "bob@example.com", "password": PASSWORD})
    assert back.status_code == 200 and back.json()["role"] == "admin" and back.json()["team_id"] != bob.team_id
    assert await role_in(api, Person(back.json()), back.json()["team_id"]) == "admin"
    assert sql("SELECT current_team_id FROM user_account WHERE id = %s", bob.user_id) == [(back.json()["team_id"],)]


async def test_a_closed_team_lets_nobody_in_and_keeps_its_rows(api: Api, sql: Rows) -> None:
    ana = await api.person("ana@example.com")
    bob = await api.person("bob@example.com")
    await add(api, ana, "bob@example.com", "viewer")
    token = (await api.http.post("/api/v1/tokens", headers=ana.headers, json={"name": "ci"})).json()["token"]
    closed = await api.http.delete(f"{TEAMS}/{ana.team_id}", headers=ana.headers)
    assert closed.json()["success"] is True
    for headers in (ana.headers, {"Authorization": f"Bearer {token}"}):
        refused(await api.http.get(ME, headers=headers), 401, "revoked-token")
    assert await role_in(api, bob, ana.team_id) is None
    assert ana.team_id not in str((await api.http.get(TEAMS, headers=bob.headers)).json())
    assert sql("SELECT count(*), count(closed_at) FROM team WHERE id = %s", ana.team_id) == [(1, 1)]
    back = await api.http.post("/api/v1/auth/login", json={"email": "ana@example.com", "password": PASSWORD})
    assert back.status_code == 200 and back.json()["team_id"] not in (ana.team_id, bob.team_id)


async def test_a_room_above_may_refuse_to_have_a_team_closed(api: Api, sql: Rows) -> None:
    ana = await api.person()

    async def refuse(session: AsyncSession, team_id: str) -> None:
        raise problems.WrongState("in use", ["empty"])

    api.identity.may_close_team(refuse)
    refused(await api.http.delete(f"{TEAMS}/{ana.team_id}", headers=ana.headers), 409, "wrong-state")
    assert sql("SELECT closed_at FROM team WHERE id = %s", ana.team_id) == [(None,)]
    assert (await api.http.get(ME, headers=ana.headers)).status_code == 200


async def test_addresses_without_an_account_are_not_tried_by_the_thousand(database_urls: DatabaseUrls) -> None:
    settings = Settings(home=Path("/nonexistent"), limit_sign_in_failures_address=3)
    async with running_api(database_urls, settings=settings) as api:
        ana = await api.person()
        await api.person("bob@example.com")
        for number in range(3):
            refused(await add(api, ana, f"nobody{number}@example.com", "viewer"), 404, "user-not-found")
            if number == 0:
                assert (await add(api, ana, "bob@example.com", "viewer")).status_code == 201
        refused(await add(api, ana, "bob@example.com", "viewer"), 429, "login-rate-limited")
