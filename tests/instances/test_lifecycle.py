"""The life of instances through the API of the whole product, judged by the marketplace's bill and processes."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncssh
import httpx
import pytest
from tests.support.product import Product, product
from tests.support.sandbox import wait_until

Document = dict[str, Any]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with product(tmp_path_factory.mktemp("lifecycle")) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def http(server: Product) -> Iterator[httpx.Client]:
    with server.http(server.sign_in()) as client:
        yield client


def asked(http: httpx.Client, method: str, path: str, status: int, **more: Any) -> Document:
    """Ask, see the status, and return the document."""
    answer = http.request(method, path, **more)
    assert answer.status_code == status, answer.text
    document: Document = answer.json()
    return document


def ended(http: httpx.Client, document: Document, status: str = "succeeded") -> Document:
    """Wait for the operation of an instance document, see how it ended, and return it."""
    deadline = time.monotonic() + 180
    path = f"/operations/{document['operation_id']}"
    while (found := asked(http, "GET", path, 200, params={"wait_seconds": 5}))["finished_at"] is None:
        assert time.monotonic() < deadline, found
    assert found["status"] == status, found
    return found


def offers(http: httpx.Client, count: int = 1) -> list[Document]:
    """Cheap offers, each on a machine of its own."""
    query = {"num_gpus": 1, "limit": 100, "max_age_seconds": 0}
    found = asked(http, "GET", "/offers", 200, params=query)["offers"]
    return list({offer["machine_id"]: offer for offer in reversed(found)}.values())[-count:]


def machine(server: Product, number: str | int) -> Document:
    """How the marketplace itself describes a machine."""
    key = (server.home / "sandbox" / "api.key").read_text().strip()
    answer = httpx.get(
        f"http://127.0.0.1:{server.sandbox_port}/api/v0/instances/{number}/",
        params={"owner": "me"},
        headers={"Authorization": f"Bearer {key}"},
    )
    found: Document = answer.json()["instances"]
    return found


@pytest.fixture(scope="module")
def box(http: httpx.Client) -> Document:
    """A running instance with wishes of its own: image, disk, environment, start command, labels."""
    body = {
        "offer_id": offers(http)[0]["id"],
        "image": "nvidia/cuda:12.4.1-base-ubuntu22.04",
        "disk_size": 33,
        "label": "box",
        "labels": {"team": "red", "run": "7"},
        "env": {"GREETING": "good morning"},
        "onstart_cmd": 'echo "$GREETING" > workspace/said && echo started',
    }
    made = asked(http, "POST", "/instances", 202, json=body)
    assert made["status"] == "creating" and made["operation_id"] and made["ssh_host"] is None
    ended(http, made)
    shown = asked(http, "GET", f"/instances/{made['id']}", 200)
    wait_until((Path(shown["workspace_root"]) / "said").exists, what="the start command to begin")
    return {**shown, "up_by": time.time(), "ran": 0.0}


@pytest.mark.checklist("INST-11", "INST-12", "INST-13", "INST-14", "INST-16")
def test_an_instance_is_created_from_an_offer(server: Product, http: httpx.Client, box: Document) -> None:
    """Creating, then running, with facts that are the machine's own; the marketplace bills exactly this machine."""
    assert box["status"] == "running"
    (line,) = server.bills(box["id"])
    assert line.running and str(line.instance_id) == box["provider_machine_id"]
    theirs = machine(server, line.instance_id)
    assert (box["ssh_host"], box["ssh_port"]) == (theirs["ssh_host"], theirs["ssh_port"])
    assert (box["gpu_name"], box["num_gpus"], box["gpu_memory_mib"]) == (
        theirs["gpu_name"],
        theirs["num_gpus"],
        theirs["gpu_ram"],
    )
    assert float(box["price_hour"]["amount"]) == pytest.approx(theirs["search"]["totalHour"], abs=1e-6)
    assert float(box["paused_cost_hour"]["amount"]) == pytest.approx(theirs["instance"]["diskHour"], abs=1e-6)
    assert box["host_key_fingerprint"].startswith("SHA256:")
    with socket.create_connection((box["ssh_host"], box["ssh_port"]), timeout=60) as door:
        assert door.recv(8) == b"SSH-2.0-"
    time.sleep(1)
    at_least = time.time() - box["up_by"]
    now = asked(http, "GET", f"/instances/{box['id']}", 200)
    at_most = time.time() - line.created_at
    assert now["uptime_seconds"] >= 1
    _costs(now, theirs["search"]["totalHour"], at_least, at_most)


def _costs(shown: Document, price: float, at_least: float, at_most: float) -> None:
    """See that an instance cost what a time between these is worth. Units: dollars an hour, seconds."""
    assert price * at_least / 3600 - 2e-6 <= float(shown["cost_to_date"]["amount"]) <= price * at_most / 3600 + 2e-6


@pytest.mark.checklist("INST-22")
def test_wishes_of_its_own_reach_the_machine(server: Product, box: Document) -> None:
    """Image and disk are what was asked for; the start command ran with the environment."""
    theirs = machine(server, box["provider_machine_id"])
    assert (theirs["image_uuid"], theirs["disk_space"]) == ("nvidia/cuda:12.4.1-base-ubuntu22.04", 33)
    assert (box["image"], box["disk_size_gb"], box["env_names"]) == (theirs["image_uuid"], 33, ["GREETING"])
    assert said(box) == "good morning\n"


def said(box: Document) -> str:
    """What the start command wrote into the workspace, which lies on this computer."""
    return (Path(box["workspace_root"]) / "said").read_text()


def test_logs_are_what_the_container_wrote(server: Product, http: httpx.Client, box: Document) -> None:
    found = asked(http, "GET", f"/instances/{box['id']}/logs", 200, params={"tail": 100})
    assert "started" in [line["text"] for line in found["lines"]]
    last = asked(http, "GET", f"/instances/{box['id']}/logs", 200, params={"tail": 1})
    assert last["lines"] == found["lines"][-1:]
    server.control.add_fault("http_error", {"status": 502}, times=1)
    assert asked(http, "GET", f"/instances/{box['id']}/logs", 503)["code"] == "provider-unreachable"


def test_names_labels_and_protection(server: Product, http: httpx.Client, box: Document) -> None:
    """Labels are merged or replaced; a version that was seen guards a change; what is protected stays."""
    path = f"/instances/{box['id']}"
    seen = http.get(path)
    tag = seen.headers["etag"]
    changed = asked(http, "PATCH", path, 200, json={"labels": {"run": None, "new": "x"}}, headers={"If-Match": tag})
    assert changed["labels"] == {"team": "red", "new": "x"} and changed["label"] == "box"
    late = asked(http, "PATCH", path, 412, json={"label": "late"}, headers={"If-Match": tag})
    assert (late["code"], late["version"]) == ("version-mismatch", changed["version"])
    assert asked(http, "PUT", f"{path}/labels", 200, json={"team": "red", "run": "7"})["labels"]["run"] == "7"
    asked(http, "PUT", f"{path}/labels", 422, json={"Not A Key": "x"})
    assert asked(http, "PATCH", path, 200, json={"protected": True})["protected"] is True
    assert asked(http, "DELETE", path, 409)["code"] == "instance-protected"
    assert len(server.bills(box["id"])) == 1
    asked(http, "PATCH", path, 200, json={"protected": False})


@pytest.mark.checklist("INST-15")
def test_instances_are_listed(http: httpx.Client, box: Document) -> None:
    """By every filter, in order, and page after page without repetition or loss."""
    other = offers(http, 2)[0]
    made = [asked(http, "POST", "/instances", 202, json={"offer_id": other["id"], "label": name}) for name in "ab"]
    for one in made:
        asked(http, "DELETE", f"/instances/{one['id']}", 202)
    assert _labels(http, label="box") == ["box"]
    assert _labels(http, **{"labels.team": "red", "labels.run": "7"}) == ["box"]
    assert _labels(http, **{"labels.team": "blue"}) == []
    assert "box" in _labels(http, status="running", provider="sandbox", gpu_name=box["gpu_name"])
    assert _labels(http, provider="vast") == []
    everything = {"include_destroyed": "true", "sort": "label"}
    whole = _labels(http, **everything)
    assert whole == sorted(whole) and {"a", "b", "box"} <= set(whole)
    pages, cursor = [], None
    while cursor is not None or not pages:
        query = {**everything, "limit": 1, **({"cursor": cursor} if cursor else {})}
        page = asked(http, "GET", "/instances", 200, params=query)
        pages += [row["label"] for row in page["instances"]]
        cursor = page["next_cursor"]
    assert pages == whole
    asked(http, "GET", "/instances", 422, params={"status": "asleep"})
    asked(http, "GET", "/instances", 422, params={"sort": "colour"})


def _labels(http: httpx.Client, **query: str) -> list[str]:
    return [row["label"] for row in asked(http, "GET", "/instances", 200, params=query)["instances"]]


@pytest.mark.checklist("INST-17", "INST-18")
def test_pause_and_resume(server: Product, http: httpx.Client, box: Document) -> None:
    """Pausing, paused, resuming, running; the same verb again is answered by what runs or is so already."""
    path, number = f"/instances/{box['id']}", int(box["provider_machine_id"])
    box["ran"] += time.time() - box["up_by"]
    begun = asked(http, "POST", f"{path}/pause", 202)
    assert begun["status"] == "pausing"
    again = http.post(f"{path}/pause")
    assert again.status_code in (200, 202) and again.json()["operation_id"] in (begun["operation_id"], None)
    ended(http, begun)
    paused = asked(http, "POST", f"{path}/pause", 200)
    assert paused["status"] == "paused" and paused["ssh_host"] is None and paused["uptime_seconds"] is None
    before = server.control.line(number)
    assert not before.running and asked(http, "GET", f"{path}/ssh", 409)["code"] == "instance-not-running"
    time.sleep(0.5)
    after = server.control.line(number)
    assert after.gpu_nanousd == before.gpu_nanousd and after.disk_nanousd > before.disk_nanousd
    assert asked(http, "POST", f"{path}/reboot", 409)["code"] == "wrong-state"
    resumed = asked(http, "POST", f"{path}/resume", 202, json={"wait_minutes": 1})
    assert resumed["status"] == "resuming"
    ended(http, resumed)
    box["up_by"] = time.time()
    assert asked(http, "POST", f"{path}/resume", 200)["status"] == "running"
    assert server.control.line(number).running
    assert said(box) == "good morning\n"


def test_a_limit_is_held_against_the_price_with_the_disk(server: Product, http: httpx.Client) -> None:
    """An offer that is within the limit with 20 GB and above it with the disk asked for is not rented."""
    rented = len(server.control.ledger())
    small = {offer["id"]: offer for offer in offers(http, 100)}
    query = {"disk_size": 200, "num_gpus": 1, "limit": 100}
    large = asked(http, "GET", "/offers", 200, params=query)["offers"]
    pairs = [(float(small[one["id"]]["price_hour"]["amount"]), one) for one in large if one["id"] in small]
    low, offer = next((low, one) for low, one in pairs if low < float(one["price_hour"]["amount"]))
    limit = (low + float(offer["price_hour"]["amount"])) / 2
    body = {"offer_id": offer["id"], "price_hour_max": limit, "disk_size": 200}
    refused = asked(http, "POST", "/instances", 409, json=body)
    assert refused["code"] == "price-moved" and refused["price_hour"] == offer["price_hour"]
    assert len(server.control.ledger()) == rented


async def _hello(box: Document, key: asyncssh.SSHKey) -> str:
    where = {"host": box["ssh_host"], "port": box["ssh_port"], "username": "root", "client_keys": [key]}
    async with asyncssh.connect(**where, known_hosts=None, config=None, agent_path=None) as connection:
        return str((await connection.run("echo hello", check=True)).stdout)


def test_a_key_is_let_into_a_machine_that_runs(http: httpx.Client, box: Document) -> None:
    """A key that came after the launch is refused at the door, and lets in once it is attached; twice is fine."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    line = key.export_public_key().decode().strip()
    mine = asked(http, "POST", "/ssh-keys", 201, json={"name": "new laptop", "public_key": line})
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(_hello(box, key))
    path = f"/instances/{box['id']}/ssh/keys"
    for _ in range(2):
        given = asked(http, "POST", path, 202, json={"ssh_key_id": mine["id"]})
        assert ended(http, given)["result"]["fingerprints"] == given["fingerprints"] == [mine["fingerprint"]]
    assert asyncio.run(_hello(box, key)) == "hello\n"
    asked(http, "POST", path, 404, json={"ssh_key_id": "key_00000000000000000000000000"})


@pytest.mark.checklist("INST-21")
def test_errors_of_the_marketplace_are_told(server: Product, http: httpx.Client) -> None:
    """A sold offer, a host that dies, a limit below the price: each says what it is, nothing is billed."""
    offer = offers(http)[0]
    server.control.add_fault("sold_between")
    body = {"offer_id": offer["id"], "attempts": 1}
    sold = asked(http, "POST", "/instances", 202, json=body)
    problem = ended(http, sold, "failed")["problem"]
    assert (problem["code"], problem["act"]) == ("offer-gone", "fix")
    dear = asked(http, "POST", "/instances", 409, json={**body, "price_hour_max": 0.0001})
    assert dear["code"] == "price-moved" and dear["price_hour_max"]["amount"] == "0.000100"
    server.control.add_fault("host_offline", {"moment": "ssh_exec"})
    down = asked(http, "POST", "/instances", 202, json={**body, "offer_id": offers(http)[0]["id"]})
    problem = ended(http, down, "failed")["problem"]
    assert (problem["code"], problem["act"]) == ("host-lost", "wait")
    for one in (sold, down):
        assert asked(http, "GET", f"/instances/{one['id']}", 200)["status"] == "failed"
        assert server.bills(one["id"]) == []
    asked(http, "POST", "/instances", 404, json={"offer_id": "off_00000000000000000000000000"})
    asked(http, "POST", "/instances", 422, json={**body, "bid_price_usd": 0.5})
    asked(http, "POST", "/instances", 422, json={**body, "env": {"-p 22:22": "1"}})


@pytest.mark.checklist("INST-19")
def test_a_destroyed_instance_is_gone(server: Product, http: httpx.Client, box: Document) -> None:
    """The bill ends, the processes and the folder are gone, and the record says what it cost."""
    path, number = f"/instances/{box['id']}", box["provider_machine_id"]
    root = server.home / "sandbox" / "machines" / number
    assert root.is_dir()
    ran = box["ran"] + time.time() - box["up_by"]
    begun = asked(http, "DELETE", path, 202, params={"reason": "gpu_failure"})
    assert begun["status"] == "destroying"
    ended(http, begun)
    lived = time.time() - server.control.line(int(number)).created_at
    assert server.bills(box["id"]) == [] and machine(server, number) is None
    wait_until(lambda: not root.exists(), what="the machine's folder to go")
    asked(http, "GET", path, 404)
    record = asked(http, "GET", path, 200, params={"include_destroyed": "true"})
    _costs(record, float(record["price_hour"]["amount"]), ran, lived)
    assert asked(http, "DELETE", path, 200)["status"] == "destroyed"
    assert asked(http, "POST", f"{path}/pause", 409)["code"] == "wrong-state"
    (kept,) = asked(http, "GET", f"{path}/machines", 200)["machines"]
    assert (kept["state"], kept["reason"]) == ("released", "gpu_failure")


@pytest.mark.checklist("E2E-07", "E2E-17")
def test_many_at_once_by_two_people(server: Product, http: httpx.Client) -> None:
    """Eight launches at the same moment by two teams: eight machines, each its own team's, each cent in its place."""
    with server.http() as nobody:
        email = "second@example.com"
        session = asked(nobody, "POST", "/auth/register", 201, json={"email": email, "password": PASSWORD})
    with server.http(session["access_token"]) as second:
        chosen = offers(http, 8)
        people = [http, second] * 4
        gate = threading.Barrier(8)

        def launch(person: httpx.Client, offer: Document) -> Document:
            gate.wait(60)
            body = {"offer_id": offer["id"], "attempts": 6, "price_hour_max": 9}
            return asked(person, "POST", "/instances", 202, json=body)

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(launch, people, chosen))
        for person, one in zip(people, made, strict=True):
            ended(person, one)
            one["up_by"] = time.time()
        labels = _check_apart(server, people, made)
        _destroy_all(server, people, made, labels)


def _check_apart(server: Product, people: list[httpx.Client], made: list[Document]) -> set[str]:
    """See eight different machines running, each seen by its own team alone; returns their labels."""
    lines = {line.label: line for line in server.control.ledger() if line.destroyed_at is None}
    labels = set()
    for person, one in zip(people, made, strict=True):
        (mine,) = asked(person, "GET", f"/instances/{one['id']}/machines", 200)["machines"]
        assert lines[mine["label"]].running
        labels.add(mine["label"])
        stranger = next(other for other in people if other is not person)
        asked(stranger, "GET", f"/instances/{one['id']}", 404)
    assert len(labels) == 8 and set(lines) == labels
    for person in people[:2]:
        shown = asked(person, "GET", "/instances", 200, params={"status": "running"})["instances"]
        assert {row["id"] for row in shown} == {
            one["id"] for who, one in zip(people, made, strict=True) if who is person
        }
    return labels


def _destroy_all(server: Product, people: list[httpx.Client], made: list[Document], labels: set[str]) -> None:
    """Destroy all at once; afterwards nothing is billed, and each instance cost what the marketplace says."""

    def destroy(person: httpx.Client, one: Document) -> None:
        one["ran"] = time.time() - one["up_by"]
        ended(person, asked(person, "DELETE", f"/instances/{one['id']}", 202))
        one["gone_by"] = time.time()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(destroy, people, made))
    lines = {line.label: line for line in server.control.ledger()}
    assert [label for label in labels if lines[label].destroyed_at is None] == []
    for person, one in zip(people, made, strict=True):
        shown = {"include_destroyed": "true"}
        record = asked(person, "GET", f"/instances/{one['id']}", 200, params=shown)
        (mine,) = asked(person, "GET", f"/instances/{one['id']}/machines", 200)["machines"]
        lived = one["gone_by"] - lines[mine["label"]].created_at
        _costs(record, float(record["price_hour"]["amount"]), one["ran"], lived)
