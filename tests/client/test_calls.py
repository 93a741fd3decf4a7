"""Calls over the wire: what is asked, what is asked again, and what comes of bad answers."""

import socket
import time
from decimal import Decimal

import pytest
from tests.client.server import PASSWORD, Api, Refusal

from dumont.client import ApiProblem, ApiUnreachable, ApiUnreadable, Client, Instance, Operation, read
from dumont.core import Act


def test_a_post_whose_answer_was_lost_is_asked_again_with_its_key_and_done_once(api: Api, client: Client) -> None:
    offer = api.add_offer("0.35")
    api.faults = [("POST", "/api/v1/instances", "drop-after")]

    instance = client.create_instance(offer, label="one")

    asked = api.asked("POST", "/api/v1/instances")
    assert len(asked) == 2
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert list(api.instances) == [instance.id]


def test_a_delete_whose_connection_broke_is_asked_again_with_its_key(api: Api, client: Client) -> None:
    number = api.add_instance()
    api.faults = [("DELETE", ".*", "drop-before"), ("DELETE", ".*", "drop-after")]

    client.destroy_instance(number)

    asked = api.asked("DELETE", ".*")
    assert len(asked) == 3
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len(api.work) == 1


def test_two_calls_never_share_a_key(api: Api, client: Client) -> None:
    offer = api.add_offer("0.35")
    client.create_instance(offer)
    client.create_instance(offer)
    keys = {request.headers["idempotency-key"] for request in api.asked("POST", "/api/v1/instances")}
    assert len(keys) == 2
    assert len(api.instances) == 2


def test_an_answer_that_the_first_try_still_runs_is_waited_for(api: Api, client: Client) -> None:
    offer = api.add_offer("0.35")
    busy = Refusal(409, "idempotency-in-progress", "fix", "The first request still runs.", {"Retry-After": "1"})
    api.faults = [("POST", "/api/v1/instances", busy)]
    assert client.create_instance(offer).status == "creating"
    assert len(api.asked("POST", "/api/v1/instances")) == 2


def test_retries_end_and_tell_that_it_may_have_been_done(api: Api) -> None:
    api.tokens.add("t")
    offer = api.add_offer("0.35")
    api.faults = [("POST", "/api/v1/instances", "drop-after")] * 100
    began = time.monotonic()
    with pytest.raises(ApiUnreachable) as told:
        Client(api.url, "t", patience=0.5).create_instance(offer)
    assert time.monotonic() - began < 30
    assert told.value.perhaps_done
    assert len(api.instances) == 1


def test_where_nothing_listens_it_is_told_at_once() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ApiUnreachable) as told:
            Client(f"http://127.0.0.1:{port}", "t", patience=600).create_instance("off_1")
    assert time.monotonic() - began < 60
    assert not told.value.perhaps_done


def test_login_has_no_key_and_is_not_repeated(api: Api, client: Client) -> None:
    api.faults = [("POST", ".*/login", "drop-before")]
    with pytest.raises(ApiUnreachable):
        client.login("ana@x.org", PASSWORD)
    assert len(api.asked("POST", ".*/login")) == 1
    session = client.login("ana@x.org", PASSWORD)
    assert session.access_token in api.tokens
    assert "idempotency-key" not in api.asked("POST", ".*/login")[-1].headers


def test_a_user_name_is_sent_as_such(api: Api, client: Client) -> None:
    client.login("ana", PASSWORD)
    assert api.asked("POST", ".*/login")[-1].body == {"username": "ana", "password": PASSWORD}


def test_a_problem_carries_what_to_do(api: Api, client: Client) -> None:
    needed = {"amount": "2.000000", "currency": "USD"}
    poor = Refusal(402, "insufficient-funds", "pay", "The wallet is too low.", {"Retry-After": "7"}, needed=needed)
    api.faults = [("GET", "/api/v1/auth/me", poor)]
    with pytest.raises(ApiProblem) as told:
        client.me()
    problem = told.value
    assert (problem.code, problem.act, problem.status) == ("insufficient-funds", Act.PAY, 402)
    assert problem.detail == "The wallet is too low."
    assert problem.extra == {"needed": needed}
    assert problem.retry_after == 7


@pytest.mark.parametrize(("status", "act"), [(502, Act.WAIT), (500, Act.REPORT), (418, Act.FIX), (402, Act.PAY)])
def test_a_refusal_that_says_nothing_is_read_by_its_status(api: Api, client: Client, status: int, act: Act) -> None:
    refusal = Refusal(status, "x", "y", "z")
    refusal.document = {"detail": ["no", "text"]}
    api.faults = [("GET", "/api/v1/auth/me", refusal)]
    with pytest.raises(ApiProblem) as told:
        client.me()
    assert (told.value.act, told.value.code) == (act, f"http-{status}")
    assert str(status) in told.value.detail


def test_an_answer_that_is_no_json_is_told_as_such(api: Api, client: Client) -> None:
    api.faults = [("GET", "/api/v1/auth/me", b"<html>hello</html>")]
    with pytest.raises(ApiUnreadable, match="JSON"):
        client.me()


def test_a_refused_token_is_renewed_once(api: Api) -> None:
    asked: list[str] = []

    def renew() -> str:
        asked.append("x")
        api.tokens.add("fresh")
        return "fresh"

    client = Client(api.url, "stale", renew=renew)
    assert client.me()["team"] == {"name": "Ana"}
    assert len(asked) == 1
    assert client.me()["team"] == {"name": "Ana"}
    assert len(asked) == 1


def test_a_token_that_cannot_be_renewed_ends_in_401(api: Api) -> None:
    with pytest.raises(ApiProblem) as told:
        Client(api.url, "stale", renew=lambda: "also stale").me()
    assert told.value.status == 401
    assert len(api.asked("GET", "/api/v1/auth/me")) == 2


def test_all_pages_of_offers_are_read_once(api: Api, client: Client) -> None:
    made = [api.add_offer(f"{0.1 + n / 100:.2f}") for n in range(23)]
    found = [offer.id for offer in client.iter_offers(limit=10, gpu_name="RTX 4090", verified_only=True)]
    assert found == made
    asked = api.asked("GET", "/api/v1/instances/offers")
    assert [request.query.get("cursor") for request in asked] == [None, "10", "20"]
    assert all(request.query["verified_only"] == "true" for request in asked)


def test_unknown_fields_are_kept_and_missing_or_odd_ones_are_unknown() -> None:
    raw = {
        "id": "ins_1",
        "num_gpus": "two",
        "disk_size_gb": 20,
        "cpu_cores": 16.0,
        "gpu_memory_mib": 0.5,
        "price_hour": {"amount": "0.350789", "currency": "USD"},
        "cost_to_date": {"amount": "NaN", "currency": "USD"},
        "created_at": "2026-07-01T10:00:00Z",
        "started_at": "yesterday",
        "new_field": [1],
    }
    instance = read(Instance, raw)
    assert instance.raw["new_field"] == [1]
    assert (instance.num_gpus, instance.status, instance.started_at, instance.cost_to_date) == (None,) * 4
    assert (instance.disk_size_gb, instance.cpu_cores, instance.gpu_memory_mib) == (20.0, 16, None)
    assert instance.price_hour is not None and instance.price_hour.amount == Decimal("0.350789")
    assert instance.created_at is not None and instance.created_at.utcoffset() is not None


def test_a_document_without_its_id_is_refused() -> None:
    with pytest.raises(ApiUnreadable, match="without id"):
        read(Operation, {"status": "running"})


@pytest.mark.parametrize("url", ["ftp://x", "http://", "://", "mailto:x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        Client(url)
