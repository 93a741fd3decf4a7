"""Manners: what every request gets, right or wrong."""

import json

import httpx
import psycopg
import pytest
from tests.http.notes import NoteDocument, titles
from tests.support.api import PASSWORD, SECRET, Api

from dumont.db import Database, DatabaseUrls, psycopg_url
from dumont.http import AccessNotDeclared, CallerDep, Router, create_app, permit, public

pytestmark = pytest.mark.requires_postgres
NOTES = "/api/v1/notes"


def assert_problem(answer: httpx.Response, status: int, code: str, act: str = "fix") -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (answer.status_code, told["status"], told["code"], told["act"]) == (status, status, code, act), answer.text
    assert told["type"] == f"/problems/{code}" and told["instance"] == answer.headers["x-request-id"]
    assert isinstance(told["detail"], str) and told["detail"].endswith(".")


async def test_unknown_paths_and_methods(api: Api) -> None:
    ana = await api.person()
    assert_problem(await api.http.get("/api/v1/nothing"), 404, "route-not-found")
    assert_problem(await api.http.get("/"), 404, "route-not-found")
    wrong = await api.http.patch(NOTES, headers=ana.headers, content=b"{broken")
    assert_problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "GET, POST"


async def test_a_trailing_slash_is_the_same_resource(api: Api) -> None:
    ana = await api.person()
    answer = await api.http.post(f"{NOTES}/", headers=ana.headers, json={"title": "slash"})
    assert answer.status_code == 201 and not answer.history
    assert (await api.http.get(f"{NOTES}/{answer.json()['id']}/", headers=ana.headers)).status_code == 200


async def test_fixed_segments_win_over_parameters(api: Api) -> None:
    assert (await api.http.get(f"{NOTES}/open")).json() == {"count": 1}


async def test_request_ids_are_kept_or_made(api: Api) -> None:
    kept = await api.http.get("/health", headers={"X-Request-Id": "mine-12345"})
    assert kept.headers["x-request-id"] == "mine-12345"
    for bad in ("short", "x" * 129, "with space 1", "semi;colon;1"):
        made = await api.http.get("/health", headers={"X-Request-Id": bad})
        assert made.headers["x-request-id"].startswith("req_")


async def test_the_form_of_bodies(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    as_json = {**ana.headers, "Content-Type": "application/json"}

    async def post(content: bytes, headers: dict[str, str] = as_json) -> httpx.Response:
        return await api.http.post(NOTES, content=content, headers=headers)

    broken = [
        b"{",
        b'{"title": NaN}',
        b'\xff\xfe{"title"',
        b"[" * 100_000,
        b'{"rank": ' + b"9" * 5000 + b"}",
        b"{'a':1}",
    ]
    for content in broken:
        assert_problem(await post(content), 400, "malformed-json")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
        assert_problem(
            await post(b'{"title": "abc"}', {**ana.headers, "Content-Type": kind}), 415, "unsupported-media-type"
        )
    assert_problem(await post(b'{"title": "abc"}', ana.headers), 415, "unsupported-media-type")
    assert_problem(await post(b'{"title": "' + b"a" * (1024 * 1024) + b'"}'), 413, "body-too-large")
    for text in (b'{"title": "a\\u0000b"}', b'{"title": "a\\ud800b"}'):
        answer = await post(text)
        assert_problem(answer, 422, "invalid-request")
        assert answer.json()["errors"][0]["pointer"] == "/title"
    assert_problem(await post(b""), 422, "invalid-request")
    assert titles(database_urls) == []
    assert (await post('{"title": "çãé 🚀"}'.encode())).status_code == 201
    assert titles(database_urls) == ["çãé 🚀"]


async def test_a_body_without_length_is_limited_too(api: Api) -> None:
    ana = await api.person()
    sent = 0

    async def endless():  # type: ignore[no-untyped-def]
        nonlocal sent
        while True:
            sent += 65536
            yield b"a" * 65536

    answer = await api.http.post(NOTES, content=endless(), headers=ana.headers)
    assert_problem(answer, 413, "body-too-large")
    assert sent <= 1024 * 1024 + 2 * 65536


async def test_wrong_fields_are_named_and_never_repeated(api: Api) -> None:
    ana = await api.person()
    body = {"title": "Z", "rank": "SECRETVALUE", "labels": {"a/b~c": "SECRETTOO"}}
    answer = await api.http.post(NOTES, headers=ana.headers, json=body)
    assert_problem(answer, 422, "invalid-request")
    errors = {error["pointer"]: (error["code"], error["detail"]) for error in answer.json()["errors"]}
    assert errors == {
        "/title": ("too-short", "At least 2 characters."),
        "/rank": ("int-parsing", "Must be a whole number."),
        "/labels/a~1b~0c": ("int-parsing", "Must be a whole number."),
    }
    assert "SECRET" not in answer.text and "Z" not in answer.json()["detail"]
    query = await api.http.get(f"{NOTES}/open?count=SECRETVALUE")
    assert_problem(query, 422, "invalid-request")
    assert query.json()["errors"][0]["pointer"] == "/query/count" and "SECRET" not in query.text


async def test_text_that_no_database_takes_is_refused_wherever_it_stands(api: Api) -> None:
    ana = await api.person()
    assert_problem(await api.http.get(f"{NOTES}/%00", headers=ana.headers), 404, "route-not-found")
    assert_problem(await api.http.get(f"{NOTES}?sort=%00", headers=ana.headers), 422, "invalid-request")
    assert_problem(await api.http.get(f"{NOTES}/%ff%fe", headers=ana.headers), 404, "note-not-found")
    name = {"email": "a@b.example", "password": PASSWORD, "name": "two\nlines"}
    refused = await api.http.post("/api/v1/auth/register", json=name)
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/name"]


@pytest.mark.checklist("AUTH-15")
async def test_checks_come_in_their_order(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    assert_problem(await api.http.post(NOTES, content=b"{broken"), 401, "missing-token")
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("UPDATE membership SET role = 'viewer'")
    assert_problem(await api.http.post(NOTES, headers=ana.headers, json={"title": "x"}), 422, "invalid-request")
    forbidden = await api.http.post(NOTES, headers=ana.headers, json={"title": "fine"})
    assert_problem(forbidden, 403, "forbidden")
    assert forbidden.json()["permission"] == "gpu.provision" and titles(database_urls) == []
    assert (await api.http.get(NOTES, headers=ana.headers)).status_code == 200


@pytest.mark.checklist("AUTH-14")
async def test_another_teams_row_does_not_exist(api: Api) -> None:
    ana, bob = await api.person(), await api.person()
    note = (await api.http.post(NOTES, headers=ana.headers, json={"title": "mine"})).json()
    assert (await api.http.get(f"{NOTES}/{note['id']}", headers=ana.headers)).json() == note
    assert_problem(await api.http.get(f"{NOTES}/{note['id']}", headers=bob.headers), 404, "note-not-found")
    assert (await api.http.get(NOTES, headers=bob.headers)).json()["notes"] == []


async def test_an_unforeseen_error_tells_only_the_request_id(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    answer = await api.http.post(f"{NOTES}/broken", headers=ana.headers, json={"title": "lost"})
    assert_problem(answer, 500, "internal", "report")
    told = answer.text.replace(answer.headers["x-request-id"], "")
    assert "42" not in told and "ZeroDivision" not in told
    assert answer.headers["x-request-id"] in answer.json()["detail"] and titles(database_urls) == []


async def test_the_row_is_visible_to_others_when_the_answer_begins(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    seen: list[list[str]] = []

    async def watched(scope, receive, send):  # type: ignore[no-untyped-def]
        async def look(message):  # type: ignore[no-untyped-def]
            if message["type"] == "http.response.start":
                seen.append(titles(database_urls))
            await send(message)

        await api.app(scope, receive, look)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(watched), base_url="http://api") as client:
        assert (await client.post(NOTES, headers=ana.headers, json={"title": "early"})).status_code == 201
    assert seen == [["early"]]


async def test_a_commit_that_fails_is_no_success(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    assert (await api.http.post(NOTES, headers=ana.headers, json={"title": "same"})).status_code == 201
    assert_problem(await api.http.post(NOTES, headers=ana.headers, json={"title": "same"}), 500, "internal", "report")
    assert titles(database_urls) == ["same"]


async def test_without_a_database_everybody_is_told_to_wait() -> None:
    class Nobody:
        permissions = frozenset({"gpu.view"})

        def may_be_good(self, bearer_token: str) -> bool:
            return True

        async def enter(self, session, bearer_token, team_id):  # type: ignore[no-untyped-def]
            await session.connection()

    router = Router(prefix="/x")

    @router.get("", **permit("gpu.view"))
    async def show(caller: CallerDep) -> NoteDocument:
        raise AssertionError("nobody comes this far")

    database = Database("postgresql+psycopg://nobody:x@127.0.0.1:1/none")
    app = create_app(database=database, authenticator=Nobody(), secret=SECRET, routers=[router])  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        for path in ("/health", "/x"):
            answer = await client.get(path, headers={"Authorization": "Bearer abc"})
            assert_problem(answer, 503, "database-unavailable", "wait")
            assert int(answer.headers["retry-after"]) >= 1
    await database.close()


async def test_connections_that_the_server_cut_are_replaced(api: Api, database_urls: DatabaseUrls) -> None:
    ana = await api.person()
    with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'test-api'"
        )
    assert (await api.http.get("/health")).json() == {"status": "ok", "database": "ok"}
    assert (await api.http.get(NOTES, headers=ana.headers)).status_code == 200


async def test_a_route_that_does_not_say_who_may_call_it_does_not_exist(api: Api) -> None:
    router = Router(prefix="/forgotten")
    with pytest.raises(AccessNotDeclared):

        @router.get("")
        async def forgotten() -> None: ...

    with pytest.raises(TypeError, match="no caller"):

        @router.get("/open", **public())
        async def open_to_all(caller: CallerDep) -> None: ...

    unknown = Router(prefix="/typo")

    @unknown.get("", **permit("gpu.wiev"))
    async def misspelt() -> None: ...

    with pytest.raises(ValueError, match="no role can hold"):
        create_app(database=api.database, authenticator=api.identity, secret=SECRET, routers=[unknown])


async def test_problem_pages_and_openapi(api: Api) -> None:
    page = (await api.http.get("/problems/invalid-token")).json()
    assert (page["status"], page["act"]) == (401, "fix") and page["meaning"]
    shown = await api.http.get("/problems/invalid-token", headers={"Accept": "text/html"})
    assert shown.headers["content-type"].startswith("text/html") and page["title"] in shown.text
    assert_problem(await api.http.get("/problems/no-such"), 404, "route-not-found")
    document = (await api.http.get("/openapi.json")).json()
    add = document["paths"][NOTES]["post"]
    assert add["x-access"]["permission"] == "gpu.provision" and add["security"] == [{"bearer": []}]
    assert {"201", "401", "403", "422", "default"} <= set(add["responses"])
    assert add["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].endswith("NoteDocument")
    assert document["paths"]["/api/v1/auth/login"]["post"]["security"] == []
    assert "HTTPValidationError" not in json.dumps(document)
