"""Signing in and staying signed in."""

import stat
import subprocess
import time

from tests.cli.conftest import Dumont
from tests.client.server import PASSWORD, Api


def test_login_keeps_the_session_in_a_private_file_and_registers_a_key(nobody: Dumont, api: Api) -> None:
    done = nobody("login", "--user", "ana@x.org", "--password-stdin", stdin=PASSWORD + "\n")
    assert done.code == 0, done.err
    assert "ana@x.org" in done.out
    file = nobody.home / "cli.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert nobody.profile["access_token"] in api.tokens
    assert "password" not in nobody.profile
    assert 3500 < nobody.profile["expires_at"] - time.time() <= 3600
    key = nobody.home / "ssh" / "id_ed25519"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = key.with_suffix(".pub").read_text().strip()
    assert [row["public_key"] for row in api.ssh_keys] == [public]
    assert [path.name for path in nobody.home.iterdir() if path.name.startswith(".")] == []


def test_a_second_login_registers_no_second_key(nobody: Dumont, api: Api) -> None:
    for _ in range(2):
        assert nobody("login", "--user", "ana@x.org", "--password-stdin", stdin=PASSWORD).code == 0
    assert len(api.asked("POST", "/api/v1/ssh-keys")) == 1


def test_a_wrong_password_changes_nothing(nobody: Dumont) -> None:
    done = nobody("login", "--user", "ana@x.org", "--password-stdin", stdin="wrong\n")
    assert done.code == 2
    assert "password is wrong" in done.err
    assert not (nobody.home / "cli.json").exists()


def test_the_profile_of_the_first_run_signs_in_by_itself_and_once(dumont: Dumont, api: Api) -> None:
    assert dumont("ps").code == 0
    assert dumont("ps").code == 0
    assert len(api.asked("POST", ".*/login")) == 1
    assert dumont.profile["password"] == PASSWORD


def test_a_spent_token_is_renewed(dumont: Dumont, api: Api) -> None:
    dumont.write_profile(
        url=api.url, user="ana@x.org", password=PASSWORD, access_token="old", expires_at=time.time() - 5, note="kept"
    )
    assert dumont("whoami", "--json").document["user"] == {"email": "ana@x.org"}
    assert dumont.profile["access_token"] != "old"
    assert dumont.profile["note"] == "kept"


def test_a_revoked_token_is_renewed(dumont: Dumont, api: Api) -> None:
    assert dumont("ps").code == 0
    api.tokens.clear()
    assert dumont("ps").code == 0
    assert len(api.asked("POST", ".*/login")) == 2


def test_a_session_goes_on_by_its_refresh_token_and_no_password_is_kept(nobody: Dumont, api: Api) -> None:
    api.refreshes = []
    assert nobody("login", "--user", "ana@x.org", "--password-stdin", stdin=PASSWORD).code == 0
    assert nobody.profile["refresh_token"] == "refresh-1" and "password" not in nobody.profile
    api.tokens.clear()
    assert nobody("ps").code == 0
    assert nobody.profile["refresh_token"] == "refresh-2" and nobody.profile["access_token"] in api.tokens
    nobody.write_profile(**{**nobody.profile, "expires_at": time.time() - 5})
    assert nobody("logout").code == 0
    assert api.tokens == set() and "refresh_token" not in nobody.profile
    assert len(api.asked("POST", ".*/login")) == 1 and len(api.asked("POST", ".*/refresh")) == 2
    assert nobody("ps").code == 2


def test_commands_at_the_same_time_spend_a_refresh_token_once(nobody: Dumont, api: Api) -> None:
    """Each would be refused with a spent one, and a real server would end the session."""
    api.refreshes = ["refresh-1"]
    nobody.write_profile(url=api.url, access_token="old", refresh_token="refresh-1", expires_at=time.time() - 5)
    running = [
        subprocess.Popen(nobody.command("ps"), env=nobody.env(), cwd=nobody.cwd, stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert len(api.asked("POST", ".*/refresh")) == 1


def test_nobody_is_told_how_to_sign_in(nobody: Dumont) -> None:
    done = nobody("ps")
    assert (done.code, done.out) == (2, "")
    assert "dumont login" in done.err


def test_the_token_of_one_server_never_goes_to_another(dumont: Dumont, api: Api) -> None:
    dumont.write_profile(url="http://127.0.0.1:9", user="ana@x.org", password=PASSWORD, access_token="secret")
    dumont.environ["DUMONT_URL"] = api.url
    assert dumont("ps").code == 2
    assert api.seen == []


def test_a_token_from_the_environment_wins_and_is_not_written(nobody: Dumont, api: Api) -> None:
    api.tokens.add("from-env")
    nobody.environ["DUMONT_TOKEN"] = "from-env"
    assert nobody("ps").code == 0
    assert api.seen[-1].headers["authorization"] == "Bearer from-env"
    assert not (nobody.home / "cli.json").exists()


def test_logout_ends_the_session_and_stays_signed_out(dumont: Dumont, api: Api) -> None:
    assert dumont("ps").code == 0
    assert dumont("logout").code == 0
    assert api.tokens == set()
    assert "access_token" not in dumont.profile
    assert dumont.profile["password"] == PASSWORD
    assert dumont("ps").code == 2
    assert dumont("login").code == 0
    assert dumont("ps").code == 0
    dumont("logout", "--forget")
    assert "password" not in dumont.profile


def test_a_broken_profile_is_told_and_left_alone(dumont: Dumont) -> None:
    (dumont.home / "cli.json").write_text("{broken")
    done = dumont("ps")
    assert done.code == 2
    assert "cli.json" in done.err and "Traceback" not in done.err
    assert (dumont.home / "cli.json").read_text() == "{broken"
