"""`dumont backup` and `dumont restore-backup` as people use them: while Dumont runs, when it is stopped, elsewhere."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from tests.support.product import Product, Said, product

from dumont.core import load_settings
from dumont.db import psycopg_url, resolve_urls, visit_database


@dataclass(frozen=True)
class Story:
    """An installation that was backed up while it ran and again after it had stopped."""

    old: Product
    hot: Path
    cold: Path
    told_hot: Said
    told_cold: Said
    refused: Said


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("installation")
    hot, cold = folder / "hot", folder / "cold"
    with product(folder) as old:
        old.start()
        told_hot = old.cli("backup", hot.name, "--json")
        refused = old.cli("restore-backup", str(hot), "--force")
        assert httpx.get(f"{old.url}/health").status_code == 200
        old.stop()
        told_cold = old.cli("backup", str(cold))
        old.expect_nothing_running()
        yield Story(old, hot, cold, told_hot, told_cold, refused)


def manifest(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return found


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(psycopg_url(url)) as connection:
        return connection.execute(query.encode()).fetchall()


def test_it_works_while_dumont_runs_and_when_it_is_stopped(story: Story) -> None:
    assert story.told_hot.code == 0, story.told_hot
    document = story.told_hot.document
    assert document["folder"] == str(story.hot) and document["rows"] > 0
    assert str(story.old.home / "secret.key") in document["also_copy"]
    assert story.told_cold.code == 0, story.told_cold
    assert str(story.old.home / "secret.key") in story.told_cold.out and "database alone" in story.told_cold.out
    assert story.told_cold.err.startswith("Saving: ")
    tables = [manifest(folder)["tables"] for folder in (story.hot, story.cold)]
    assert all(isinstance(found, dict) and found["public.user_account"] == 1 for found in tables)


def test_it_is_not_restored_under_a_running_dumont(story: Story) -> None:
    assert story.refused.code == 2 and "already running" in story.refused.err


def test_a_new_home_with_the_key_takes_over_the_users(story: Story, tmp_path: Path) -> None:
    with product(tmp_path) as new:
        keyless = new.cli("restore-backup", str(story.hot), "--json")
        assert keyless.code == 2 and "no secret.key" in json.loads(keyless.err)["detail"] and not new.home.exists()
        new.home.mkdir(mode=0o700)
        shutil.copy(story.old.home / "secret.key", new.home)
        restored = new.cli("restore-backup", str(story.hot))
        assert restored.code == 0 and "Restored" in restored.out, restored
        new.expect_nothing_running()
        secret = base64.b64decode((new.home / "secret.key").read_text())
        query = "SELECT id, email, password_hash FROM user_account"
        with visit_database(story.old.home, secret) as there, visit_database(new.home, secret) as here:
            users = [rows(url, query) for url in (there, here)]
            urls = resolve_urls(load_settings({"DUMONT_HOME": str(new.home)}), secret, here)
        assert users[0] == users[1] and len(users[0]) == 1
        assert urls.second_wall and urls.worker != urls.owner


def test_replacing_saves_what_was_there_first(story: Story) -> None:
    old = story.old
    refused = old.cli("restore-backup", str(story.cold))
    assert refused.code == 2 and "not empty" in refused.err and "saved first" in refused.err
    replaced = old.cli("restore-backup", str(story.cold), "--force", "--json")
    assert replaced.code == 0, replaced
    kept = Path(replaced.document["saved_first"])
    assert kept.parent == old.home and manifest(kept)["tables"] == manifest(story.cold)["tables"]
    old.expect_nothing_running()


def test_where_nothing_is_installed_nothing_is_made(tmp_path: Path) -> None:
    with product(tmp_path) as nobody:
        said = nobody.cli("backup", "saved")
        assert said.code == 2 and "no secret.key" in said.err
        nobody.home.mkdir()
        (nobody.home / "secret.key").write_text("A" * 43 + "=\n")
        said = nobody.cli("backup", "saved")
        assert said.code == 2 and "There is no database" in said.err
        assert [path.name for path in nobody.home.iterdir()] == ["secret.key"]
        assert not (tmp_path / "saved").exists()
