"""Idempotency-Key and the life of a request's transaction."""

import asyncio
from datetime import datetime, timedelta, timezone

import httpx
import psycopg
import pytest
from tests.http.notes import Gate, titles
from tests.support.api import Api, Person

from dumont.db import Database, DatabaseUrls, psycopg_url, set_sweep
from dumont.http import forget_keys

pytestmark = pytest.mark.requires_postgres
NOTES = "/api/v1/notes"


async def post(api: Api, who: Person, key: str, body: object, path: str = NOTES) -> httpx.Response:
    return await api.http.post(path, headers={**who.headers, "Idempotency-Key": key}, json=body)


def stored(urls: DatabaseUrls) -> int:
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        row = connection.execute("SELECT count(*) FROM idempotency_key").fetchone()
    return int(row[0]) if row else -1


async def test_the_second_time_gets_the_first_answer_and_does_nothing(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    first = await post(api, ana, "k-1", {"title": "once", "rank": 3})
    again = await post(api, ana, "k-1", {"rank": 3, "title": "once"}, NOTES + "/")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content and again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert titles(database_urls) == ["once"]


async def test_another_body_or_query_under_the_key_is_refused(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    await post(api, ana, "k-1", {"title": "once"})
    for path, body in ((NOTES, {"title": "twice"}), (f"{NOTES}?dry=1", {"title": "once"})):
        answer = await post(api, ana, "k-1", body, path)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    assert titles(database_urls) == ["once"]


async def test_a_key_belongs_to_its_caller_and_path(api: Api, database_urls: DatabaseUrls) -> None:
    ana, bob = await api.person(), await api.person()
    for who, title in ((ana, "hers"), (bob, "his")):
        answer = await post(api, who, "k-1", {"title": title})
        assert answer.status_code == 201 and "idempotency-replayed" not in answer.headers
    assert titles(database_urls) == ["hers", "his"] and stored(database_urls) == 2


async def test_a_failed_attempt_frees_its_key(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    assert (await post(api, ana, "k-1", {"title": "x"})).status_code == 422
    assert (await post(api, ana, "k-1", {"title": "boom"}, f"{NOTES}/broken")).status_code == 500
    assert stored(database_urls) == 0
    assert (await post(api, ana, "k-1", {"title": "now right"})).status_code == 201
    assert titles(database_urls) == ["now right"]


async def test_a_replay_needs_the_permission_of_this_moment(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    assert (await post(api, ana, "k-1", {"title": "once"})).status_code == 201
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("UPDATE membership SET role = 'viewer'")
    answer = await post(api, ana, "k-1", {"title": "once"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_while_the_first_runs_the_second_is_told_to_wait(
    api: Api, database_urls: DatabaseUrls, gate: Gate
) -> None:
    ana = await api.person()
    first = asyncio.create_task(post(api, ana, "k-1", {"title": "slow"}, f"{NOTES}/slow"))
    await asyncio.wait_for(gate.entered.wait(), 60)
    second = await asyncio.wait_for(post(api, ana, "k-1", {"title": "slow"}, f"{NOTES}/slow"), 60)
    assert (second.status_code, second.json()["code"]) == (409, "idempotency-in-progress")
    assert second.headers["retry-after"] == "1"
    gate.opened.set()
    assert (await first).status_code == 201
    third = await post(api, ana, "k-1", {"title": "slow"}, f"{NOTES}/slow")
    assert third.content == first.result().content and third.headers["idempotency-replayed"] == "true"
    assert titles(database_urls) == ["slow"]


async def test_many_at_once_have_one_effect(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    answers = await asyncio.gather(*(post(api, ana, "k-1", {"title": "race"}) for _ in range(8)))
    assert titles(database_urls) == ["race"]
    assert {answer.status_code for answer in answers} <= {201, 409}
    done = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in done}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in done) == 1


async def test_a_key_of_the_wrong_form_is_refused(api: Api) -> None:
    ana = await api.person()
    for key in ("", "with space", "x" * 256):
        answer = await post(api, ana, key, {"title": "fine"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


async def test_old_keys_are_forgotten_by_the_sweep(api: Api, database_urls: DatabaseUrls) -> None:
    ana, bob = await api.person(), await api.person()
    for who in (ana, bob):
        await post(api, who, "k-1", {"title": "once"})
    worker = Database(database_urls.worker)
    try:
        async with worker.begin() as session:
            await set_sweep(session)
            assert await forget_keys(session, datetime.now(timezone.utc) - timedelta(days=30)) == 0
            assert await forget_keys(session, datetime.now(timezone.utc) + timedelta(days=1)) == 2
    finally:
        await worker.close()
    assert stored(database_urls) == 0


async def test_a_waiting_request_holds_no_connection_and_is_checked_again(
    api: Api, database_urls: DatabaseUrls, gate: Gate
) -> None:
    ana = await api.person()
    waiting = [asyncio.create_task(api.http.get(f"{NOTES}/wait", headers=ana.headers)) for _ in range(8)]
    await asyncio.wait_for(gate.entered.wait(), 60)
    assert (await post(api, ana, "k-1", {"title": "meanwhile"})).status_code == 201
    gate.opened.set()
    for answer in await asyncio.gather(*waiting):
        assert answer.json() == {"titles": ["meanwhile"]}


async def test_whoever_lost_his_session_while_waiting_gets_nothing(api: Api, gate: Gate) -> None:
    ana = await api.person()
    waiting = asyncio.create_task(api.http.get(f"{NOTES}/wait", headers=ana.headers))
    await asyncio.wait_for(gate.entered.wait(), 60)
    assert (await api.http.post("/api/v1/auth/logout", headers=ana.headers)).status_code == 200
    gate.opened.set()
    answer = await waiting
    assert (answer.status_code, answer.json()["code"]) == (401, "revoked-token")


async def test_a_stream_runs_after_the_commit_and_sees_what_came_later(
    api: Api, database_urls: DatabaseUrls, gate: Gate
) -> None:
    ana = await api.person()
    following = [asyncio.create_task(api.http.get(f"{NOTES}/stream", headers=ana.headers)) for _ in range(8)]
    await asyncio.wait_for(gate.entered.wait(), 60)
    assert (await post(api, ana, "k-1", {"title": "news"})).status_code == 201
    gate.opened.set()
    assert [answer.text for answer in await asyncio.gather(*following)] == ["firstnews"] * 8


async def test_a_stream_is_cut_off_when_its_reader_loses_his_right(api: Api, gate: Gate) -> None:
    ana = await api.person()
    following = asyncio.create_task(api.http.get(f"{NOTES}/stream", headers=ana.headers))
    await asyncio.wait_for(gate.entered.wait(), 60)
    assert (await api.http.post("/api/v1/auth/logout", headers=ana.headers)).status_code == 200
    gate.opened.set()
    with pytest.raises(AssertionError):  # the ASGI client of httpx asserts that an answer was completed
        await following


async def test_an_answer_without_a_body_is_replayed_too(api: Api) -> None:
    ana = await api.person()
    first, again = [await post(api, ana, "k-1", {"title": "teapot"}) for _ in range(2)]
    assert (first.status_code, again.status_code) == (204, 204) and again.content == b""
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_request_that_writes_keeps_its_transaction(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    answer = await post(api, ana, "k-1", {"title": "half"}, f"{NOTES}/released")
    assert answer.status_code == 500 and titles(database_urls) == [] and stored(database_urls) == 0
