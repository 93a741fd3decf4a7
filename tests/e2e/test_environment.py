"""The environment of tests and operators: settings files, the server on its port, a user, a token, and the doctor."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.product import Product, product

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = f"127.{1 + os.getpid() // 62_500 % 250}.{1 + os.getpid() // 250 % 250}.{1 + os.getpid() % 250}"
"""A loopback address of our own, so that port 8766 is free whatever else runs on this computer."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product that listens where the checklist says: on port 8766."""
    with product(tmp_path_factory.mktemp("served"), DUMONT_HOST=ADDRESS, DUMONT_PORT="8766") as made:
        made.start()
        yield made
        made.stop()


@pytest.mark.checklist("ENV-02")
def test_the_tests_take_their_settings_from_env_test(tmp_path: Path) -> None:
    """`./test` hands .env.test to the tests that it runs."""
    shutil.copy(ROOT / "test", tmp_path / "test")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/bootstrap.sh").write_text(f'venv_python="{sys.executable}"\n')
    (tmp_path / ".env.test").write_text("DUMONT_PORT=9123\n")
    (tmp_path / "test_it.py").write_text(
        "from dumont.core import load_settings\n\n\ndef test_port():\n    assert load_settings().port == 9123\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    words = ["./test", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    (tmp_path / ".env.test").write_text("DUMONT_PORT=9124\n")
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 1, "the test passed with another port, so it did not read the file"


@pytest.mark.checklist("ENV-05", "ENV-07", "ENV-08")
def test_the_server_answers_on_8766_and_signs_a_new_user_in(served: Product) -> None:
    """Health on port 8766; a user registers, signs in, and the token is his."""
    url = f"http://{ADDRESS}:8766"
    assert httpx.get(f"{url}/health", timeout=60).json()["status"] == "ok"
    account = {"email": "tester@example.com", "password": "correct horse battery"}
    assert httpx.post(f"{url}/api/v1/auth/register", json=account, timeout=60).status_code == 201
    token = httpx.post(f"{url}/api/v1/auth/login", json=account, timeout=60).json()["access_token"]
    me = httpx.get(f"{url}/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"}, timeout=60).json()
    assert me["user"]["email"] == "tester@example.com"


@pytest.mark.checklist("ENV-06")
def test_the_doctor_sees_what_works_and_what_does_not(served: Product) -> None:
    """Each connection is really tried: a marketplace key that is refused and a store without room for us show."""
    well = served.cli("doctor", "--json")
    states = {row["name"]: row["state"] for row in well.document["findings"]}
    parts = ("settings", "server", "database", "watch", "orphans", "snapshots", "marketplace", "sandbox", "store")
    assert states == dict.fromkeys(parts, "ok"), well.out
    assert well.code == 0
    key = served.home / "sandbox" / "api.key"
    right = key.read_text()
    key.write_text("wrong")
    blocked = served.home.parent / "blocked"
    blocked.write_text("a file in the way")
    ill = served.cli("doctor", "--json", DUMONT_STORE=str(blocked))
    key.write_text(right)
    found = {row["name"]: row for row in json.loads(ill.out)["findings"]}
    assert (found["marketplace"]["state"], found["store"]["state"]) == ("broken", "broken"), ill.out
    assert "key" in found["marketplace"]["detail"].lower()
    assert found["server"]["state"] == "ok" and ill.code == 1
