"""Large files that are read while the walk goes on, where something of the tree is known: what moves then is told."""

import os
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from dumont.agent import pipeline, save
from dumont.agent.pipeline import Packer
from dumont.agent.seen import Seen
from dumont.vault import Entry, KeyRing, LocalStore, Repository, unpack_columns

MOVING = {b"gone", b"link", b"log", b"pipe"}


@pytest.fixture
def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what saves the tree in `root` once more, and answers with its entries by path and its report."""
    monkeypatch.setattr("dumont.agent.seen.SETTLED_SECONDS", 0)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/calm").write_text("calm")
    repository = Repository.create(LocalStore(tmp_path / "packs"), "wsp_racing", KeyRing(b"race" * 8))
    seen, blobs = Seen(str(tmp_path / "seen"), "about"), SimpleNamespace(put=lambda pack, data: None)

    def once() -> tuple[dict[bytes, Entry], dict[str, Any]]:
        packer = Packer(repository.sealer, set(), blobs, lambda: os.urandom(16), lambda pack, size: None)  # type: ignore[arg-type]
        try:
            _, blob = save.save_tree(os.fsencode(tmp_path / "root"), [], [], packer, seen, lambda progress: None)
        finally:
            packer.close()
        report = msgpack.unpackb(blob)
        return {entry.path: entry for entry in unpack_columns(report["entries"])}, report

    return once


def test_what_moves_under_an_early_reader_is_told(saving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between walk and open: one file gone, one a link, one a pipe; and one grows with each look. The rest is saved."""
    root, early = tmp_path / "root", threading.Event()
    first, _ = saving()
    for path in (*MOVING, b"still"):
        (root / os.fsdecode(path)).write_bytes(random.Random(path).randbytes(2 << 20))
    opening, reading, gathering = save.open_regular, pipeline.read_into, save._Tree.read
    met = set[bytes]()

    def late(path: bytes) -> int:
        at = Path(os.fsdecode(path))
        name = os.fsencode(at.name)
        met.add(name)
        if name in MOVING - {b"log"}:
            at.unlink()
        if name == b"link":
            at.symlink_to("still")
        if name == b"pipe":
            os.mkfifo(at)
        if met >= {*MOVING, b"still"}:
            early.set()
        return opening(path)

    def moving(descriptor: int, offset: int, view: memoryview) -> int:
        os.truncate(root / "log", (root / "log").stat().st_size + 1)
        return reading(descriptor, offset, view)

    def gather(tree: Any, scanned: Any) -> list[Entry]:
        assert early.wait(60), "nothing was read before the walk was over"
        return gathering(tree, scanned)

    monkeypatch.setattr(save, "open_regular", late)
    monkeypatch.setattr(pipeline, "read_into", moving)
    monkeypatch.setattr(save._Tree, "read", gather)
    entries, report = saving()
    assert sorted(report["unstable"]) == [b"gone", b"log"]
    assert sorted(path for path, _ in report["errors"]) == [b"link", b"pipe"]
    assert sorted(entries) == [b"calm", b"log", b"still"] and entries[b"calm"] == first[b"calm"]
    assert all(sum(entry.lengths) == entry.size for entry in entries.values())
    monkeypatch.undo()
    again, report = saving()
    assert sorted(again) == [b"calm", b"link", b"log", b"still"]
    assert (report["unstable"], report["errors"], report["skipped"]) == ([], [], [b"pipe"])
    assert again[b"log"].size == (root / "log").stat().st_size and again[b"still"] == entries[b"still"]
