"""Reaching into machines over SSH with the host key pinned, by OpenSSH and by asyncssh."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from tests.cli.conftest import Dumont
from tests.cli.machine import Machine, machine
from tests.client.server import Api


@pytest.fixture(scope="module")
def account_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key pair for all tests here."""
    folder = tmp_path_factory.mktemp("keys")
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / "id_ed25519")
    (folder / "id_ed25519").chmod(0o600)
    key.write_public_key(folder / "id_ed25519.pub")
    return folder


@pytest.fixture
def box(dumont: Dumont, api: Api, account_key: Path) -> Iterator[Machine]:
    """A running machine called `box`, which takes the account's key."""
    shutil.copytree(account_key, dumont.home / "ssh")
    api.ssh_keys.append({"id": "key_1", "public_key": (account_key / "id_ed25519.pub").read_text()})
    with machine(api, dumont.cwd / "machine") as running:
        api.access[api.add_instance(label="box")] = running.access()
        yield running


@pytest.fixture(params=["openssh", "asyncssh"])
def way(request: pytest.FixtureRequest, dumont: Dumont) -> str:
    """With the system's OpenSSH, and on a computer that has none."""
    if request.param == "asyncssh":
        dumont.environ["PATH"] = str(dumont.cwd / "empty")
    return str(request.param)


def test_exec_runs_in_the_workspace_and_passes_the_exit_code_on(dumont: Dumont, box: Machine, way: str) -> None:
    script = "pwd; echo bad >&2; cat; printf '<%s>' \"$@\"; exit 42"
    done = dumont.process("exec", "box", "--", "sh", "-c", script, "x", "a b", "$HOME", stdin="typed\n")
    assert done.code == 42
    assert done.out == f"{box.workspace}\ntyped\n<a b><$HOME>"
    assert done.err == "bad\n"


def test_ssh_runs_a_shell_line(dumont: Dumont, box: Machine, way: str) -> None:
    done = dumont.process("ssh", "box", "--", "echo $((6*7)) && exit 3")
    assert (done.out, done.code) == ("42\n", 3)


def test_ssh_without_a_command_is_a_shell_in_the_workspace(dumont: Dumont, box: Machine, way: str) -> None:
    done = dumont.process("ssh", "box", stdin="pwd\nexit 5\n")
    assert (done.out, done.code) == (f"{box.workspace}\n", 5)


def test_cp_there_and_back_keeps_every_byte(dumont: Dumont, box: Machine, way: str) -> None:
    tree = dumont.cwd / "my files"
    (tree / "deep er").mkdir(parents=True)
    content = bytes(range(256)) * 4096
    (tree / "deep er" / "w:eights.bin").write_bytes(content)
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)

    assert dumont("cp", "my files", "box:there").code == 0
    there = box.workspace / "there"
    assert (there / "deep er" / "w:eights.bin").read_bytes() == content
    assert (there / "run.sh").stat().st_mode & 0o777 == 0o755

    done = dumont("cp", "box:there/deep er/w:eights.bin", "./back:again", "--json")
    assert done.document["copied"] is True
    assert (dumont.cwd / "back:again").read_bytes() == content
    absolute = box.root / "outside.txt"
    absolute.write_text("x")
    assert dumont("cp", f"box:{absolute}", "outside").code == 0
    assert (dumont.cwd / "outside").read_text() == "x"


def test_a_copy_that_fails_says_so(dumont: Dumont, box: Machine, way: str) -> None:
    done = dumont("cp", "box:missing", "here")
    assert done.code != 0 and "failed" in done.err and "Traceback" not in done.err
    assert not (dumont.cwd / "here").exists()


def test_a_changed_host_key_is_refused(dumont: Dumont, box: Machine, api: Api, way: str) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    number = next(iter(api.access))
    mark = box.workspace / "mark"
    assert dumont("exec", "box", "--", "touch", str(mark)).code == 0
    mark.unlink()
    api.access[number] = box.access(host_key=other)
    done = dumont.process("exec", "box", "--", "touch", str(mark))
    assert done.code != 0
    assert "host key" in done.err.lower()
    assert not mark.exists()
    assert dumont("cp", str(dumont.home / "cli.json"), "box:stolen").code != 0
    assert list(box.workspace.iterdir()) == []


def test_a_key_that_the_machine_does_not_know_is_refused(dumont: Dumont, box: Machine, api: Api, way: str) -> None:
    api.ssh_keys.clear()
    done = dumont.process("exec", "box", "--", "true")
    assert done.code != 0
    assert "Permission denied" in done.err and "Traceback" not in done.err
    assert f"dumont keys attach {next(iter(api.access))}" in done.err


def test_a_machine_that_runs_learns_this_computer_s_key(dumont: Dumont, box: Machine, api: Api) -> None:
    api.ssh_keys.clear()
    assert dumont.process("exec", "box", "--", "true").code != 0
    done = dumont("keys", "attach", "box", "--json")
    assert (done.code, done.document["fingerprint"]) == (0, api.ssh_keys[0]["fingerprint"])
    (asked,) = [seen for seen in api.seen if seen.path.endswith("/ssh/keys")]
    assert asked.body == {"ssh_key_id": api.ssh_keys[0]["id"]}
    assert dumont.process("exec", "box", "--", "true").code == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"host": "-oProxyCommand=touch /tmp/owned"}, 1),
        ({"user": "-l"}, 1),
        ({"host_key": "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"}, 1),
        ({"host_key": None}, 4),
        ({"ready": False}, 4),
        ({"port": None}, 4),
    ],
)
def test_what_is_not_fit_for_a_command_line_never_reaches_one(
    dumont: Dumont, box: Machine, api: Api, change: dict[str, object], code: int
) -> None:
    number = next(iter(api.access))
    api.access[number] = box.access(**change)
    done = dumont("exec", "box", "--", "touch", "mark")
    assert done.code == code
    assert list(box.workspace.iterdir()) == []


def test_cp_needs_one_end_on_a_machine(dumont: Dumont) -> None:
    assert dumont("cp", "a", "b").code == 2
    assert dumont("cp", "x:a", "y:b").code == 2


def test_the_key_is_made_in_process_where_there_is_no_ssh_keygen(dumont: Dumont, api: Api) -> None:
    dumont.environ["PATH"] = str(dumont.cwd / "empty")
    assert dumont("login").code == 0
    private = dumont.home / "ssh" / "id_ed25519"
    assert private.stat().st_mode & 0o777 == 0o600
    made = subprocess.run(["ssh-keygen", "-y", "-f", str(private)], capture_output=True, text=True, check=True)
    assert made.stdout.split()[:2] == api.ssh_keys[0]["public_key"].split()[:2]


def test_a_lost_public_key_is_made_again_from_the_private_one(dumont: Dumont, box: Machine, api: Api) -> None:
    public = dumont.home / "ssh" / "id_ed25519.pub"
    before = public.read_text().split()[:2]
    public.unlink()
    assert dumont("exec", "box", "--", "true").code == 0
    assert public.read_text().split()[:2] == before
