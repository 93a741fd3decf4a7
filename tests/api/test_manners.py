"""Manners of every route: the order of checks, lists that sort and turn pages, streams, health."""

import asyncio
import re
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from tests.support.api import Person
from tests.support.whole_api import Furnished, Op, WholeApi, furnish

from dumont.core import new_id
from dumont.db import Database, psycopg_url, set_team
from dumont.durable import Operation, announce, get_operation

pytestmark = pytest.mark.requires_postgres

ORDER = [
    ("path", 404, "route-not-found"),
    ("method", 405, "method-not-allowed"),
    ("token", 401, "missing-token"),
    ("size", 413, "body-too-large"),
    ("media", 415, "unsupported-media-type"),
    ("json", 400, "malformed-json"),
    ("field", 422, "invalid-request"),
    ("permission", 403, "forbidden"),
    ("existence", 404, "instance-not-found"),
    ("state", 409, "wrong-state"),
]
"""Section 1.3 of the contract, as far as one route can show it."""


@pytest.fixture
async def team(api: WholeApi) -> Furnished:
    return await furnish(api)


@pytest.mark.parametrize("first", range(len(ORDER)), ids=[name for name, _, _ in ORDER])
async def test_a_request_that_breaks_several_rules_gets_the_first(api: WholeApi, team: Furnished, first: int) -> None:
    """Each case breaks one rule and all that come after it."""
    wrong = {name for name, _, _ in ORDER[first:]}
    person = await api.member(team.person.team_id, "viewer") if "permission" in wrong else team.person
    instance = new_id("ins") if "existence" in wrong else team.instance_id
    headers = {} if "token" in wrong else dict(person.headers)
    headers["content-type"] = "text/plain" if "media" in wrong else "application/json"
    answer = await api.http.request(
        "PATCH" if "method" in wrong else "POST",
        f"/api/v1/instances/{instance}/hibernat{'ing' if 'path' in wrong else 'e'}",
        headers=headers,
        content=body_with(wrong),
    )
    assert (answer.status_code, answer.json()["code"]) == ORDER[first][1:]


def body_with(wrong: set[str]) -> bytes:
    body = b'{"then": "sell"}' if "field" in wrong else b'{"then": "keep"}'
    if "json" in wrong:
        body = body[:-1]
    return body + b" " * (1024 * 1024) if "size" in wrong else body


def lists(api: WholeApi) -> list[Op]:
    """Return every operation that turns pages."""
    found = []
    for op in api.operations():
        names = {one["name"] for one in op.described.get("parameters", ())}
        if op.method == "GET" and {"limit", "cursor"} <= names and not op.path_parameters:
            found.append(op)
    assert {"/api/v1/instances", "/api/v1/operations", "/api/v1/snapshots"} <= {op.path for op in found}
    return found


async def page(api: WholeApi, op: Op, person: Person, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    answer = await api.http.get(op.path, params=query, headers=person.headers)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    rows: list[dict[str, Any]] = document[op.path.rpartition("/")[2].replace("-", "_")]
    assert document["count"] == len(rows) and len(rows) <= query.get("limit", 50)
    return rows, document["next_cursor"]


async def walk(api: WholeApi, op: Op, person: Person, **query: Any) -> list[dict[str, Any]]:
    """Read at most twelve pages of one row, while a row is added after each of the first two."""
    rows, cursor = await page(api, op, person, limit=1, **query)
    while cursor is not None and len(rows) < 12:
        if len(rows) < 3:
            await api.launch(person)
        more, cursor = await page(api, op, person, limit=1, cursor=cursor, **query)
        rows += more
    return rows


async def test_turning_pages_neither_repeats_nor_loses_a_row(api: WholeApi, team: Furnished) -> None:
    for op in lists(api):
        before = [row["id"] for row in (await page(api, op, team.person))[0]]
        seen = [row["id"] for row in await walk(api, op, team.person)]
        assert len(seen) == len(set(seen)), op.path
        assert set(before[:12] if "offers" in op.path else before) <= set(seen), op.path


async def test_every_order_that_a_list_names_is_an_order(api: WholeApi, team: Furnished) -> None:
    for op in lists(api):
        refused = await api.http.get(op.path, params={"sort": "nonsense"}, headers=team.person.headers)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/query/sort"), op.path
        names = set(
            re.findall(r"[a-z_]{2,}", refused.json()["errors"][0]["detail"].partition(":")[2].partition(";")[0])
        )
        for name in names or {"price_hour"}:
            up, _ = await page(api, op, team.person, sort=name)
            down, _ = await page(api, op, team.person, sort=f"-{name}")
            assert [value(row, name) for row in up] == sorted(value(row, name) for row in up), (op.path, name)
            assert [value(row, name) for row in down] == sorted((value(row, name) for row in down), reverse=True)


def value(row: dict[str, Any], name: str) -> Any:
    found = row[name]
    return Decimal(found["amount"]) if isinstance(found, dict) else found


async def test_lists_filter(api: WholeApi, team: Furnished) -> None:
    async def ids(path: str, **query: Any) -> list[str]:
        answer = await api.http.get(path, params=query, headers=team.person.headers)
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()[path.rpartition("/")[2]]]

    instances, operations, snapshots = "/api/v1/instances", "/api/v1/operations", "/api/v1/snapshots"
    assert await ids(instances, label=f"{team.word} one") == [team.instance_id]
    assert len(await ids(instances, status="creating,running")) == 2 and await ids(instances, status="failed") == []
    await api.write("UPDATE instance SET status = 'destroyed' WHERE id = %s", team.instance_id)
    assert team.instance_id not in await ids(instances)
    assert team.instance_id in await ids(instances, include_destroyed=True)
    assert await ids(instances, status="destroyed") == [team.instance_id]
    assert len(await ids(operations, instance_id=team.instance_id)) == 1
    assert len(await ids(operations, status="queued", kind="launch")) == 2 or await ids(operations, status="queued")
    assert await ids(operations, status="succeeded") == [] == await ids(operations, kind="none")
    assert len(await ids(snapshots, instance_id=team.instance_id)) == 1
    assert await ids(snapshots, instance_id=new_id("ins")) == []
    dear = await ids("/api/v1/offers", max_price=0.3, num_gpus=1)
    assert (dear and len(dear) < len(await ids("/api/v1/offers", num_gpus=1))) or len(dear) == 50


async def test_an_operation_is_followed_live_and_again_from_where_one_was(api: WholeApi, team: Furnished) -> None:
    """The worker's news reach an open stream; Last-Event-ID leaves out what was seen."""
    found = await api.rows("SELECT id FROM operation WHERE instance_id = %s", team.instance_id)
    path = f"/api/v1/operations/{found[0][0]}/events"
    headers = {**team.person.headers, "accept": "text/event-stream"}
    following = asyncio.create_task(api.http.get(path, headers=headers))
    await asyncio.sleep(0)
    await work(api, team, found[0][0])
    answer = await asyncio.wait_for(following, 60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = re.findall(r"id: (\d+)\nevent: (\w+)\ndata: ", answer.text)
    assert [name for _, name in events] == ["step", "step", "done"]
    again = await api.http.get(path, headers={**headers, "last-event-id": events[0][0]})
    assert re.findall(r"id: (\d+)\nevent: (\w+)\ndata: ", again.text) == events[1:]
    plain = (await api.http.get(path, headers=team.person.headers)).json()
    steps = ["operation.step", "operation.step"]
    assert [event["type"] for event in plain["events"]] == ["operation.queued", *steps, "operation.finished"]


async def work(api: WholeApi, team: Furnished, operation_id: str) -> None:
    """Do what a worker writes: two steps, each with its news, then the end."""
    worker = Database(api.urls.worker, pool_size=1)
    for number in (1, 2):
        async with worker.begin() as session:
            operation = await _operation(session, team, operation_id)
            await announce(
                session, operation, "operation.step", {"step": {"name": f"step {number}"}, "percent": number}
            )
    async with worker.begin() as session:
        operation = await _operation(session, team, operation_id)
        operation.status = "succeeded"
        operation.finished_at = operation.created_at
        await announce(session, operation, "operation.finished", {"status": "succeeded"})
    await worker.close()


async def _operation(session: Any, team: Furnished, operation_id: str) -> Operation:
    await set_team(session, team.person.team_id)
    found = await get_operation(session, operation_id)
    assert found is not None
    return found


async def test_health_says_503_while_the_database_is_away(api: WholeApi, postgres_server: str) -> None:
    assert (await api.http.get("/health")).json() == {"status": "ok", "database": "ok"}
    with psycopg.connect(psycopg_url(api.urls.owner)) as connection:
        name = connection.info.dbname
    with psycopg.connect(psycopg_url(postgres_server), autocommit=True) as administration:
        try:
            administration.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            administration.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            away = await api.http.get("/health")
        finally:
            administration.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    assert away.status_code == 503 and away.headers["content-type"] == "application/problem+json"
    assert away.json()["code"] == "database-unavailable" and int(away.headers["retry-after"]) >= 1
    assert (await api.http.get("/health")).status_code == 200
