"""Laws of the format, for any bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumont.vault import (
    DataKeys,
    Entry,
    Kind,
    PackBuilder,
    RecordDamaged,
    Sealer,
    check_entries,
    pack_columns,
    unpack_columns,
)
from dumont.vault.codecs import decode, encode
from dumont.vault.packs import read_table

KEYS = DataKeys.of(b"d" * 32)
SEALER = Sealer(KEYS, "wsp_1")
BODIES = st.one_of(st.binary(max_size=3000), st.binary(min_size=1, max_size=8).map(lambda b: b * 20_000))


@given(raw=BODIES)
def test_any_chunk_survives_its_codec_and_its_record(raw: bytes) -> None:
    """decode(encode(x)) = x, never longer; the record opens to the same chunk and costs 44 bytes more at most."""
    codec, parameter, parts = encode(raw)
    body = b"".join(parts)
    assert decode(codec, parameter, body, len(raw)) == raw and len(body) <= len(raw)
    chunk = SEALER.chunk_id(raw)
    record = SEALER.seal(chunk, raw)
    assert SEALER.open(chunk, record.data) == raw and len(record.data) <= len(raw) + 44


@settings(max_examples=40)
@given(bodies=st.lists(BODIES, min_size=1, max_size=8), data=st.data())
def test_any_pack_tells_what_is_in_it_and_no_changed_one_opens(bodies: list[bytes], data: st.DataObject) -> None:
    """The table finds every record from the pack alone; a flipped bit is noticed by the table or by its record."""
    builder = PackBuilder(KEYS, "wsp_1", bytearray(1 << 20))
    for raw in bodies:
        builder.add(SEALER.seal(SEALER.chunk_id(raw), raw))
    pack = bytes(builder.finish(b"p" * 16))

    def read(found: bytes) -> list[bytes]:
        rows = read_table(KEYS, "wsp_1", b"p" * 16, len(found), found).rows
        return [SEALER.open(chunk, found[at.offset : at.offset + at.length]) for chunk, at in rows]

    assert read(pack) == bodies
    spot = data.draw(st.integers(0, len(pack) * 8 - 1))
    changed = bytearray(pack)
    changed[spot // 8] ^= 1 << spot % 8
    with pytest.raises(RecordDamaged):
        read(bytes(changed))
    with pytest.raises(RecordDamaged):
        read_table(KEYS, "wsp_1", b"q" * 16, len(pack), pack)
    with pytest.raises(RecordDamaged):
        read(pack[: data.draw(st.integers(0, len(pack) - 1))])


NAMES = st.binary(min_size=1, max_size=6).filter(lambda n: not {b"/", b"\x00"} & {bytes([c]) for c in n})


@given(names=st.sets(NAMES.filter(lambda n: n not in (b".", b"..") and not n.startswith(b".dumont")), max_size=12))
def test_any_plain_names_survive_as_columns(names: set[bytes]) -> None:
    """Names of any bytes come back the same; so do negative times and large numbers."""
    entries = [Entry(name, Kind.FOLDER, 0o7777, 2**32 - 1, 0, -(10**18)) for name in sorted(names)]
    assert unpack_columns(pack_columns(entries)) == entries


@given(path=st.lists(st.sampled_from([b"", b".", b"..", b"a", b"b"]), max_size=5).map(b"/".join))
def test_no_accepted_path_leads_out(path: bytes) -> None:
    """Whatever `check_entries` accepts stays below the root and is written in one way only."""
    folders = [Entry(p, Kind.FOLDER, 0o755, 0, 0, 0) for p in (b"a", b"a/a", b"a/b", b"b") if p < path]
    entry = Entry(path, Kind.FILE, 0o644, 0, 0, 0)
    try:
        check_entries([*folders, entry])
    except RecordDamaged:
        return
    assert all(part not in (b"", b".", b"..") for part in path.split(b"/"))


ODD_NAMES = st.sampled_from([b"a", b"b", b"-", b"c.", b"", b".", b"..", b".dumont", b".dumont-x", b"a\x00b"])
PATHS = st.lists(ODD_NAMES, min_size=1, max_size=3).map(b"/".join)


@given(paths=st.dictionaries(PATHS, st.sampled_from([Kind.FILE, Kind.FOLDER]), max_size=5), turned=st.booleans())
def test_paths_are_accepted_if_each_is_plain_and_below_a_folder(paths: dict[bytes, Kind], turned: bool) -> None:
    """Told for all paths at once and for each by itself, it is the same; in another order they are refused."""
    folders = {b"", *(path for path, kind in paths.items() if kind is Kind.FOLDER)}
    plain = all(
        path.rpartition(b"/")[0] in folders
        and not path.startswith(b".dumont")
        and not any(name in (b"", b".", b"..") or b"\x00" in name for name in path.split(b"/"))
        for path in paths
    )
    entries = [Entry(path, kind, 0o644, 0, 0, 0) for path, kind in sorted(paths.items(), reverse=turned)]
    if plain and not (turned and len(paths) > 1):
        check_entries(entries)
    else:
        with pytest.raises(RecordDamaged):
            check_entries(entries)


@given(junk=st.binary(max_size=200))
def test_junk_is_refused_as_damage(junk: bytes) -> None:
    """Anything that is not ours is RecordDamaged, not a crash."""
    with pytest.raises(RecordDamaged):
        SEALER.open(b"c" * 32, junk)
    with pytest.raises(RecordDamaged):
        read_table(KEYS, "wsp_1", b"p" * 16, len(junk), junk)
    with pytest.raises(RecordDamaged):
        unpack_columns(junk)
