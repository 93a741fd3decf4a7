"""Where the settings put snapshots, and a workspace that goes to a bucket and comes back through the whole product."""

from pathlib import Path

import pytest
from tests.vault.s3_server import s3_server

from dumont.app.doctor import _store
from dumont.app.home import StartError
from dumont.app.storing import build_vaults, store_place
from dumont.core import Settings, load_settings
from dumont.vault import S3Place, StoreError

KEY = {"DUMONT_S3_KEY_ID": "id", "DUMONT_S3_SECRET": "secret"}


def settings(home: Path, **values: str) -> Settings:
    """Settings of a home with these variables."""
    return load_settings({"DUMONT_HOME": str(home), **values})


def test_a_folder_or_a_bucket(tmp_path: Path) -> None:
    """No setting is a folder in the home; a bucket may have a prefix, another service and another region."""
    assert store_place(settings(tmp_path)) == tmp_path / "vault"
    assert store_place(settings(tmp_path, DUMONT_STORE=str(tmp_path / "else"))) == tmp_path / "else"
    plain = store_place(settings(tmp_path, DUMONT_STORE="s3://weights", DUMONT_S3_REGION="sa-east-1", **KEY))
    assert plain == S3Place("https://s3.sa-east-1.amazonaws.com", "weights", "", "id", "secret", "sa-east-1")
    other = store_place(
        settings(tmp_path, DUMONT_STORE="s3://weights/a/b/", DUMONT_S3_ENDPOINT="http://127.0.0.1:9000/", **KEY)
    )
    assert other == S3Place("http://127.0.0.1:9000", "weights", "a/b", "id", "secret", "us-east-1")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"DUMONT_STORE": "s3:weights", **KEY}, "s3://BUCKET"),
        ({"DUMONT_STORE": "s3://We!ghts", **KEY}, "s3://BUCKET"),
        ({"DUMONT_STORE": "s3://weights"}, "DUMONT_S3_KEY_ID"),
        ({"DUMONT_STORE": "s3://weights", "DUMONT_S3_ENDPOINT": "s3.example.com", **KEY}, "DUMONT_S3_ENDPOINT"),
    ],
)
def test_what_names_no_bucket_is_refused(tmp_path: Path, values: dict[str, str], named: str) -> None:
    with pytest.raises(StartError, match=named):
        build_vaults(settings(tmp_path, **values), b"s" * 32)


async def test_doctor_tries_the_bucket(tmp_path: Path) -> None:
    """It writes, reads back and removes an object there, and a wrong key is told."""
    with s3_server(tmp_path) as place:
        values = {"DUMONT_STORE": f"s3://{place.bucket}/prod", "DUMONT_S3_ENDPOINT": place.endpoint}
        key = {"DUMONT_S3_KEY_ID": place.key_id, "DUMONT_S3_SECRET": place.secret}
        (found,) = await _store(settings(tmp_path, **values, **key))
        assert found.state == "ok" and f"s3://{place.bucket}/prod" in found.detail
        assert build_vaults(settings(tmp_path, **values, **key), b"s" * 32).store("wsp_x").size("data/none") is None
        with pytest.raises(StoreError, match="key"):
            await _store(settings(tmp_path, **values, **{**key, "DUMONT_S3_SECRET": "another"}))
