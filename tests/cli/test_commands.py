"""Finding, renting, sleeping, waking: what the commands do and what they print."""

import json
import os
import pty
import signal
import subprocess
import threading

import pytest
from tests.cli.conftest import Dumont
from tests.client.server import Api, Refusal, until


def test_offers_are_a_table_with_prices_to_the_right(dumont: Dumont, api: Api) -> None:
    api.add_offer("0.350789")
    api.add_offer("12.5", gpu="H100 SXM", num_gpus=8)
    done = dumont("offers")
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) == 3
    assert "$0.3508/h" in lines[1] and "$12.5000/h" in lines[2] and "8 x H100 SXM" in lines[2]
    ends = {line.index("/h") + 2 for line in lines[1:]} | {lines[0].index("PRICE") + 5}
    assert len(ends) == 1
    assert "\x1b" not in done.out


def test_offers_pass_the_filters_on(dumont: Dumont, api: Api) -> None:
    words = "--gpu A100 --max-price 1.5 --min-reliability 0.9 --verified --region EU --limit 5 --sort -price_hour"
    done = dumont("offers", *words.split())
    assert done.out == "No offer fits these filters.\n"
    query = api.asked("GET", "/api/v1/instances/offers")[0].query
    assert query == {
        "gpu_name": "A100",
        "max_price": "1.5",
        "min_reliability": "0.9",
        "verified_only": "true",
        "region": "EU",
        "limit": "5",
        "sort": "-price_hour",
    }


def test_offers_say_how_many_more_there_are(dumont: Dumont, api: Api) -> None:
    for _ in range(3):
        api.add_offer("0.35")
    assert "The first 2 of 3" in dumont("offers", "--limit", "2").err
    assert dumont("offers").err == ""


def test_json_is_one_document_and_nothing_else(dumont: Dumont, api: Api) -> None:
    offer = api.add_offer("0.35")
    api.add_instance(label="a", surprise=[1])
    assert dumont("offers", "--json").document["offers"][0]["id"] == offer
    shown = dumont("ps", "--json").document
    assert (shown["count"], shown["instances"][0]["surprise"]) == (1, [1])
    assert dumont("snapshots", "--json").document == {"snapshots": [], "count": 0}
    assert dumont("operations", "--json").document == {"operations": [], "count": 0}
    done = dumont("launch", "--json")
    assert done.document["status"] == "running"
    assert done.document["operation"]["status"] == "succeeded"


def test_launch_without_an_offer_takes_the_cheapest_and_says_which(dumont: Dumont, api: Api) -> None:
    api.add_offer("0.90")
    cheap = api.add_offer("0.35")
    api.add_offer("0.10", gpu="GTX 1080")
    done = dumont("launch", "--gpu", "RTX 4090", "--label", "train", "--env", "A=b=c", "--max-price", "1")
    assert done.code == 0, done.err
    body = api.asked("POST", "/api/v1/instances")[0].body
    assert body == {"offer_id": cheap, "label": "train", "env": {"A": "b=c"}, "max_price": 1.0}
    assert cheap in done.err and "$0.3500/h" in done.err
    assert "is running" in done.out and "dumont ssh train" in done.out
    assert len(api.ssh_keys) == 1


def test_launch_goes_on_to_the_next_offer_when_one_is_gone(dumont: Dumont, api: Api) -> None:
    api.add_offer("0.35")
    second = api.add_offer("0.40")
    api.faults = [("POST", "/api/v1/instances", Refusal(409, "offer-gone", "fix", "Gone."))]
    assert dumont("launch").code == 0
    assert [seen.body["offer_id"] for seen in api.asked("POST", "/api/v1/instances")][-1] == second
    assert len(api.instances) == 1


def test_launch_of_a_named_offer_takes_the_end_of_its_id(dumont: Dumont, api: Api) -> None:
    wanted = api.add_offer("0.90")
    api.add_offer("0.35")
    assert dumont("launch", wanted[-8:], "--no-wait").code == 0
    assert api.asked("POST", "/api/v1/instances")[0].body == {"offer_id": wanted}
    assert dumont("launch", wanted, "--gpu", "A100").code == 2
    assert dumont("launch", "nosuchoffer").code == 2
    assert len(api.instances) == 1


def test_ps_hides_the_destroyed_unless_asked(dumont: Dumont, api: Api) -> None:
    api.add_instance(label="alive")
    api.add_instance(label="gone", status="destroyed")
    assert "alive" in dumont("ps").out
    assert "gone" not in dumont("ps").out
    everything = dumont("ps", "--all").out
    assert "gone" in everything and "$0.3508/h" in everything and "$1.2500" in everything


def test_the_whole_life_of_an_instance(dumont: Dumont, api: Api) -> None:
    api.add_offer("0.35")
    assert dumont("launch", "--label", "box").code == 0
    slept = dumont("hibernate", "box", "--destroy")
    assert slept.code == 0
    assert "given back" in slept.out and "dumont wake box" in slept.out
    assert "Saved 3.0 GiB in 8,500 files, 1.0 GiB of it new in the storage." in slept.out
    assert "processes are not" in slept.err
    assert api.asked("POST", ".*/hibernate")[0].body == {"then": "destroy"}
    assert dumont("wake", "box", "--elsewhere", "--max-price", "0.5").code == 0
    assert api.asked("POST", ".*/wake")[0].body == {"elsewhere": True, "max_price": 0.5}
    ended = dumont("destroy", "box", "--yes")
    assert (ended.code, "is destroyed" in ended.out) == (0, True)
    assert [row["status"] for row in api.instances.values()] == ["destroyed"]


def test_an_instance_is_named_by_label_or_part_of_its_id(dumont: Dumont, api: Api) -> None:
    one, two = api.add_instance(label="one"), api.add_instance(label="one-more")
    assert dumont("show", "one", "--json").document["id"] == one
    assert dumont("show", two[-9:].lower(), "--json").document["id"] == two
    assert dumont("show", two, "--json").document["id"] == two
    unclear = dumont("show", "ins_")
    assert unclear.code == 2 and one in unclear.err and two in unclear.err
    assert "No instance is called" in dumont("show", "nothing").err


def test_progress_in_a_pipe_is_plain_lines(dumont: Dumont, api: Api) -> None:
    api.cuts = [3]
    done = dumont("hibernate", api.add_instance())
    lines = done.err.splitlines()[1:]
    assert lines == [
        "freeze: started",
        "freeze: done (2.5 s)",
        "save files: started",
        "save files: done (4.0 MiB, 2.5 s)",
    ]


def test_progress_on_a_terminal_is_a_bar_with_bytes(dumont: Dumont, api: Api) -> None:
    api.hold = threading.Event()
    number = api.add_instance()
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        dumont.command("hibernate", number), stdout=subprocess.PIPE, stderr=theirs, env=dumont.env(), cwd=dumont.cwd
    )
    os.close(theirs)
    told = b""
    while b"save files: done" not in told:
        told += os.read(ours, 4096)
    api.hold.set()
    assert child.stdout is not None and b"hibernated" in child.stdout.read()
    assert child.wait(20) == 0
    os.close(ours)
    shown = told.decode()
    assert "━" * 12 + "╌" * 12 + "  50% save files 2.0 MiB of 4.0 MiB" in shown
    assert ", 1 min 25 s left" in shown
    assert "\r\x1b[K" in shown


def test_interrupting_a_wait_says_that_the_work_goes_on(dumont: Dumont, api: Api) -> None:
    api.hold = threading.Event()
    number = api.add_instance()
    child = subprocess.Popen(
        dumont.command("hibernate", number),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dumont.env(),
        cwd=dumont.cwd,
    )
    assert child.stderr is not None
    while "save files: done" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    operation = next(iter(api.work))
    assert child.returncode == 130
    assert f"dumont operations {operation} --follow" in err and "goes on" in err
    assert api.asked("POST", ".*/cancel") == []
    api.hold.set()
    assert dumont("operations", operation, "--follow").code == 0


def test_interrupting_a_question_says_where_to_look(dumont: Dumont, api: Api) -> None:
    answer = threading.Event()
    api.faults = [("GET", "/api/v1/instances", answer)]
    child = subprocess.Popen(dumont.command("ps"), stderr=subprocess.PIPE, text=True, env=dumont.env(), cwd=dumont.cwd)
    until(lambda: bool(api.asked("GET", "/api/v1/instances")))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    answer.set()
    assert child.returncode == 130
    assert "dumont operations" in err and "Traceback" not in err


def test_cancel_asks_for_it(dumont: Dumont, api: Api) -> None:
    dumont("hibernate", api.add_instance(), "--no-wait")
    operation = next(iter(api.work))
    assert "cancelling" in dumont("cancel", operation[-10:]).out
    assert len(api.asked("POST", f".*/{operation}/cancel")) == 1


def test_an_operation_that_failed_ends_with_its_own_problem(dumont: Dumont, api: Api) -> None:
    api.will_be = "failed"
    api.problem = {"code": "no-capacity", "act": "wait", "status": 503, "detail": "The card is rented by another."}
    number = api.add_instance(status="hibernated")
    done = dumont("wake", number, "--json")
    assert (done.code, done.out) == (4, "")
    assert done.problem["code"] == "no-capacity"


def test_snapshots_are_shown_with_what_is_unknown_as_a_dash(dumont: Dumont, api: Api) -> None:
    api.snapshots = [
        {
            "id": "snp_01JQ8Z7C5T2V9K4M6N8P0R2S4T",
            "status": "ready",
            "files": 1234,
            "bytes_total": 5 * 2**30,
            "bytes_new": 0,
            "ratio": 1.5,
        }
    ]
    cells = dumont("snapshots").out.splitlines()[1].split("  ")
    shown = [cell.strip() for cell in cells if cell.strip()]
    assert shown == ["8P0R2S4T", "-", "ready", "1,234", "5.0 GiB", "0 B", "-", "1.50x", "-", "-"]


def test_text_from_the_server_cannot_drive_the_terminal(dumont: Dumont, api: Api) -> None:
    api.add_instance(label="a\x1b[2Jb\nc")
    done = dumont("ps")
    assert "\x1b" not in done.out and len(done.out.splitlines()) == 2


@pytest.mark.parametrize(
    ("refusal", "code", "words"),
    [
        (Refusal(409, "offer-gone", "fix", "It was rented."), 2, "It was rented. `dumont offers`"),
        (Refusal(402, "insufficient-funds", "pay", "The wallet holds $1."), 3, "Add funds"),
        (Refusal(503, "no-capacity", "wait", "None is free.", {"Retry-After": "30"}), 4, "Try again in 30 s."),
        (Refusal(500, "internal", "report", "It failed.", instance="req_1"), 1, "report it with req_1"),
        (
            Refusal(422, "invalid-request", "fix", "Bad.", errors=[{"pointer": "/label", "detail": "Too long."}]),
            2,
            "label: Too long.",
        ),
    ],
)
def test_the_exit_code_follows_what_to_do(dumont: Dumont, api: Api, refusal: Refusal, code: int, words: str) -> None:
    offer = api.add_offer("0.35")
    api.faults = [("POST", "/api/v1/instances", refusal)] * 2
    done = dumont("launch", offer)
    assert (done.code, done.out) == (code, "")
    assert words in done.err and "Traceback" not in done.err
    as_json = dumont("launch", offer, "--json")
    assert (as_json.code, as_json.out) == (code, "")
    assert as_json.problem["act"] == refusal.document["act"]
    assert as_json.problem["code"] == refusal.document["code"]


def test_where_no_server_answers_the_command_that_starts_it_is_named(dumont: Dumont) -> None:
    dumont.environ = {"DUMONT_URL": "http://127.0.0.1:1", "DUMONT_TOKEN": "t"}
    done = dumont("ps")
    assert done.code == 5
    assert "./run" in done.err and "127.0.0.1:1" in done.err
    assert json.loads(dumont("ps", "--json").err)["code"] == "server-unreachable"


def test_a_rent_whose_answer_was_lost_rents_one_machine(dumont: Dumont, api: Api) -> None:
    api.add_offer("0.35")
    api.faults = [("POST", "/api/v1/instances", "drop-after")]
    assert dumont("launch").code == 0
    assert len(api.instances) == 1
    asked = api.asked("POST", "/api/v1/instances")
    assert len(asked) == 2 and len({seen.headers["idempotency-key"] for seen in asked}) == 1


@pytest.mark.parametrize("args", [["launch", "--num-gpus", "x"], ["ps", "--nonsense"], ["nonsense"], ["exec", "a"]])
def test_wrong_usage_ends_with_2(dumont: Dumont, args: list[str]) -> None:
    done = dumont(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err


def test_help_groups_the_commands(dumont: Dumont) -> None:
    shown = dumont.process("--help").out
    assert [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "Options:",
        "Rent:",
        "Work on a machine:",
        "Sleep and wake:",
        "What happened:",
        "Money:",
        "Account:",
    ]
    assert "Show your instances." in shown


def test_ps_imports_nothing_heavy(dumont: Dumont, api: Api) -> None:
    api.add_instance()
    dumont.environ["PYTHONPROFILEIMPORTTIME"] = "1"
    done = dumont.process("ps")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines()}
    assert "click" in loaded and "dumont" in loaded
    heavy = {"httpx", "pydantic", "fastapi", "starlette", "sqlalchemy", "dbos", "asyncssh", "cryptography", "typer"}
    assert loaded & (heavy | {"rich", "asyncio"}) == set()


def test_waiting_follows_a_server_that_holds_back(dumont: Dumont, api: Api) -> None:
    api.hold = threading.Event()
    number = api.add_instance()
    results = []
    runner = threading.Thread(target=lambda: results.append(dumont.process("hibernate", number)))
    runner.start()
    until(lambda: bool(api.asked("GET", ".*/events")))
    assert results == []
    api.hold.set()
    runner.join(20)
    assert results[0].code == 0 and api.instances[number]["status"] == "hibernated"
