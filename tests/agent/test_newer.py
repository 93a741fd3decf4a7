"""A restore of what a newer version has coded changes nothing and says what to do."""

from typing import Any

import pytest
from tests.vault.making import draft, file_entry, store_newer

from dumont.agent import AgentFailed


async def test_a_restore_of_a_newer_version_fails_and_says_what_to_do(vault: Any, machines: Any, look: Any) -> None:
    """The target is as before, and the error is neither damage nor a fault of ours."""
    raw = b"weights " * 50
    ids = store_newer(vault.repository, b"\x07" * 16, raw)
    name = vault.repository.commit(draft([file_entry(b"new", len(raw), ids)])).name
    target = machines("target")
    (target.workspace / "old").write_bytes(b"old")
    before = look(target.workspace)
    with pytest.raises(AgentFailed, match="update Dumont Cloud") as failed:
        await vault.restore(await target.link(), name)
    assert failed.value.code == "unknown_record"
    assert look(target.workspace) == before
    assert vault.reopened().index().damaged == set()
