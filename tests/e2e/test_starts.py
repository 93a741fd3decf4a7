"""Starting and stopping `dumont up`: what it writes, what it tells, what it leaves, and when it will not start."""

import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.product import Product, Said, free_port, password_in, product
from tests.support.sandbox import wait_until

from dumont.client import ApiProblem, Client

LISTING = "find . -type f -print0 | sort -z | xargs -0 sha256sum"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product that the tests of this file start and stop in their order."""
    with product(tmp_path_factory.mktemp("starts")) as made:
        yield made


@pytest.mark.checklist("ENV-08", "E2E-01")
def test_the_first_start_gives_the_first_user_a_password_that_works(first: Product) -> None:
    told = first.start()
    password = password_in(told)
    assert password is not None
    assert first.url in told
    assert Client(first.url).login("admin@dumont.localhost", password).access_token
    with pytest.raises(ApiProblem, match="name and this password"):
        Client(first.url).login("admin@dumont.localhost", password + "x")
    assert first.cli("whoami").code == 0, "the command line is signed in by the profile"


def test_secrets_are_readable_by_their_owner_only(first: Product) -> None:
    for name in ("cli.json", "secret.key", "sandbox/control.token"):
        assert stat.S_IMODE((first.home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(first.home.stat().st_mode) == 0o700


@pytest.mark.checklist("INST-14")
def test_a_second_start_brings_the_machine_back(first: Product) -> None:
    """Same folder, port and host key, the same files, and nothing was billed in between."""
    before = first.launch("kept")
    access = first.client.instance_ssh(before.id)
    first.run_on("kept", "mkdir -p a/b && head -c 300000 /dev/urandom > a/b/weights && echo x > 'two words'")
    files = first.run_on("kept", LISTING)
    folder = first.control.state()["machines"][0]["folder"]
    assert first.stop(signal.SIGINT) == 0
    told = first.restart()
    assert password_in(told) is None, "a password is shown once"
    assert "Recovery:" not in told
    wait_until(lambda: first.client.instance(before.id).status == "running", what="the machine to be back")
    assert vars(first.client.instance_ssh(before.id)) == vars(access)
    assert first.control.state()["machines"][0]["folder"] == folder
    assert first.run_on("kept", LISTING) == files
    (line,) = first.bills(before.id)
    pauses = [(a["to"], b["from"]) for a, b in zip(line.spans, line.spans[1:], strict=False)]
    assert any(end < begin for end, begin in pauses), line.spans


def test_a_second_up_in_the_same_home_says_so(first: Product) -> None:
    second = Product(first.home, free_port(), free_port())
    said = refused(second)
    assert "already running" in said.err
    assert first.cli("whoami").code == 0, "the first one is unharmed"


def test_a_port_in_use_is_named(first: Product, tmp_path: Path) -> None:
    with product(tmp_path) as other:
        other.port = first.port
        said = refused(other)
        assert f"Port {first.port}" in said.err and "DUMONT_PORT" in said.err
        other.port, other.sandbox_port = free_port(), first.sandbox_port
        said = refused(other)
        assert f"Port {first.sandbox_port}" in said.err and "DUMONT_SANDBOX_PORT" in said.err
    assert first.cli("whoami").code == 0, "the first one is unharmed"


def test_another_secret_key_does_not_open_the_home_and_the_profile_follows_the_port(first: Product) -> None:
    """Wrong keys are refused; with the right one and on another port, the command line finds the server there."""
    assert first.stop(signal.SIGTERM) == 0
    key = first.home / "secret.key"
    right = key.read_bytes()
    for wrong in (b"not base64 at all\n", b"c2hvcnQ=\n", b"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n"):
        key.write_bytes(wrong)
        said = refused(first)
        assert "key" in said.err
    key.write_bytes(right)
    first.port = free_port()
    assert first.url in first.restart()
    said = first.cli("ps", "--json")
    assert (said.code, said.document["count"]) == (0, 1), said


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("this is no setting", "is not NAME=value"),
        ("DUMONT_PROT=1234", "DUMONT_PROT"),
        ("DUMONT_WORKER_CONCURRENCY=many", "DUMONT_WORKER_CONCURRENCY"),
        ("DUMONT_WORKER_CONCURRENCY=100000", "DUMONT_WORKER_CONCURRENCY"),
        ("DUMONT_PROVIDER=nowhere", "DUMONT_PROVIDER"),
    ],
)
def test_a_broken_settings_file_is_named(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / ".env").write_text(f"# mine\n{line}\n")
    with product(tmp_path) as made:
        assert named in refused(made).err
        assert made.cluster is None and not (made.home / "postgres").exists(), "nothing was begun"


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    with product(tmp_path) as made:
        assert str(made.home) in refused(made).err
        made.home.unlink()


def test_a_disk_without_room_leaves_nothing_half_made(tmp_path: Path) -> None:
    """No file may grow beyond a limit, for any user: first none at all, then not the key, then not the database."""
    with product(tmp_path) as made:
        for room, named in ((0, "TMPDIR"), (20, "secret.key"), (200_000, "Making a new database")):
            assert named in refused(made, file_bytes=room).err
        told = made.start()
        assert password_in(told) is not None
        assert "Recovery:" in told, "starts that failed have not used up the recovery code"
        assert made.cli("ps", "--json").document["count"] == 0
        assert made.stop() == 0


def refused(made: Product, *, file_bytes: int | None = None) -> Said:
    """See a start end with exit code 2 and one sentence, and with nothing left running."""
    running = set(made.processes())
    said = made.refused(file_bytes=file_bytes)
    assert said.code == 2, said
    assert "Traceback" not in said.err, said.err
    assert said.out == ""
    assert len(said.err.strip().splitlines()) <= 2, said.err
    wait_until(lambda: not set(made.processes()) - running, what="all that it began to end")
    return said
