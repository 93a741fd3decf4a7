"""Each fault has its effect, is drawn from its seed, and is written down: one sandbox, begun anew for each test."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from tests.support.sandbox import SandboxProcess, start_sandbox, wait_until

Login = Callable[[dict[str, Any]], Any]
CUT = (http.client.HTTPException, ConnectionError)
LONG = 300.0
"""Product seconds that no test waits for: it turns the clock."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """The sandbox of this module."""
    box = start_sandbox(tmp_path_factory.mktemp("faults"), start_seconds=0.01)
    yield box
    box.stop()


@pytest.fixture
def box(server: SandboxProcess, public_key: str) -> SandboxProcess:
    """The sandbox as at its beginning, with an account key."""
    server.control.reset()
    server.add_key(public_key)
    return server


def _listed(box: SandboxProcess) -> list[int]:
    status, document = box.call("GET", "/api/v1/instances/")
    assert status == 200, document
    return [row["id"] for row in document["instances"]]


def _up(box: SandboxProcess, **body: Any) -> tuple[int, dict[str, Any]]:
    number = box.rent(**body)
    return number, box.wait_for(number, "running")


def _state(box: SandboxProcess, number: int, state: str) -> tuple[int, Any]:
    return box.call("PUT", f"/api/v0/instances/{number}/", {"state": state})


def _run(login: Login, instance: dict[str, Any], command: str) -> str:
    async def run() -> str:
        async with login(instance) as connection:
            done = await connection.run(command)
            if done.exit_status is None:
                raise ConnectionError("the command was cut off")
            return str(done.stdout)

    return asyncio.run(run())


def _connects(instance: dict[str, Any]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((instance["ssh_host"], instance["ssh_port"])) == 0


def _host_key(instance: dict[str, Any]) -> str:
    async def ask() -> str:
        key = await asyncssh.get_server_host_key(instance["ssh_host"], instance["ssh_port"])
        assert key is not None
        return key.export_public_key().decode()

    return asyncio.run(ask())


def _seen(box: SandboxProcess, number: int) -> dict[str, Any]:
    shown = box.instance(number)
    assert shown is not None
    return shown


def _billed_since(box: SandboxProcess, number: int, seconds: float) -> int:
    """Return what an instance costs while the clock is turned on by that much."""
    before = box.control.line(number).total_nanousd
    box.control.turn_clock(advance_s=seconds)
    return box.control.line(number).total_nanousd - before


def test_calls_that_never_arrive(box: SandboxProcess) -> None:
    """drop_before, http_error, rate_limit, success_false_200 and auth_fail carry nothing out, each in its form."""
    number = box.rent(label="before")
    relabel = ("PUT", f"/api/v0/instances/{number}/", {"label": "after"})
    box.control.add_fault("drop_before", {"ops": ["label"], "cut": "reset"})
    with pytest.raises(ConnectionResetError):
        box.call(*relabel)
    box.control.add_fault("drop_before", {"ops": ["label"], "cut": "timeout", "real_s": 0.2})
    begun = time.monotonic()
    with pytest.raises(CUT):
        box.call(*relabel)
    assert time.monotonic() - begun >= 0.2
    for params, status, words in (
        ({"status": 503}, 503, "<html>"),
        ({"status": 500, "html": False}, 500, "server_error"),
    ):
        box.control.add_fault("http_error", {"ops": ["label"], **params})
        answer = box.call(*relabel)
        assert answer[0] == status and words in str(answer[1])
    for form, words in (("text", "threshold=1.0"), ("detail", "'detail'"), ("json", "rate_limit_exceeded")):
        box.control.add_fault("rate_limit", {"ops": ["label"], "form": form})
        answer = box.call(*relabel)
        assert answer[0] == 429 and words in str(answer[1])
    box.control.add_fault("success_false_200", {"error": "not_now", "msg": "no"})
    assert box.call(*relabel) == (200, {"success": False, "error": "not_now", "msg": "no"})
    for form, status in (("401", 401), ("403", 403), ("404_auth_error", 404)):
        box.control.add_fault("auth_fail", {"form": form, "for_s": LONG})
        assert box.call(*relabel)[0] == status == box.call("GET", "/api/v0/users/current")[0]
        assert box.call(*relabel)[1]["error"] == "auth_error"
        box.control.turn_clock(advance_s=LONG)
    assert box.control.faults() == [] and _seen(box, number)["label"] == "before"
    box.control.add_fault("latency", {"ms": 150})
    begun = time.monotonic()
    assert box.call(*relabel)[0] == 200 and time.monotonic() - begun >= 0.15


def test_calls_that_were_carried_out_and_not_answered(box: SandboxProcess) -> None:
    """accept_then_drop at each kind of order and in each cut, and error_after: the work was done all the same."""
    box.control.add_fault("accept_then_drop", {"ops": ["create"], "cut": "half_reply"})
    with pytest.raises(http.client.IncompleteRead):
        box.rent(label="made")
    (made,) = box.control.state()["machines"]
    number = made["instance_id"]
    box.wait_for(number, "running")
    path = f"/api/v0/instances/{number}/"
    for cut in ("before_reply", "reset", "half_reply"):
        box.control.add_fault("accept_then_drop", {"ops": ["label"], "cut": cut})
        with pytest.raises(CUT):
            box.call("PUT", path, {"label": cut})
        assert _seen(box, number)["label"] == cut
    for state, status in (("stopped", "exited"), ("running", "running")):
        box.control.add_fault("accept_then_drop", {"ops": ["stop", "start"]})
        with pytest.raises(CUT):
            _state(box, number, state)
        box.wait_for(number, status)
    box.control.add_fault("error_after", {"ops": ["stop"], "status": 504})
    assert _state(box, number, "stopped")[0] == 504
    box.wait_for(number, "exited")
    box.control.add_fault("accept_then_drop", {"ops": ["destroy"], "cut": "reset"})
    with pytest.raises(CUT):
        box.call("DELETE", path, {})
    assert box.instance(number) is None and box.control.line(number).destroyed_at is not None


def test_lists_that_lie(box: SandboxProcess) -> None:
    """empty_list_200 in all forms, and page_drop: rows are missing while the total stays true."""
    numbers = [box.rent() for _ in range(3)]
    box.control.add_fault("empty_list_200")
    empty = box.call("GET", "/api/v1/instances/")[1]
    assert empty["success"] and empty["instances"] == [] and empty["total_instances"] == 0
    for form, body in (("empty_body", b""), ("null", b"null"), ("html", b"<html>")):
        box.control.add_fault("empty_list_200", {"form": form})
        connection = http.client.HTTPConnection("127.0.0.1", box.port)
        connection.request("GET", "/api/v1/instances/", headers={"Authorization": f"Bearer {box.key}"})
        reply = connection.getresponse()
        assert reply.status == 200 and reply.read().startswith(body)
        connection.close()
    box.control.add_fault("page_drop", {"instance": numbers[1]})
    page = box.call("GET", "/api/v1/instances/")[1]
    assert [row["id"] for row in page["instances"]] == [numbers[0], numbers[2]] and page["total_instances"] == 3
    assert _listed(box) == numbers


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("NaN", '"dph_total": NaN'),
        ("Infinity", '"dph_total": Infinity'),
        ("dup_keys", '"gpu_name": "", '),
        ("trailing_space", 'verified \\n"'),
        ("null_numbers", '"num_gpus": null'),
        ("string_numbers", '"num_gpus": "'),
        ("extra_fields", '"quantum_units"'),
        ("unknown_status", '"actual_status": "hibernating"'),
    ],
)
def test_dirty_replies(box: SandboxProcess, what: str, seen: str) -> None:
    """dirty_json spoils one row of a search, or all of them, and the rest of the reply is as it was."""
    for rows in ("first", "all"):
        box.control.add_fault("dirty_json", {"ops": ["search"], "what": what, "rows": rows})
        connection = http.client.HTTPConnection("127.0.0.1", box.port)
        connection.request("POST", "/api/v0/bundles/", '{"verified": {"eq": true}, "limit": 4}')
        text = connection.getresponse().read().decode()
        connection.close()
        assert text.count(seen) >= (1 if rows == "first" else 4) and (rows == "all" or text.count(seen) < 8)
        assert len(json.loads(text)["offers"]) == 4


def test_reads_behind_writes(box: SandboxProcess) -> None:
    """read_lag hides a new instance, and the effect of a change, until its time is over."""
    box.control.add_fault("read_lag", {"s": LONG})
    number = box.rent()
    assert box.instance(number) is None and _listed(box) == []
    box.control.turn_clock(advance_s=LONG)
    assert _listed(box) == [number]
    box.wait_for(number, "running")
    box.control.add_fault("read_lag", {"s": LONG})
    _state(box, number, "stopped")
    wait_until(lambda: box.control.state()["machines"][0]["phase"] == "exited", what="it to stop")
    assert _seen(box, number)["actual_status"] == "running" == _seen(box, number)["intended_status"]
    box.control.turn_clock(advance_s=LONG)
    assert _seen(box, number)["actual_status"] == "exited"


def test_offers_that_are_gone_or_sold_twice(box: SandboxProcess) -> None:
    """sold_between refuses in three forms; double_sold accepts and the loser dies on a clash, now or when it runs."""
    offer = box.offers()[0]["id"]
    for form in ("404", "400", "410"):
        box.control.add_fault("sold_between", {"form": form})
        status, refused = box.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10})
        assert (status, refused["error"]) == (int(form), "no_such_ask")
    assert _listed(box) == []
    box.control.add_fault("double_sold", {"after_s": LONG})
    loser = box.rent()
    box.wait_for(loser, "loading")
    box.control.turn_clock(advance_s=LONG)
    assert "port is already allocated" in box.wait_for(loser, "created")["status_msg"]
    box.control.add_fault("double_sold", {"after_s": LONG, "shown": "exited"})
    number, _ = _up(box)
    box.control.turn_clock(advance_s=LONG)
    ended = box.wait_for(number, "exited")
    assert ended["intended_status"] == "running" == ended["cur_state"]
    box.control.add_fault("double_sold", {"after_s": 0, "loser": "other"})
    _up(box)


def test_machines_that_come_up_slowly_or_never(box: SandboxProcess) -> None:
    """status_null, slow_pull, stuck_loading and oci_fail: the words of each, disk billed only, and what ends it."""
    box.control.add_fault("status_null", {"for_s": LONG})
    box.control.add_fault("slow_pull", {"s": LONG})
    slow = box.rent()
    assert _seen(box, slow)["actual_status"] is None
    box.control.turn_clock(advance_s=LONG)
    wait_until(lambda: "Downloading" in (_seen(box, slow)["status_msg"] or ""), what="the pull")
    box.control.turn_clock(advance_s=LONG)
    box.wait_for(slow, "running")
    box.control.add_fault("stuck_loading")
    stuck = box.rent()
    box.wait_for(stuck, "loading")
    box.control.add_fault("oci_fail", {"text": "OCI runtime create failed: no such device"})
    failed = box.rent()
    shown = box.wait_for(failed, "created")
    assert "OCI runtime create failed" in shown["status_msg"] and "ports" not in shown
    box.control.turn_clock(advance_s=LONG)
    lines = {line.instance_id: line for line in box.control.ledger()}
    assert lines[stuck].gpu_nanousd == lines[failed].gpu_nanousd == 0 < lines[slow].gpu_nanousd
    assert lines[failed].disk_nanousd > 0 and _seen(box, stuck)["actual_status"] == "loading"
    for number in (stuck, failed):
        _state(box, number, "stopped")
        box.wait_for(number, "exited")
    _state(box, failed, "running")
    box.wait_for(failed, "running")


def test_starts_and_stops_that_take_their_time(box: SandboxProcess) -> None:
    """start_queue, create_start_race and status_lag: refused, lost or late, and billed by what is really so."""
    box.control.add_fault("create_start_race")
    raced = box.rent()
    shown = box.wait_for(raced, "exited")
    assert (shown["intended_status"], shown["cur_state"], shown["status_msg"]) == ("running", "stopped", "")
    assert _state(box, raced, "running") == (200, {"success": True})
    up = box.wait_for(raced, "running")
    box.control.add_fault("status_lag", {"s": LONG})
    assert _state(box, raced, "stopped") == (200, {"success": True})
    late = _seen(box, raced)
    assert (late["actual_status"], late["intended_status"], late["next_state"]) == ("running", "stopped", "stopped")
    assert _connects(up)
    gpu_second = late["instance"]["totalHour"] * 1e9 / 3600
    assert _billed_since(box, raced, LONG / 2) >= (LONG / 2 - 1) * gpu_second
    box.control.turn_clock(advance_s=LONG / 2)
    box.wait_for(raced, "exited")
    box.control.add_fault("start_queue", {"for_s": LONG})
    refused = _state(box, raced, "running")[1]
    waits = _seen(box, raced)
    assert refused["error"] == "resources_unavailable"
    assert (waits["cur_state"], waits["status_msg"]) == ("stopped", refused["msg"])
    box.control.turn_clock(advance_s=LONG)
    assert "queued" not in box.wait_for(raced, "running")["status_msg"]
    _state(box, raced, "stopped")
    box.wait_for(raced, "exited")
    box.control.add_fault("start_queue", {"emit_scheduling": True})
    assert not _state(box, raced, "running")[1]["success"]
    assert _seen(box, raced)["actual_status"] == "scheduling"
    _state(box, raced, "stopped")
    box.control.turn_clock(advance_s=LONG)
    assert _seen(box, raced)["actual_status"] == "exited"


def test_destroys_that_are_not_what_they_say(box: SandboxProcess) -> None:
    """destroy_lost changes nothing, destroy_linger shows what is gone and free, a zombie comes back and bills."""
    number, _ = _up(box)
    path = f"/api/v0/instances/{number}/"
    box.control.add_fault("destroy_lost")
    assert box.call("DELETE", path, {})[1]["success"]
    assert _listed(box) == [number] and _billed_since(box, number, LONG) > 0
    box.control.add_fault("destroy_linger", {"s": LONG, "shown": "running"})
    box.control.add_fault("zombie", {"after_s": 3 * LONG})
    assert box.call("DELETE", path, {})[1]["success"]
    ghost = _seen(box, number)
    assert (ghost["actual_status"], ghost["cur_state"]) == ("running", "unloaded") and _listed(box) == [number]
    assert not (box.home / "machines" / str(number)).exists()
    assert _billed_since(box, number, 2 * LONG) == 0
    assert box.instance(number) is None and _listed(box) == []
    box.control.turn_clock(advance_s=LONG)
    box.wait_for(number, "running")
    assert _listed(box) == [number] and _billed_since(box, number, LONG) > 0
    assert box.call("DELETE", path, {})[1]["success"] and box.instance(number) is None


def test_hosts_that_go_and_come_back(box: SandboxProcess, login: Login) -> None:
    """host_offline with kept, lost and older data: unbilled meanwhile, and back by itself; or cut off and running."""
    box.control.add_fault("host_offline", {"moment": "ssh_exec", "for_s": LONG, "data": "old"})
    number, up = _up(box)
    file = Path(up["workspace_root"]) / "file"
    with pytest.raises((OSError, asyncssh.Error)):
        _run(login, up, "echo young > workspace/file; sleep 600")
    box.wait_for(number, "offline")
    wait_until(lambda: box.processes(number) == [], what="its processes to be lost")
    assert _billed_since(box, number, LONG / 2) == 0
    box.control.turn_clock(advance_s=LONG / 2)
    box.wait_for(number, "running")
    assert not file.exists()
    for data, left in (("kept", True), ("lost", False)):
        file.write_text("here")
        box.control.befall(number, "host_offline", data=data, for_s=LONG)
        box.wait_for(number, "offline")
        box.control.turn_clock(advance_s=LONG)
        box.wait_for(number, "running")
        assert file.exists() == left and file.parent.is_dir()
    file.write_text("old")
    box.control.befall(number, "remember")
    file.write_text("new")
    box.control.befall(number, "host_offline", data="old", for_s=0)
    wait_until(lambda: file.exists() and file.read_text() == "old", what="the older file")
    again = box.wait_for(number, "running")
    box.control.befall(number, "host_offline", ssh=True, for_s=LONG)
    assert _seen(box, number)["actual_status"] == "offline" and _run(login, again, "echo alive") == "alive\n"
    assert _billed_since(box, number, LONG / 2) == 0
    box.control.turn_clock(advance_s=LONG / 2)
    box.wait_for(number, "running")
    assert _billed_since(box, number, LONG) > 0 and _run(login, again, "echo still") == "still\n"


def test_ssh_that_refuses_and_drops(box: SandboxProcess, login: Login) -> None:
    """ssh_refused, ssh_auth_refused and ssh_drop by time and by bytes, while the status says running."""
    box.control.add_fault("ssh_refused", {"for_s": LONG})
    number, up = _up(box)
    assert not _connects(up)
    box.control.turn_clock(advance_s=LONG)
    wait_until(lambda: _connects(up), what="the port to open")
    box.control.befall(number, "ssh_auth_refused", for_s=LONG)
    with pytest.raises(asyncssh.PermissionDenied):
        _run(login, up, "true")
    box.control.turn_clock(advance_s=LONG)
    wait_until(lambda: _admits(login, up), what="the key to be known again")
    box.control.add_fault("ssh_drop", {"after_s": 0})
    with pytest.raises((OSError, asyncssh.Error)):
        _run(login, up, "sleep 600")
    box.control.add_fault("ssh_drop", {"after_bytes": 400_000})
    with pytest.raises((OSError, asyncssh.Error)):
        _run(login, up, "head -c 300000000 /dev/zero")
    assert _run(login, up, "echo well") == "well\n" and _seen(box, number)["actual_status"] == "running"


def _admits(login: Login, instance: dict[str, Any]) -> bool:
    try:
        return _run(login, instance, "echo in") == "in\n"
    except asyncssh.PermissionDenied:
        return False


def test_keys_and_addresses_that_change(box: SandboxProcess, login: Login) -> None:
    """host_key_change and addr_change, at a restart and at any moment: the machine is reached at what is shown."""
    box.control.add_fault("host_key_change")
    box.control.add_fault("addr_change")
    number, first = _up(box)
    key = _host_key(first)
    assert len(box.control.faults()) == 2
    _state(box, number, "stopped")
    box.wait_for(number, "exited")
    _state(box, number, "running")
    again = box.wait_for(number, "running")
    assert box.control.faults() == []
    assert again["ssh_port"] != first["ssh_port"] and again["public_ipaddr"] != first["public_ipaddr"]
    assert _host_key(again) != key and not _connects(first)
    box.control.befall(number, "addr_change")
    moved = _seen(box, number)
    assert moved["ssh_port"] != again["ssh_port"] and _host_key(moved) == _host_key(moved)
    box.control.befall(number, "host_key_change")
    assert _host_key(moved) not in (key, _host_key(first) if _connects(first) else key)
    assert _run(login, moved, "echo here") == "here\n"


def test_containers_that_end_and_people_who_meddle(box: SandboxProcess, login: Login) -> None:
    """exits stops the GPU's bill; outside_change stops, relabels, adds a key and destroys as a person would."""
    box.control.add_fault("exits", {"after_s": LONG, "text": "out of memory"})
    number, _ = _up(box, onstart="sleep 600")
    wait_until(lambda: box.processes(number), what="onstart")
    box.control.turn_clock(advance_s=LONG)
    ended = box.wait_for(number, "exited")
    assert (ended["intended_status"], ended["status_msg"]) == ("running", "out of memory")
    wait_until(lambda: box.processes(number) == [], what="its processes to end")
    assert ended["instance"]["gpuCostPerHour"] == 0 < ended["instance"]["diskHour"]
    _state(box, number, "running")
    box.wait_for(number, "running")
    box.control.befall(number, "outside_change", action="relabel", label="mine now")
    assert _seen(box, number)["label"] == "mine now"
    box.control.befall(number, "outside_change", action="attach_key")
    keys = json.loads(box.call("GET", f"/api/v0/instances/{number}/ssh/")[1]["ssh_keys"])
    assert len(keys) == 2
    box.control.add_fault("outside_change", {"action": "stop"})
    _state(box, number, "stopped")
    box.wait_for(number, "exited")
    _state(box, number, "running")
    box.wait_for(number, "exited")
    assert _seen(box, number)["intended_status"] == "stopped"
    box.control.befall(number, "outside_change", action="destroy")
    assert box.instance(number) is None
