"""What the running server answers to strangers, to mistakes and to repetition; and how its news is followed."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from tests.support.product import Product, free_port, product

from dumont.client import Client, Instance
from dumont.identity.tokens import TokenClaims, Tokens

PROTECTED = (
    ("GET", "/auth/me"),
    ("GET", "/instances"),
    ("GET", "/instances/offers"),
    ("GET", "/snapshots"),
    ("GET", "/operations"),
    ("GET", "/ssh-keys"),
    ("POST", "/instances"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with product(tmp_path_factory.mktemp("answers")) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def http(server: Product) -> Iterator[httpx.Client]:
    with server.http(server.sign_in()) as client:
        yield client


@pytest.fixture(scope="module")
def instance(server: Product) -> Instance:
    """A running instance of the first user."""
    return server.launch("mine")


@pytest.mark.checklist("AUTH-05", "AUTH-13")
def test_nothing_is_told_without_a_token_or_with_a_forged_one(server: Product) -> None:
    right = server.sign_in()
    head, body, mark = right.split(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = (
        base64.urlsafe_b64encode(json.dumps({**said, "role": "admin", "sub": "usr_x"}).encode()).decode().rstrip("=")
    )
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    forged = [None, "nonsense", f"{head}.{other}.{mark}", f"{unsigned}.{body}.", _token(server, b"x" * 32, said, 60)]
    for token in forged:
        with server.http(token) as client:
            for method, path in PROTECTED:
                reply = client.request(method, path, json={} if method == "POST" else None)
                assert (reply.status_code, reply.json()["act"]) == (401, "fix"), (token, method, path, reply.text)
    with server.http(right) as client:
        assert client.get("/auth/me").status_code == 200


@pytest.mark.checklist("AUTH-06")
def test_an_expired_token_is_refused(server: Product) -> None:
    """The token is signed with the installation's own key and names a living session; only its time is over."""
    right = server.sign_in()
    said = json.loads(base64.urlsafe_b64decode(right.split(".")[1] + "=="))
    secret = base64.b64decode((server.home / "secret.key").read_bytes())
    for seconds, status in ((60, 200), (-1, 401)):
        with server.http(_token(server, secret, said, seconds)) as client:
            assert client.get("/auth/me").status_code == status


@pytest.mark.checklist("INST-11", "INST-12", "INST-13", "INST-14", "INST-15", "INST-16")
def test_an_instance_from_offer_to_shell(server: Product) -> None:
    offer = next(server.client.iter_offers())
    said = server.cli("launch", offer.id, "--label", "whole", "--no-wait", "--json")
    assert said.code == 0, said
    made = said.document
    assert made["status"] == "creating"
    assert server.ended(made["operation_id"]).status == "succeeded"
    shown = server.client.instance(made["id"])
    assert (shown.status, shown.gpu_name, shown.num_gpus) == ("running", offer.gpu_name, offer.num_gpus)
    assert shown.ssh_host == "127.0.0.1" and shown.ssh_port
    assert made["id"] in {row["id"] for row in server.cli("ps", "--json").document["instances"]}
    assert offer.gpu_name in server.run_on("whole", "nvidia-smi")
    assert [line.running for line in server.bills(made["id"])] == [True]


@pytest.mark.checklist("INST-19")
def test_a_destroyed_instance_is_gone_at_the_marketplace_too(server: Product) -> None:
    found = server.launch("brief")
    first = server.client.destroy_instance(found.id)
    again = server.client.destroy_instance(found.id)
    assert again.operation_id in (first.operation_id, None)
    assert server.ended(first.operation_id).status == "succeeded"
    assert server.bills(found.id) == []
    labels = {machine["label"] for machine in server.client.machines(found.id)}
    assert labels and labels.isdisjoint(machine["label"] for machine in server.control.state()["machines"])
    assert server.client.destroy_instance(found.id).operation_id is None, "a third time changes nothing"
    assert found.id not in {row["id"] for row in server.cli("ps", "--json").document["instances"]}


@pytest.mark.checklist("AUTH-14", "ENV-07", "ENV-08", "VAL-05")
def test_another_team_sees_nothing_and_changes_nothing(server: Product, instance: Instance) -> None:
    operation = next(server.client.iter_operations(instance_id=instance.id))
    stranger = Client(server.url).register("stranger@example.com", "a long enough pass phrase")
    before = server.client.instance(instance.id).raw
    with server.http(stranger.access_token) as client:
        for kind in ("instances", "operations", "snapshots"):
            assert client.get(f"/{kind}").json()["count"] == 0
        attempts = [
            ("GET", f"/instances/{instance.id}"),
            ("GET", f"/instances/{instance.id}/ssh"),
            ("GET", f"/instances/{instance.id}/machines"),
            ("GET", f"/instances/{instance.id}/hibernation"),
            ("POST", f"/instances/{instance.id}/hibernate"),
            ("POST", f"/instances/{instance.id}/wake"),
            ("DELETE", f"/instances/{instance.id}"),
            ("GET", f"/operations/{operation.id}"),
            ("GET", f"/operations/{operation.id}/events"),
            ("POST", f"/operations/{operation.id}/cancel"),
        ]
        for method, path in attempts:
            assert client.request(method, path).status_code == 404, (method, path)
    after = server.client.instance(instance.id).raw
    moving = {"cost_to_date": None, "uptime_seconds": None}
    assert {**after, **moving} == {**before, **moving}


def test_mistakes_in_a_launch_are_named_and_rent_nothing(server: Product, http: httpx.Client) -> None:
    offer = next(server.client.iter_offers())
    bad: list[tuple[Any, int, str]] = [
        ({}, 422, "offer_id"),
        ({"offer_id": offer.id, "disk_size": 1}, 422, "disk_size"),
        ({"offer_id": offer.id, "disk_size": 9_999}, 422, "disk_size"),
        ({"offer_id": offer.id, "max_price": "cheap"}, 422, "max_price"),
        ({"offer_id": "off_01ARZ3NDEKTSV4RRFFQ69G5FAV"}, 404, "offer-not-found"),
        ({"offer_id": offer.id, "max_price": 0.000001}, 409, "price-moved"),
        ([1, 2], 422, "invalid"),
    ]
    rented = len(server.control.ledger())
    known = len(list(server.client.iter_instances()))
    for body, status, named in bad:
        reply = http.post("/instances", json=body)
        assert reply.status_code == status, (body, reply.text)
        assert named in reply.text and reply.json()["act"] == "fix"
    assert http.post("/instances", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert len(server.control.ledger()) == rented
    assert len(list(server.client.iter_instances())) == known


def test_an_offer_sold_meanwhile_fails_the_launch_and_costs_nothing(server: Product) -> None:
    server.control.add_fault("sold_between")
    offer = next(server.client.iter_offers())
    said = server.cli("launch", offer.id, "--label", "late", "--json")
    assert said.code == 2, said
    assert json.loads(said.err.splitlines()[-1])["code"] == "offer-gone"
    failed = next(server.client.iter_instances(label="late"))
    assert failed.status == "failed"
    assert server.bills(failed.id) == []


def test_a_repeated_launch_makes_one_instance(server: Product, http: httpx.Client) -> None:
    offer = next(server.client.iter_offers())
    body = {"offer_id": offer.id, "label": "once"}
    replies = [http.post("/instances", json=body, headers={"Idempotency-Key": "one-and-only"}) for _ in range(3)]
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.json()["id"] for reply in replies}) == 1
    other = http.post("/instances", json={**body, "label": "twice"}, headers={"Idempotency-Key": "one-and-only"})
    assert other.status_code in (409, 422), other.text
    (made,) = server.client.iter_instances(label="once")
    assert server.ended(replies[0].json()["operation_id"]).status == "succeeded"
    assert len(server.client.machines(made.id)) == 1
    server.ended(server.client.destroy_instance(made.id).operation_id)


@pytest.mark.checklist("HIB-18", "HIB-19")
def test_sleep_and_wake_asked_twice_happen_once(server: Product, http: httpx.Client, instance: Instance) -> None:
    path = f"/instances/{instance.id}"
    assert http.post(f"{path}/wake").json()["operation_id"] is None, "it is awake already"
    first = http.post(f"{path}/hibernate")
    same = http.post(f"{path}/hibernate")
    assert (first.status_code, same.status_code) == (202, 202), same.text
    assert same.json()["operation_id"] == first.json()["operation_id"], "the one that runs already"
    other = http.post(f"{path}/wake")
    assert (other.status_code, other.json()["code"]) in ((409, "operation-in-progress"), (409, "wrong-state"))
    assert server.ended(first.json()["operation_id"]).status == "succeeded"
    again = http.post(f"{path}/hibernate")
    assert again.json()["operation_id"] is None, "it is asleep already"
    ssh = http.get(f"{path}/ssh")
    assert (ssh.status_code, ssh.json()["code"]) == (409, "instance-not-running")
    assert server.cli("ssh", "mine").code == 2
    assert len(list(server.client.iter_snapshots(instance_id=instance.id))) == 1
    woken = http.post(f"{path}/wake")
    assert server.ended(woken.json()["operation_id"]).status == "succeeded"
    assert server.client.instance(instance.id).status == "running"


def test_news_of_an_operation_resume_where_they_broke_off(
    server: Product, http: httpx.Client, instance: Instance
) -> None:
    operation = next(op for op in server.client.iter_operations(instance_id=instance.id) if op.kind == "create")
    whole = _events(http, operation.id)
    assert [name for _, name in whole][-1] == "done" and len(whole) > 3
    middle = whole[len(whole) // 2][0]
    rest = _events(http, operation.id, last=middle)
    assert rest == [event for event in whole if event[0] > middle]


def test_a_long_poll_answers_at_the_next_change(server: Product, http: httpx.Client, instance: Instance) -> None:
    server.control.add_fault("slow_pull", {"s": 60})
    made = server.client.create_instance(next(server.client.iter_offers()).id, label="polled")
    path = f"/operations/{made.operation_id}"
    deadline = time.monotonic() + 60
    while http.get(path).json()["current_step"] != "boot":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = http.get(path).json()
    cancelling = threading.Timer(0.5, lambda: server.client.cancel_operation(str(made.operation_id)))
    cancelling.start()
    started = time.monotonic()
    after = http.get(path, params={"wait_seconds": 30}).json()
    assert after != before
    assert time.monotonic() - started < 29, "it answered because something changed, not because the time was over"
    cancelling.join()
    assert server.ended(made.operation_id).status == "cancelled"
    assert server.bills(made.id) == []


def test_the_command_line_tells_by_its_exit_code_what_to_do(server: Product) -> None:
    offers = server.cli("offers", "--json")
    assert offers.code == 0 and len(offers.document["offers"]) > 5
    assert server.cli("show", "nothing-of-this-name").code == 2
    assert server.cli("ps", "--json", DUMONT_TOKEN="nonsense").code == 2
    down = server.cli("ps", "--json", DUMONT_URL=f"http://127.0.0.1:{free_port()}", DUMONT_TOKEN="any")
    assert (down.code, down.out) == (5, "")
    assert json.loads(down.err)["code"] == "server-unreachable"


def _token(server: Product, secret: bytes, said: dict[str, Any], seconds: float) -> str:
    """Sign a token with a key of our choice for the session that `said` names."""
    now = datetime.now(timezone.utc)
    claims = TokenClaims(said["sub"], said["sid"], said["jti"], now + timedelta(seconds=seconds))
    return Tokens(secret).issue(
        claims, email=said["email"], team_id=said["team_id"], role=said["role"], issued_at=now - timedelta(hours=1)
    )


def _events(http: httpx.Client, operation_id: str, last: int | None = None) -> list[tuple[int, str]]:
    """Read the event stream to its end, behind an event where one is named; returns (id, name) of each."""
    headers = {"Accept": "text/event-stream", **({} if last is None else {"Last-Event-ID": str(last)})}
    found: list[tuple[int, str]] = []
    with http.stream("GET", f"/operations/{operation_id}/events", headers=headers) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        number = 0
        for line in reply.iter_lines():
            label, _, value = line.partition(": ")
            number = int(value) if label == "id" else number
            if label == "event":
                found.append((number, value))
    return found
