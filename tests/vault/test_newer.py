"""What a newer version has coded is unknown to this one: never damage, and never stored again."""

from typing import Any

import pytest
from tests.vault.making import draft, file_entry, store_newer

from dumont.vault import DataKeys, RecordDamaged, RecordUnknown, Sealer, VerificationFailed, pack_name

PACK = b"\x07" * 16
RAW = b"weights " * 50


def test_a_snapshot_of_a_newer_version_is_unknown_and_not_damaged(filled: Any) -> None:
    """A verification says so and notes nothing; the bytes stay known; true damage beside them is still found."""
    repository = filled.repository
    repository.verify(filled.snapshot)
    notes = filled.store.list("note/")
    ids = store_newer(repository, PACK, RAW, b"plain")
    entries = [file_entry(b"new", len(RAW), ids[:1]), file_entry(b"plain", 5, ids[1:])]
    name = repository.commit(draft(entries, packs_new=(PACK,))).name
    for _ in range(2):
        with pytest.raises(RecordUnknown, match="update Dumont Cloud"):
            filled.reopened().verify(name)
    assert {*ids} <= filled.reopened().reusable_chunks()
    assert [*filled.store.list("note/")] == [*notes]
    index = filled.reopened().index()
    assert (index.damaged, index.unread({PACK})) == (set(), {PACK})
    assert filled.reopened().verify(filled.snapshot).chunks_checked == 3
    path, place = filled.store.root / pack_name(PACK), index.chunks[ids[1]]
    whole = path.read_bytes()
    path.write_bytes(whole[: place.offset + 30] + bytes([whole[place.offset + 30] ^ 1]) + whole[place.offset + 31 :])
    with pytest.raises(VerificationFailed) as failed:
        filled.reopened().verify(name)
    assert (failed.value.damaged, failed.value.chunks) == ([pack_name(PACK)], {ids[1]})


def test_what_a_snapshot_does_not_use_may_be_of_a_newer_version(filled: Any) -> None:
    """The snapshot is proven; its pack does not count as read back."""
    _, plain = store_newer(filled.repository, PACK, RAW, b"plain")
    name = filled.repository.commit(draft([file_entry(b"plain", 5, [plain])], packs_new=(PACK,))).name
    assert filled.repository.verify(name).chunks_checked == 1
    index = filled.reopened().index()
    assert (index.damaged, index.unread({PACK})) == (set(), {PACK})


def test_a_record_of_a_newer_format_is_told_by_its_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was sealed as such opens and is unknown; one whose format was changed afterwards does not open."""
    sealer = Sealer(DataKeys.of(b"d" * 32), "wsp_1")
    chunk = sealer.chunk_id(RAW)
    plain = bytearray(sealer.seal(chunk, RAW).data)
    monkeypatch.setattr("dumont.vault.records.RECORD_FORMAT", 2)
    newer = sealer.seal(chunk, RAW).data
    monkeypatch.undo()
    with pytest.raises(RecordUnknown, match="format 2, which only a newer version knows"):
        sealer.open(chunk, newer)
    plain[12] = 2
    with pytest.raises(RecordDamaged):
        sealer.open(chunk, plain)
