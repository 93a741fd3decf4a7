"""The REST face: search, renting, lists, keys, money, faults, in the marketplace's own words."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess, start_sandbox, wait_until

from dumont.core import Clock, nanousd
from dumont.sandbox import SandboxControl, SandboxControlError, SandboxRefused, SandboxSettings, run

Start = Callable[..., SandboxProcess]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One sandbox for tests that only read."""
    box = start_sandbox(tmp_path_factory.mktemp("quiet"))
    yield box
    box.stop()


def _search(box: SandboxProcess, **query: Any) -> list[dict[str, Any]]:
    status, document = box.call("POST", "/api/v0/bundles/", query)
    assert status == 200, document
    return list(document["offers"])


def test_search_filters_compare_by_type(quiet: SandboxProcess) -> None:
    """Operators combine, text numbers count as numbers, names take underscores, aliases and virtual keys work."""
    everything = _search(quiet)
    assert len(everything) > 18

    def names(**query: Any) -> set[str]:
        return {offer["gpu_name"] for offer in _search(quiet, **query)}

    assert names(gpu_name={"in": ["RTX_4090", "L40S"]}) == {"RTX 4090", "L40S"}
    assert names(gpu_name="H100 SXM") == {"H100 SXM"}
    two = _search(quiet, num_gpus={"gte": "2", "lt": 4}, verified={"eq": True}, external={"eq": False})
    assert two and all(offer["num_gpus"] == 2 for offer in two)
    cheap = _search(quiet, dph={"lte": "0.2"}, order=[["dph_total", "asc"], ["id", "asc"]])
    prices = [offer["dph_total"] for offer in cheap]
    assert prices == sorted(prices) and 0 < len(cheap) < len(everything) and max(prices) <= 0.2
    assert {o["geolocation"] for o in _search(quiet, geolocation={"in": ["JP", "FR"]})} == {"Ota, Tokyo, JP", ", FR"}
    assert names(datacenter={"eq": True}) == {"A100 SXM4", "H100 SXM", "L40S"}
    assert names(gpu_name={"notin": ["RTX 4090"]}) == names(gpu_name={"neq": "RTX 4090"}) == names() - {"RTX 4090"}
    assert {o["verification"] for o in _search(quiet, verified={"eq": "false"})} == {"unverified"}
    assert _search(quiet, id={"eq": everything[0]["id"]}) == []
    assert len(_search(quiet, ask_contract_id={"eq": everything[0]["id"]})) == 1
    assert len(_search(quiet, limit=3)) == 3
    scores = [offer["score"] for offer in everything]
    assert scores == sorted(scores, reverse=True)


def test_search_prices_follow_disk_and_kind(quiet: SandboxProcess) -> None:
    """The total is the base plus storage for the wanted disk; a bid search shows the lowest bid."""
    for size in (8, 200):
        offer = _search(quiet, gpu_name={"eq": "A100 SXM4"}, num_gpus={"eq": 1}, allocated_storage=size)[0]
        assert offer["storage_total_cost"] == pytest.approx(0.20 * size / 720, abs=1e-9)
        assert offer["dph_total"] == pytest.approx(0.99 + 0.20 * size / 720, abs=1e-9)
    bid = _search(quiet, type="bid", gpu_name={"eq": "L40S"})[0]
    assert bid["is_bid"] and bid["dph_base"] == bid["min_bid"] == pytest.approx(0.36)


@pytest.mark.parametrize(
    "query",
    [{"colour": {"eq": 1}}, {"num_gpus": {"near": 1}}, {"num_gpus": {"eq": "two"}}, {"type": "gift"}, {"offset": 3}],
)
def test_bad_searches_are_refused(quiet: SandboxProcess, query: dict[str, Any]) -> None:
    """Unknown keys, operators, types and unreadable numbers answer 400."""
    status, document = quiet.call("POST", "/api/v0/bundles/", query)
    assert (status, document["error"]) == (400, "invalid_request")


def test_keys_paths_and_errors(quiet: SandboxProcess) -> None:
    """Who may ask what, in which forms of path, and how refusals look."""
    assert quiet.call("GET", "/api/v0/users/current/", key=None)[0] == 403
    assert quiet.call("GET", "/api/v0/users/current/", key="wrong")[:1] == (401,)
    assert quiet.call("POST", "/api/v0/bundles/", {}, key=None)[0] == 200
    for path in ("/api/v0/users/current", "/api/v0/users/current/", "//api/v0/users/current/"):
        status, user = quiet.call("GET", path)
        assert (status, user["credit"]) == (200, 500.0)
    assert quiet.call("GET", f"/api/v0/users/current?api_key={quiet.key}", key=None)[0] == 200
    assert quiet.call("GET", "/api/v0/instances/")[0] == 410
    assert quiet.call("GET", "/api/v0/nowhere/")[1]["error"] == "not_found"
    assert quiet.call("GET", "/api/v0/instances/123/?owner=me") == (200, {"instances": None})
    assert quiet.call("PUT", "/api/v0/instances/123/", {"state": "stopped"})[1]["error"] == "no_such_instance"
    assert quiet.call("PUT", "/api/v0/asks/1/", {"image": "x", "disk": 10})[1]["error"] == "no_such_ask"
    assert quiet.call("PUT", "/api/v0/asks/1/", {"image": "x", "disk": 3})[1]["error"] == "invalid_args"
    assert quiet.call("GET", "/_sandbox/state")[0] == 403
    with pytest.raises(SandboxControlError):
        SandboxControl(quiet.url, "wrong").state()


def test_account_keys(quiet: SandboxProcess) -> None:
    """Keys are added, listed, replaced and removed; nonsense is refused."""
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(quiet.home / "k")], capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr
    text = (quiet.home / "k.pub").read_text().strip()
    key = quiet.add_key(text)
    assert [row["key"] for row in quiet.call("GET", "/api/v0/ssh/")[1]] == [text]
    assert quiet.call("PUT", f"/api/v0/ssh/{key}/", {"id": key, "ssh_key": text + " new"})[0] == 200
    assert [row["key"] for row in quiet.call("GET", "/api/v0/ssh/")[1]] == [text + " new"]
    assert quiet.call("POST", "/api/v0/ssh/", {"ssh_key": "ssh-ed25519 nonsense"})[0] == 400
    assert quiet.call("DELETE", f"/api/v0/ssh/{key}/", {})[0] == 200
    assert quiet.call("GET", "/api/v0/ssh/")[1] == []


def test_slices_of_one_machine_exclude_each_other(shared: SandboxProcess) -> None:
    """Renting takes overlapping offers away; giving back lists the slice under a new number; a taken GPU queues."""
    box = shared

    def of_machine() -> dict[int, tuple[int, float]]:
        rows = _search(box, machine_id={"eq": 22991})
        return {row["id"]: (row["num_gpus"], row["gpu_frac"]) for row in rows}

    before = of_machine()
    assert sorted(before.values()) == [(1, 0.5), (1, 0.5), (2, 1.0)]
    single = min(number for number, (count, _) in before.items() if count == 1)
    first = box.rent(single)
    assert list(of_machine().values()) == [(1, 0.5)]
    status, document = box.call("PUT", f"/api/v0/asks/{single}/", {"image": "x", "disk": 10})
    assert (status, document["error"]) == (404, "no_such_ask")

    box.wait_for(first, "running")
    box.call("PUT", f"/api/v0/instances/{first}/", {"state": "stopped"})
    box.wait_for(first, "exited")
    whole = next(number for number, (count, _) in of_machine().items() if count == 2)
    second = box.rent(whole)
    queued = box.call("PUT", f"/api/v0/instances/{first}/", {"state": "running"})
    assert queued[0] == 200 and queued[1]["error"] == "resources_unavailable"
    assert box.call("DELETE", f"/api/v0/instances/{second}/", {})[0] == 200
    box.wait_for(first, "running")
    box.call("DELETE", f"/api/v0/instances/{first}/", {})
    after = of_machine()
    assert sorted(after.values()) == sorted(before.values()) and not set(after) & set(before)


def test_the_list_filters_pages_and_counts(sandboxes: Start) -> None:
    """Exact label filters, keyset pages that add up, counts by label over all matching rows."""
    box = sandboxes()
    numbers = [box.rent(label=f"l{at % 2}") for at in range(5)]

    def listed(**query: Any) -> Any:
        text = "&".join(
            f"{name}={json.dumps(value) if name != 'after_token' else value}" for name, value in query.items()
        )
        return box.call("GET", f"/api/v1/instances/?{text}".replace(" ", "%20").replace('"', "%22"))

    status, found = listed(select_filters={"label": {"eq": "l1"}})
    assert status == 200 and [row["id"] for row in found["instances"]] == [numbers[1], numbers[3]]
    assert found["label_counts"] == {"l1": 2} and found["next_token"] is None
    seen, token = [], ""
    while token is not None:
        _, shown = listed(limit=2, order_by=[{"col": "id", "dir": "desc"}], after_token=token)
        assert shown["total_instances"] == 5 and shown["label_counts"] == {"l0": 3, "l1": 2}
        seen += [row["id"] for row in shown["instances"]]
        token = shown["next_token"]
    assert seen == numbers[::-1]
    whole = box.wait_for(numbers[2], "running")
    for name in ("id", "actual_status", "intended_status", "cur_state", "gpu_name", "verification", "machine_id"):
        rows = listed(select_filters={name: {"eq": whole[name]}}, order_by=[{"col": "start_date"}])[1]["instances"]
        assert whole["id"] in [row["id"] for row in rows] and all(row[name] == whole[name] for row in rows)
    assert listed(after_token="nonsense")[1]["error"] == "invalid_token"
    assert listed(select_filters={"dph_total": {"eq": 1}})[0] == 400
    assert box.call("PUT", f"/api/v0/instances/{numbers[0]}/", {"label": "renamed"})[0] == 200
    assert box.instance(numbers[0])["label"] == "renamed"  # type: ignore[index]


def test_money_is_rate_times_time(sandboxes: Start) -> None:
    """GPU costs only while it runs, disk until destruction, each the exact product; charges and credit agree."""
    box = sandboxes(speed=3600)
    offer = box.offers(gpu_name={"eq": "L40S"}, allocated_storage=100)[0]
    number = box.rent(offer["id"], disk=100, label="paid")
    box.wait_for(number, "running")
    began = box.control.state()["now"]
    wait_until(lambda: box.control.state()["now"] > began + 1800)
    box.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    stopped = box.wait_for(number, "exited")
    assert stopped["instance"]["gpuCostPerHour"] == 0 and stopped["search"]["gpuCostPerHour"] == 0.6
    box.call("DELETE", f"/api/v0/instances/{number}/", {})

    line = box.control.line(number)
    gpu_rate, disk_rate = nanousd(offer["dph_base"]), nanousd(offer["storage_total_cost"])
    ran = sum(span["to"] - span["from"] for span in line.spans if span["state"] == "running")
    lived = line.destroyed_at - line.created_at  # type: ignore[operator]
    assert (gpu_rate, disk_rate) == (600_000_000, 25_000_000) and ran >= 1800
    assert line.gpu_nanousd == pytest.approx(gpu_rate * ran / 3600, abs=600)
    assert line.disk_nanousd == pytest.approx(disk_rate * lived / 3600, abs=600)
    assert all(a["to"] == b["from"] for a, b in zip(line.spans, line.spans[1:], strict=False))
    assert not line.running and box.control.line(number) == line
    days = json.dumps({"day": {"gte": int(line.created_at) - 1, "lte": int(line.destroyed_at or 0) + 1}})
    charges = box.call("GET", "/api/v0/charges/?select_filters=" + days.replace('"', "%22").replace(" ", ""))[1]
    assert charges["results"][0]["amount"] == pytest.approx(line.total_nanousd / 1e9, abs=0.0005)
    assert charges["results"][0]["source"] == f"instance-{number}"
    assert box.call("GET", "/api/v0/users/current/")[1]["credit"] == pytest.approx(500 - line.total_nanousd / 1e9)
    assert box.call("GET", "/api/v0/charges/")[0] == 400


def test_without_credit_everything_stops(sandboxes: Start) -> None:
    """Machines stop when the money is used up, and nothing new can be rented."""
    box = sandboxes(speed=3600, credit="1")
    number = box.rent(box.offers(gpu_name={"eq": "H100 SXM"}, num_gpus={"eq": 8})[0]["id"])
    box.wait_for(number, "exited")
    status, refused = box.call("PUT", f"/api/v0/asks/{box.offers()[0]['id']}/", {"image": "x", "disk": 10})
    assert (status, refused["error"]) == (400, "insufficient_credit")


def test_a_low_bid_is_refused_but_leaves_a_stopped_instance(shared: SandboxProcess) -> None:
    """As at the real marketplace: error, and the number of what was made all the same."""
    box = shared
    offer = box.offers(gpu_name={"eq": "L40S"})[0]["id"]
    status, refused = box.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10, "price": 0.1})
    assert (status, refused["error"]) == (400, "invalid_price")
    left = box.wait_for(refused["new_contract"], "exited")
    assert left["is_bid"] and left["dph_base"] == pytest.approx(0.1)


def test_logs_and_reboot(shared: SandboxProcess) -> None:
    """The output of onstart can be fetched through a link, and a reboot runs it again."""
    box = shared
    number = box.rent(onstart="echo begun")
    box.wait_for(number, "running")

    def log() -> str:
        link = box.call("PUT", f"/api/v0/instances/request_logs/{number}/", {"tail": "100"})[1]["result_url"]
        return str(box.call("GET", link.removeprefix(box.url), key=None)[1])

    wait_until(lambda: log() == "begun\n", what="the log")
    assert box.call("PUT", f"/api/v0/instances/reboot/{number}/", {})[0] == 200
    wait_until(lambda: log() == "begun\nbegun\n", what="the second start")
    box.wait_for(number, "running")


def test_starts_that_cannot_be_are_refused_in_one_sentence(quiet: SandboxProcess, tmp_path: Path) -> None:
    """A locked home, a taken port, a public address: one sentence, exit code 2."""
    base = [sys.executable, "-m", "dumont.sandbox", "--root-ok"]
    for arguments, words in (
        (["--home", str(quiet.home), "--port", "0"], "Another sandbox is running"),
        (["--home", str(tmp_path / "a"), "--port", str(quiet.port)], "choose another --port"),
        (["--home", str(tmp_path / "b"), "--port", "0", "--host", "0.0.0.0"], "loopback only"),
    ):
        done = subprocess.run([*base, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "") and words in done.stderr and done.stderr.count("\n") == 1


def test_root_needs_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root the sandbox refuses before it touches its home."""
    monkeypatch.setattr("os.getuid", lambda: 0)
    with pytest.raises(SandboxRefused, match="root"):
        run(SandboxSettings(home=tmp_path / "home", clock=Clock()))
    assert not (tmp_path / "home").exists()


def test_it_ends_with_its_parent(sandboxes: Start) -> None:
    """When stdin ends, the sandbox puts its machines away and exits cleanly; secrets are private."""
    box = sandboxes()
    number = box.rent(onstart="sleep 600")
    box.wait_for(number, "running")
    wait_until(lambda: box.processes(number), what="onstart")
    for name in ("api.key", "control.token"):
        assert (box.home / name).stat().st_mode & 0o777 == 0o600
    assert box.process.stdin is not None
    box.process.stdin.close()
    assert box.process.wait(60) == 0 and box.processes() == []
