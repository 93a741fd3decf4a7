"""Whole workspaces, saved and restored through a real agent process and a real gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import compare_workspace

Fill = Callable[[Path], None]
Look = Callable[[Path], dict[str, tuple[object, ...]]]


@pytest.mark.checklist("SNAP-10", "SNAP-18", "SNAP-19")
async def test_a_mixed_tree_comes_back_whole_on_another_machine(
    vault: Any, machines: Any, fill: Fill, look: Look, leftovers: Any
) -> None:
    """Every byte, mode, time, link and hard link is the same, proven by a reader of our own."""
    first, second = machines("first"), machines("second")
    fill(first.workspace)
    before = look(first.workspace)
    link = await first.link()
    saved = await vault.save(link)
    assert (saved.read_errors, saved.unstable, saved.skipped) == ([], [], [])
    assert saved.files == sum(isinstance(content, bytes) for _, _, content, _ in before.values())
    assert look(first.workspace) == before
    checked = vault.reopened().verify(saved.name)
    assert (checked.chunks_checked, checked.merkle_root) == (saved.chunks, saved.merkle_root)

    (second.workspace / "stranger").write_text("to be replaced")
    other = await second.link()
    restored = await vault.restore(other, saved.name)
    assert look(second.workspace) == before
    assert leftovers(second.workspace) == []
    assert restored.merkle_root == saved.merkle_root and restored.hashes_compared >= saved.chunks
    assert (second.workspace / "models/holes.bin").stat().st_blocks * 512 < 11 << 20
    comparison = await compare_workspace(other, vault.repository, saved.name)
    assert comparison.equal and comparison.bytes == saved.bytes_total
    (second.workspace / "secret").write_text("y")
    (second.workspace / "empty").unlink()
    (second.workspace / "more").write_text("new")
    comparison = await compare_workspace(other, vault.repository, saved.name)
    assert (comparison.differing, comparison.missing, comparison.extra) == (["secret"], ["empty"], ["more"])
