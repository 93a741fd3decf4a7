"""What a repository promises: nothing is believed that was not proven, and damage anywhere is found."""

import os
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.vault.making import draft, file_entry, store_pack

from dumont.vault import (
    KeyRing,
    Kind,
    LocalStore,
    PackBuilder,
    RecordDamaged,
    RecordReader,
    Repository,
    RepositoryDamaged,
    RepositoryMissing,
    StaleEpoch,
    StoreExists,
    VerificationFailed,
    WrongKey,
    pack_name,
)
from dumont.vault.packs import place_rows
from dumont.vault.repack import repack
from dumont.vault.sealed import MANIFEST_MAGIC, open_object, seal_object


@pytest.mark.checklist("SNAP-17")
def test_a_whole_snapshot_verifies(filled: Any) -> None:
    """All chunks are read from the store and counted; the manifest's totals are right."""
    checked = filled.reopened().verify(filled.snapshot)
    assert (checked.chunks_checked, checked.packs_checked, checked.files) == (3, 2, 2)
    manifest = filled.reopened().manifest(filled.snapshot)
    assert manifest.bytes_total == sum(map(len, filled.contents.values()))


SPOTS = [0, 5, 11, 12, 13, 20, 27, 28, 40, 0.2, 0.5, 0.9, -1, -4, -9, -12, -17, -20, -24, -28, -29, -60, -100]


@pytest.mark.parametrize("kind", ["data/01", "data/02", "idx", "snap", "config"])
def test_a_flipped_bit_anywhere_is_found(filled: Any, kind: str) -> None:
    """One bit at each of many places of packs, index, manifest and config: verification names the damage."""
    name, size = next(iter(filled.store.list(f"{kind}/"))) if kind != "config" else ("config", 186)
    path = filled.store.root / name
    whole = path.read_bytes()
    spots = {int(s * size) if isinstance(s, float) else s % size for s in SPOTS}
    for spot in spots:
        path.write_bytes(whole[:spot] + bytes([whole[spot] ^ (1 << spot % 8)]) + whole[spot + 1 :])
        with pytest.raises(VerificationFailed) as failed:
            filled.repository.verify(filled.snapshot)
        assert failed.value.damaged == [name], f"at {spot}"
    path.write_bytes(whole)
    assert filled.repository.verify(filled.snapshot).chunks_checked == 3


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_a_cut_or_missing_pack_is_found(filled: Any, cut: int) -> None:
    """A pack that lost its end is damaged; one that is gone is missing."""
    path = filled.store.root / pack_name(b"\x02" * 16)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(VerificationFailed) as failed:
        filled.reopened().verify(filled.snapshot)
    assert failed.value.damaged == [pack_name(b"\x02" * 16)]
    path.unlink()
    with pytest.raises(VerificationFailed) as failed:
        filled.reopened().verify(filled.snapshot)
    assert failed.value.missing == [pack_name(b"\x02" * 16)]


def test_an_object_under_another_name_is_refused(filled: Any) -> None:
    """Packs exchanged, a manifest renamed, a segment from another epoch: none passes for the other."""
    root = filled.store.root
    one, two = root / pack_name(b"\x01" * 16), root / pack_name(b"\x02" * 16)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(VerificationFailed) as failed:
        filled.reopened().verify(filled.snapshot)
    assert len(failed.value.damaged) == 2
    one.write_bytes(first)
    two.write_bytes(second)
    renamed = "20300101T000000.000000Z-" + "0" * 32
    (root / "snap" / filled.snapshot).rename(root / "snap" / renamed)
    with pytest.raises(RepositoryDamaged):
        filled.reopened().manifest(renamed)


def test_a_record_moved_within_a_pack_is_refused(filled: Any) -> None:
    """Each record opens only for its own chunk id and repository."""
    table = filled.repository.pack_table(b"\x02" * 16)
    (first, here), (second, there) = table.rows
    data = filled.store.get(pack_name(b"\x02" * 16))
    record = data[here.offset : here.offset + here.length]
    assert filled.repository.sealer.open(first, record) == filled.contents[b"a/big"][4 << 20 :]
    with pytest.raises(RecordDamaged):
        filled.repository.sealer.open(second, record)
    with pytest.raises(RecordDamaged):
        filled.repository.sealer.open(second, data[there.offset - 1 : there.offset + there.length - 1])
    stranger = Repository(filled.store, "wsp_2", b"r" * 32)
    with pytest.raises(RecordDamaged):
        stranger.sealer.open(first, record)


def test_only_the_right_key_opens(filled: Any, tmp_path: Path) -> None:
    """Another installation's key, another repository's id, a damaged key: each is told apart and refused."""
    with pytest.raises(WrongKey):
        Repository.open(filled.store, "wsp_1", KeyRing(b"x" * 32))
    with pytest.raises(RepositoryDamaged):
        Repository.open(filled.store, "wsp_2", filled.keyring)
    with pytest.raises(RepositoryMissing):
        Repository.open(LocalStore(tmp_path / "nothing"), "wsp_1", filled.keyring)
    turned = KeyRing(b"new" * 11, older=[b"k" * 32])
    assert Repository.open(filled.store, "wsp_1", turned).data_key == filled.repository.data_key
    ((name, _),) = filled.store.list("keys/")
    path = filled.store.root / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RepositoryDamaged):
        filled.reopened()
    filled.store.delete(name)
    with pytest.raises(RepositoryDamaged, match="erased"):
        filled.reopened()


def test_a_repository_is_made_once(filled: Any) -> None:
    """Creating again is refused; a creation that died before its config is finished with the same key."""
    with pytest.raises(StoreExists):
        Repository.create(filled.store, "wsp_1", filled.keyring)
    filled.store.delete("config")
    again = Repository.create(filled.store, "wsp_1", filled.keyring)
    assert again.data_key == filled.repository.data_key
    assert filled.reopened().verify(filled.snapshot).chunks_checked == 3


def test_what_is_not_in_a_pack_cannot_be_committed(filled: Any) -> None:
    """A manifest that names an unknown chunk, or an old epoch, is refused and leaves no object."""
    before = list(filled.store.list(""))
    with pytest.raises(RepositoryDamaged):
        filled.repository.commit(draft([file_entry(b"x", 10, [b"?" * 32])]))
    with pytest.raises(StaleEpoch):
        filled.repository.commit(draft([], epoch=0))
    with pytest.raises(RecordDamaged):
        filled.repository.commit(draft([file_entry(b"../x", 0, [])]))
    assert list(filled.store.list("")) == before


def test_a_chunk_of_another_length_than_its_file_needs_is_found(filled: Any) -> None:
    """Chunks that exist but do not make up the file are damage, not a smaller file."""
    (chunk,) = store_pack(filled.repository, b"\x03" * 16, [b"short"])
    name = filled.repository.commit(draft([file_entry(b"x", 10, [chunk])])).name
    with pytest.raises(VerificationFailed) as failed:
        filled.repository.verify(name)
    assert failed.value.damaged == [f"chunk {chunk.hex()}"]


def test_a_large_snapshot_is_sampled_and_its_new_packs_read_wholly(filled: Any) -> None:
    """Above the limit: all of the new packs plus the sample; nothing of the rest once that was read back."""
    manifest = filled.repository.manifest(filled.snapshot)
    assert filled.repository.verify(filled.snapshot).chunks_checked == 3
    newer = filled.repository.commit(manifest.changed(packs_new=(b"\x02" * 16,)))
    assert filled.repository.verify(newer.name, all_below=1, sample=0).chunks_checked == 2
    assert filled.repository.verify(newer.name, all_below=1, sample=64).chunks_checked == 3


@pytest.mark.checklist("SNAP-17")
def test_a_pack_that_was_never_read_back_is_read_however_it_came_in(filled: Any) -> None:
    """Neither new nor sampled, but never read: it is read wholly, its unused records too, and only once."""
    filled.repository.verify(filled.snapshot)
    used, unused = store_pack(filled.repository, b"\x03" * 16, [b"used" * 100, b"unused" * 100])
    name = filled.repository.commit(draft([file_entry(b"x", 400, [used])])).name
    path = filled.store.root / pack_name(b"\x03" * 16)
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(VerificationFailed) as failed:
        filled.reopened().verify(name, all_below=0, sample=0)
    assert failed.value.damaged == [pack_name(b"\x03" * 16)]
    path.write_bytes(whole)
    assert filled.reopened().verify(name, all_below=0, sample=0).chunks_checked == 1
    assert not {used, unused} & filled.reopened().reusable_chunks()
    for note, _ in list(filled.store.list("note/")):
        filled.store.delete(note)
    assert filled.reopened().verify(name, all_below=0, sample=0).chunks_checked == 1
    assert filled.reopened().verify(name, all_below=0, sample=0).chunks_checked == 0
    assert filled.reopened().verify(name, all_below=0, sample=1).chunks_checked == 1


def test_damage_to_what_a_snapshot_does_not_use_fails_nothing_and_is_not_used_again(filled: Any) -> None:
    """The snapshot passes; the pack is noted, so its chunks are stored anew."""
    used, unused = store_pack(filled.repository, b"\x03" * 16, [b"used" * 100, b"unused" * 100])
    name = filled.repository.commit(draft([file_entry(b"x", 400, [used])])).name
    place = filled.repository.index().chunks[unused]
    path = filled.store.root / pack_name(b"\x03" * 16)
    whole = path.read_bytes()
    path.write_bytes(whole[: place.offset] + bytes([whole[place.offset] ^ 1]) + whole[place.offset + 1 :])
    assert filled.repository.verify(name).chunks_checked == 1
    assert not {used, unused} & filled.reopened().reusable_chunks()


def test_what_is_offered_again_was_read_back(filled: Any) -> None:
    """Unread packs are read before their chunks are reused, within a bound; missing and damaged ones are left out."""
    unread = filled.repository.index().chunks.keys()
    path = filled.store.root / pack_name(b"\x02" * 16)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert filled.reopened().reusable_chunks(read_most=0) == unread
    sound = filled.reopened().reusable_chunks()
    assert sound == {chunk for chunk, _ in filled.repository.pack_table(b"\x01" * 16).rows}
    (filled.store.root / pack_name(b"\x01" * 16)).unlink()
    assert filled.reopened().reusable_chunks() == set()


def test_a_damaged_or_foreign_note_is_worth_nothing(filled: Any) -> None:
    """A note that does not open, or was renamed, says nothing: the packs are read again."""
    filled.repository.verify(filled.snapshot)
    ((name, _),) = filled.store.list("note/")
    assert filled.reopened().verify(filled.snapshot, all_below=0, sample=0).chunks_checked == 3
    newer = filled.repository.commit(filled.repository.manifest(filled.snapshot).changed(packs_new=())).name
    assert filled.reopened().verify(newer, all_below=0, sample=0).chunks_checked == 0
    (filled.store.root / name).rename(filled.store.root / "note" / ("0" * 32))
    assert filled.reopened().verify(newer, all_below=0, sample=0).chunks_checked == 3


def test_a_chunk_stored_again_is_read_from_the_sound_pack(filled: Any) -> None:
    """Old snapshots heal with it; a chunk that only the damaged pack holds keeps its place."""
    manifest = filled.repository.manifest(filled.snapshot)
    path = filled.store.root / pack_name(b"\x02" * 16)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(VerificationFailed):
        filled.repository.verify(filled.snapshot)
    (tail,) = store_pack(filled.repository, b"\x04" * 16, [filled.contents[b"a/big"][4 << 20 :]])
    for repository in (filled.repository, filled.reopened()):
        places, missing = repository.locate(manifest.chunks())
        assert missing == [] and places[tail].pack == b"\x04" * 16
        assert {place.pack for place in places.values()} == {b"\x01" * 16, b"\x02" * 16, b"\x04" * 16}
    assert filled.reopened().verify(filled.snapshot).chunks_checked == 3


def test_the_merkle_root_depends_on_everything(filled: Any) -> None:
    """Any change of path, mode, time, size, target, chunk or order gives another root."""
    from dumont.vault import merkle_root

    entries = list(filled.repository.manifest(filled.snapshot).entries)
    key = filled.repository.data_keys.merkle
    changes = [
        {"path": b"a/bih"},
        {"mode": 0o600},
        {"mtime_ns": 7},
        {"size": 4},
        {"group": 1},
        {"kind": Kind.FOLDER},
        {"target": b"q"},
        {"chunks": ()},
    ]
    roots = {merkle_root(key, entries), merkle_root(key, entries[:-1]), merkle_root(key, entries[::-1])}
    roots |= {merkle_root(key, [entries[0], entries[1].changed(**change), *entries[2:]]) for change in changes}
    assert len(roots) == 3 + len(changes)


def test_snapshots_of_the_first_formats_stay_readable(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack of format 1 and a manifest without lengths, whose files are cut every 4 MiB: verified as ever."""
    monkeypatch.setattr("dumont.vault.packs.PACK_FORMAT", 1)
    content = bytes(range(256)) * (18 << 10)
    ids = store_pack(filled.repository, b"\x08" * 16, [content[: 4 << 20], content[4 << 20 :]])
    monkeypatch.undo()
    entries = [file_entry(b"old", len(content), ids)]
    name = filled.repository.commit(draft(entries)).name
    path = filled.store.root / "snap" / name
    keys = filled.repository.keys
    document = msgpack.unpackb(open_object(keys, "wsp_1", f"snap/{name}", MANIFEST_MAGIC, path.read_bytes()))
    assert len(document["entries"].pop("lengths")) == 8 and document["v"] == 2
    document["v"] = 1
    path.write_bytes(seal_object(keys, "wsp_1", f"snap/{name}", MANIFEST_MAGIC, msgpack.packb(document)))
    old = filled.reopened().manifest(name).entries
    assert list(old) == entries and old[0].lengths == (4 << 20, len(content) - (4 << 20))
    assert filled.reopened().verify(name).chunks_checked == 2
    document["entries"]["size"] = [len(content) + (4 << 20)]
    path.write_bytes(seal_object(keys, "wsp_1", f"snap/{name}", MANIFEST_MAGIC, msgpack.packb(document)))
    with pytest.raises(RepositoryDamaged):
        filled.reopened().manifest(name)


def test_a_table_that_lies_about_groups_is_refused(filled: Any) -> None:
    """Members before any record, beyond the group's end, or with a place of their own."""
    row = struct.Struct("<32sIIB3x").pack
    group = row(b"g" * 32, 144, 100, 0)
    for rows in (row(b"m" * 32, 0, 1, 255), group + row(b"m" * 32, 0, 101, 255), group + row(b"m" * 32, 44, 9, 255)):
        with pytest.raises(RecordDamaged):
            list(place_rows(b"p" * 16, rows))
    members = row(b"m" * 32, 0, 60, 255) + row(b"n" * 32, 0, 40, 255)
    found = dict(place_rows(b"p" * 16, group + members + row(b"o" * 32, 50, 6, 0)))
    assert [(place.offset, place.start, place.raw_length) for place in found.values()] == [
        (0, 0, 100),
        (0, 0, 60),
        (0, 60, 40),
        (144, 0, 6),
    ]


def test_a_member_that_is_not_what_its_row_says_is_found(filled: Any) -> None:
    """A group whose record opens, and whose table gives a member's id to other bytes."""
    sealer = filled.repository.sealer
    builder = PackBuilder(filled.repository.data_keys, "wsp_1")
    one = sealer.chunk_id(b"one")
    builder.add(sealer.seal(sealer.chunk_id(b"onetwo"), b"onetwo"), [(one, 3), (sealer.chunk_id(b"TWO"), 3)])
    filled.store.put(pack_name(b"\x09" * 16), bytes(builder.finish(b"\x09" * 16)))
    filled.repository.adopt_packs([b"\x09" * 16], 1)
    good = filled.repository.commit(draft([file_entry(b"x", 3, [one])])).name
    bad = filled.repository.commit(draft([file_entry(b"x", 3, [sealer.chunk_id(b"TWO")])])).name
    with pytest.raises(VerificationFailed) as failed:
        filled.repository.verify(bad)
    assert failed.value.damaged == [pack_name(b"\x09" * 16)]
    assert filled.reopened().verify(good).chunks_checked == 1


class Counted(LocalStore):
    """A store that says how many bytes were read of it."""

    read = 0

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it."""
        found = super().get(name, offset, length)
        self.read += len(found)
        return found


def test_a_group_with_an_empty_member_is_packed_anew(filled: Any) -> None:
    """We write none; a machine could, and its workspace is collected all the same."""
    repository, sealer = filled.repository, filled.repository.sealer
    parts = [b"", b"a" * 1000, b"b" * 1000]
    ids = [sealer.chunk_id(part) for part in parts]
    builder = PackBuilder(repository.data_keys, repository.repository_id)
    builder.add(
        sealer.seal(sealer.chunk_id(b"".join(parts)), b"".join(parts)),
        [(chunk, len(part)) for chunk, part in zip(ids, parts, strict=True)],
    )
    old = b"\7" * 16
    repository.store.put(pack_name(old), bytes(builder.finish(old)))
    repository.adopt_packs([old], 1)
    assert repack(repository, {old: set(ids[:2])}) == {old}
    rows = [row for pack, table in repository.index().packs.items() if pack != old for row in table.rows]
    places = {chunk: place for chunk, place in rows if chunk in ids}
    assert {chunk: place.raw_length for chunk, place in places.items()} == {ids[0]: 0, ids[1]: 1000}
    place = places[ids[1]]
    data = repository.store.get(pack_name(place.pack), place.offset, place.length)
    assert RecordReader(sealer, memoryview(data), place.offset).open(ids[1], place) == parts[1]


@pytest.mark.parametrize(("members", "most"), [(3, 128 << 10), (4000, 1 << 20)])
def test_a_table_is_read_with_little_around_it(tmp_path: Path, members: int, most: int) -> None:
    """One of a few rows costs a small read, one of thousands a second, larger one; both are found whole."""
    store = Counted(tmp_path)
    repository = Repository.create(store, "wsp_1", KeyRing(b"k" * 32))
    raw = os.urandom(2 << 20)
    chunk = repository.sealer.chunk_id(raw)
    inside = [(number.to_bytes(32, "big"), 7) for number in range(members)]
    builder = PackBuilder(repository.data_keys, "wsp_1", bytearray(3 << 20))
    builder.add(repository.sealer.seal(chunk, raw), inside)
    store.put(pack_name(b"p" * 16), bytes(builder.finish(b"p" * 16)))
    store.read = 0
    assert [found for found, _ in repository.pack_table(b"p" * 16).rows] == [chunk, *(name for name, _ in inside)]
    assert store.read <= most
