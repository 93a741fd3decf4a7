"""Finding what can be rented from the command line: every filter, all pages, the age, watching, completion."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from tests.cli.conftest import Dumont
from tests.client.server import Api

LIST = "/api/v1/instances/offers"


def test_every_filter_is_an_option(dumont: Dumont, api: Api) -> None:
    """Each option travels under the name that the API gives it."""
    words = (
        "--gpu A100 --exact --num-gpus 2 --min-gpu-ram 24 --max-gpu-ram 80 --min-price 0.2 --max-price 1.5 --region EU "
        "--country PL --min-reliability 0.9 --verified --min-disk 50 --min-cpu 8 --min-ram 32 --min-down 500 "
        "--min-up 100 --cuda 12.4 --static-ip --interruptible --provider vast --disk 100 --sort -inet_up "
        "--limit 5 --max-age 0"
    )
    assert dumont("offers", *words.split()).out == "No offer fits these filters.\n"
    wanted = {"gpu_name": "A100", "gpu_match": "exact", "num_gpus": "2", "min_gpu_ram": "24.0", "max_gpu_ram": "80.0"}
    wanted |= {"min_price": "0.2", "max_price": "1.5", "region": "EU", "country": "PL", "min_reliability": "0.9"}
    wanted |= {"verified_only": "true", "min_disk": "50.0", "min_cpu_cores": "8.0", "min_cpu_ram": "32.0"}
    wanted |= {"min_inet_down": "500.0", "min_inet_up": "100.0", "cuda_version": "12.4", "static_ip": "true"}
    wanted |= {"machine_type": "interruptible", "provider": "vast", "disk_size": "100.0", "sort": "-inet_up"}
    assert api.asked("GET", LIST)[0].query == {**wanted, "limit": "5", "max_age_seconds": "0.0"}


def test_all_offers_are_one_table_and_one_document(dumont: Dumont, api: Api) -> None:
    made = [api.add_offer(f"{1 + n / 1000:.3f}") for n in range(230)]
    done = dumont("offers", "--all")
    assert len(done.out.splitlines()) == 231 and "shows more" not in done.err
    document = dumont("offers", "--all", "--json").document
    assert [row["id"] for row in document["offers"]] == made
    assert (document["count"], document["total"], document["next_cursor"]) == (230, 230, None)
    assert "--all shows all" in dumont("offers").err


def test_the_age_and_the_state_of_each_marketplace_are_told(dumont: Dumont, api: Api) -> None:
    """On stderr, so that a pipe gets the table alone; and without control characters of whoever wrote the detail."""
    api.add_offer("0.35")
    old = (datetime.now(timezone.utc) - timedelta(seconds=192)).isoformat()
    api.sources = [
        {"provider": "sandbox", "status": "ok", "as_of": old, "detail": None},
        {"provider": "vast", "status": "stale", "as_of": old, "detail": "It is \x1b[2Jdown"},
        {"provider": "other", "status": "unreachable", "as_of": None, "detail": None},
    ]
    done = dumont("offers")
    assert len(done.out.splitlines()) == 2
    assert done.err.splitlines() == [
        "Offers of sandbox: 3 min 12 s old.",
        "Offers of vast are stale, 3 min 12 s old (It is [2Jdown).",
        "Offers of other are unreachable.",
    ]


def test_offers_are_watched_until_ctrl_c(dumont: Dumont, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for again and again, and Ctrl-C is a good end."""
    monkeypatch.setattr("dumont.cli.market._WATCH_SECONDS", 0.02)
    api.add_offer("0.35")
    api.on_offers = lambda: os.kill(os.getpid(), signal.SIGINT) if len(api.asked("GET", LIST)) == 3 else None
    done = dumont("offers", "--watch")
    assert done.code == 0 and done.out.count("$0.3500/h") >= 2
    assert api.asked("GET", LIST)[0].query["max_age_seconds"] == "0.02"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_scripts(dumont: Dumont, shell: str) -> None:
    done = dumont("completion", shell)
    assert done.code == 0 and "_DUMONT_COMPLETE" in done.out
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.out, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_completes_commands_and_options(dumont: Dumont) -> None:
    """The script is loaded into a real bash, which then asks the program itself."""
    program = dumont.cwd / "dumont"
    program.write_text(f'#!/bin/sh\nexec {" ".join(dumont.command())} "$@"\n')
    program.chmod(0o755)
    (dumont.cwd / "script").write_text(dumont("completion", "bash").out)
    ask = """
    source ./script
    COMP_WORDS=(dumont offers --min-g) COMP_CWORD=2; _dumont_completion dumont; echo "${COMPREPLY[@]}"
    COMPREPLY=(); COMP_WORDS=(dumont off) COMP_CWORD=1; _dumont_completion dumont; echo "${COMPREPLY[@]}"
    """
    environment = {
        **dumont.env(),
        "PATH": f"{dumont.cwd}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        ["bash", "-c", ask], cwd=dumont.cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["--min-gpu-ram", "offers"], done.stderr


def test_json_of_one_page_is_the_servers_own(dumont: Dumont, api: Api) -> None:
    offer = api.add_offer("0.35", surprise={"a": [1]})
    document = json.loads(dumont("offers", "--json").out)
    assert document["offers"][0]["id"] == offer and document["offers"][0]["surprise"] == {"a": [1]}
