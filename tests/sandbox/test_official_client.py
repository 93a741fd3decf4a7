"""The marketplace's own client, as it is published: its commands do to real machines what they say.

Source of its quirks: the package vastai 1.9.1, run against this sandbox.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess, start_sandbox, wait_until

Login = Callable[[dict[str, Any]], Any]
MAIN = "from vastai.cli.main import main; import sys; sys.exit(main())"


@dataclass(frozen=True)
class Vastai:
    """The command line at a sandbox, with folders of its own."""

    box: SandboxProcess
    folder: Path

    def __call__(self, *words: str) -> str:
        """Run a command and return what it printed.

        Errors: AssertionError when it failed or complained.
        """
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words], env=self._environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and "rror" not in done.stderr, (words, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: str) -> Any:
        """Run a command with --raw and return what it says."""
        return json.loads(self(*words, "--raw"))

    def _environment(self) -> dict[str, str]:
        # The address stands in the environment, because names of GPUs are fetched while the options are still unread.
        return {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "HOME": str(self.folder),
            "VAST_URL": self.box.url,
            "VAST_API_KEY": self.box.key,
            "VASTAI_NO_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            **{f"XDG_{name}_HOME": str(self.folder / name) for name in ("CACHE", "CONFIG", "STATE", "DATA")},
        }


@pytest.fixture(scope="module")
def vastai(tmp_path_factory: pytest.TempPathFactory, public_key: str) -> Iterator[Vastai]:
    """The client at a sandbox of its own."""
    folder = tmp_path_factory.mktemp("vastai")
    box = start_sandbox(folder)
    box.add_key(public_key)
    yield Vastai(box, folder)
    box.stop()


def test_a_life_by_the_official_command_line(vastai: Vastai, login: Login) -> None:
    """Search, create, show, label, stop, start, destroy: processes, addresses and the bill follow each word."""
    box = vastai.box
    offers = vastai.json("search", "offers", "num_gpus=1 reliability>0.9", "-o", "dph", "--storage", "10")
    prices = [offer["dph_total"] for offer in offers]
    assert prices == sorted(prices) and {offer["num_gpus"] for offer in offers} == {1}
    made = vastai.json(
        *("create", "instance", str(offers[0]["id"]), "--image", "ubuntu:22.04", "--disk", "10", "--ssh", "--direct"),
        *("--label", "by-hand", "--env", "-e GREETING=hello", "--onstart-cmd", "echo $GREETING; sleep 600"),
    )
    number = made["new_contract"]
    assert made["success"]
    up = box.wait_for(number, "running")
    wait_until(lambda: box.processes(number), what="its start command")
    (shown,) = vastai.json("show", "instances")
    assert (shown["id"], shown["label"], shown["actual_status"]) == (number, "by-hand", "running")
    assert shown["extra_env"] == {"GREETING": "hello"}
    address = vastai("ssh-url", str(number)).strip()
    assert address == f"ssh://root@{up['public_ipaddr']}:{up['ports']['22/tcp'][0]['HostPort']}"

    async def said() -> str:
        async with login(up) as connection:
            return str((await connection.run("echo $GREETING")).stdout)

    assert asyncio.run(said()) == "hello\n"
    assert "hello" in vastai("logs", str(number), "--tail", "5")
    vastai("label", "instance", str(number), "renamed")
    assert vastai.json("show", "instance", str(number))["label"] == "renamed"

    vastai("stop", "instance", str(number))
    box.wait_for(number, "exited")
    assert box.processes(number) == []
    stopped = box.control.line(number)
    vastai("start", "instance", str(number))
    box.wait_for(number, "running")
    wait_until(lambda: box.processes(number), what="its start command, again")
    vastai("destroy", "instance", str(number), "-y")
    assert box.instance(number) is None and box.processes(number) == []
    assert not (box.home / "machines" / str(number)).exists()

    _check_bill(box, number, round(offers[0]["dph_base"] * 1e9))
    assert box.control.line(number).gpu_nanousd > stopped.gpu_nanousd > 0


def _check_bill(box: SandboxProcess, number: int, rate: int) -> None:
    """See that the GPU was billed for the two stretches in which the machine ran, at the rate of its offer."""
    line = box.control.line(number)
    ran = [span for span in line.spans if span["state"] == "running"]
    assert len(ran) == 2 and {span["gpu_rate_nanousd_hour"] for span in ran} == {rate}
    assert line.gpu_nanousd == pytest.approx(rate * sum(span["to"] - span["from"] for span in ran) / 3600, abs=1000)
    assert line.destroyed_at is not None and box.control.line(number) == line


def test_the_official_library(vastai: Vastai, capsys: pytest.CaptureFixture[str]) -> None:
    """The other calls of the client, through its library: bulk forms, keys, money, bids and lists that are empty."""
    from vastai import VastAI  # it sets up logging when it is imported, so not before it is needed

    box = vastai.box
    client = VastAI(api_key=box.key, server_url=box.url)
    offers = client.search_offers(query="num_gpus=1 reliability>0.9", type="on-demand")
    numbers = [
        client.create_instance(id=offer["id"], image="ubuntu:22.04", disk=10)["new_contract"] for offer in offers[:2]
    ]
    for number in numbers:
        box.wait_for(number, "running")
    client.stop_instances(numbers)
    for number in numbers:
        box.wait_for(number, "exited")
    client.start_instances(numbers)
    for number in numbers:
        box.wait_for(number, "running")
    client.reboot_instance(id=numbers[0])
    client.recycle_instance(id=numbers[1])
    for number in numbers:
        box.wait_for(number, "running")
    assert "workspace" in box.call("GET", _path(box, numbers[0], "ls"), key=None)[1]
    assert {row["id"] for row in client.show_instances()} == set(numbers)
    client.destroy_instances(numbers)
    assert client.show_instances() == []
    assert client.show_user()["credit"] < 500
    assert len(client.show_ssh_keys()) == 1
    assert client.show_volumes() == [] and client.search_volumes() == []
    capsys.readouterr()


def _path(box: SandboxProcess, number: int, command: str) -> str:
    """Send a command to a machine and return the path of its result."""
    sent = box.call("PUT", f"/api/v0/instances/command/{number}/", {"command": command})[1]
    return str(sent["result_url"]).removeprefix(box.url)
