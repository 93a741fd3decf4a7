"""Pausing, naming, listing and reading logs from the command line: what is asked and what is printed."""

import signal
import subprocess

import pytest
from tests.cli.conftest import Dumont
from tests.client.server import Api, Refusal

from dumont.cli.logs import unseen


def test_pause_resume_and_reboot(dumont: Dumont, api: Api) -> None:
    api.add_instance(label="box", paused_cost_hour={"amount": "0.004000", "currency": "USD"})
    paused = dumont("pause", "box")
    assert paused.code == 0 and "is paused" in paused.out
    assert "$0.0040/h" in paused.out and "dumont resume box" in paused.out
    assert dumont("resume", "box", "--wait", "5").code == 0
    assert api.asked("POST", ".*/resume")[0].body == {"wait_minutes": 5}
    assert "is running" in dumont("reboot", "box").out
    assert dumont("pause", "box", "--no-wait").out.count("goes on") == 1


def test_labels_are_set_and_taken_away(dumont: Dumont, api: Api) -> None:
    number = api.add_instance(label="old", labels={"team": "a"})
    assert "old" in dumont("label", "old").out and not api.asked("PATCH", ".*")
    done = dumont("label", "old", "new", "--set", "run=7=x", "--unset", "team")
    assert api.asked("PATCH", ".*")[0].body == {"label": "new", "labels": {"run": "7=x", "team": None}}
    assert "new (run=7=x)" in done.out
    assert dumont("label", "new", "").code == 0
    assert api.instances[number]["label"] is None
    assert dumont("label", number, "--set", "nothing").code == 2


def test_protect_and_unprotect(dumont: Dumont, api: Api) -> None:
    number = api.add_instance(label="box")
    assert "protected" in dumont("protect", "box").out
    assert api.instances[number]["protected"] is True
    assert "protected" not in dumont("unprotect", "box").out
    api.faults = [("DELETE", ".*", Refusal(409, "instance-protected", "fix", "Take the protection away first."))]
    refused = dumont("destroy", "box", "--yes", "--force")
    assert refused.code == 2 and "protection" in refused.err
    assert api.asked("DELETE", ".*")[0].query == {"force": "true"}


def test_launch_passes_its_wishes_on(dumont: Dumont, api: Api) -> None:
    api.add_offer("0.35")
    words = "--label-set run=7 --label-set who=ana --port 8080 --port 22000 --retry 5 --bid 0.4 --no-wait"
    assert dumont("launch", *words.split()).code == 0
    body = api.asked("POST", "/api/v1/instances")[0].body
    assert body["labels"] == {"run": "7", "who": "ana"} and body["ports"] == [8080, 22000]
    assert (body["attempts"], body["bid_price_usd"]) == (5, 0.4)
    assert api.asked("GET", "/api/v1/instances/offers")[0].query["machine_type"] == "interruptible"


def test_ps_passes_the_filters_on(dumont: Dumont, api: Api) -> None:
    api.add_instance(label="box")
    words = "--status running --label box --label-set run=7 --gpu A100 --provider vast --sort -price_hour"
    assert dumont("ps", *words.split()).code == 0
    query = api.asked("GET", "/api/v1/instances")[0].query
    wanted = {"status": "running", "label": "box", "labels.run": "7", "gpu_name": "A100", "provider": "vast"}
    assert query == {**wanted, "sort": "-price_hour", "limit": "100"}


def test_ps_watches_until_it_is_stopped(dumont: Dumont, api: Api) -> None:
    number = api.add_instance(label="box")
    child = subprocess.Popen(
        dumont.command("ps", "--watch"), stdout=subprocess.PIPE, text=True, env=dumont.env(), cwd=dumont.cwd
    )
    assert child.stdout is not None
    while "running" not in child.stdout.readline():
        assert child.poll() is None
    api.instances[number]["status"] = "paused"
    while "paused" not in child.stdout.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 0
    child.stdout.close()


def test_logs_are_shown_and_followed(dumont: Dumont, api: Api) -> None:
    api.add_instance(label="box")
    assert dumont("logs", "box", "--tail", "2").out == "two\nthree\n"
    assert dumont("logs", "box", "--json").document == {"lines": ["one", "two", "three"], "count": 3}
    api.log = [["one\x1b[2J", "two"], ["two", "three"], ["three", "four"]]
    child = subprocess.Popen(
        dumont.command("logs", "box", "-f"), stdout=subprocess.PIPE, text=True, env=dumont.env(), cwd=dumont.cwd
    )
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(4)] == ["one[2J\n", "two\n", "three\n", "four\n"]
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 0
    assert child.stdout.read() == ""
    child.stdout.close()


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ([], ["a"], ["a"]),
        (["a"], ["a"], []),
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "b"], [], []),
    ],
)
def test_only_new_lines_are_told(before: list[str], now: list[str], new: list[str]) -> None:
    assert unseen(before, now) == new
