"""Files are cut where their tensors begin; a header that lies costs nothing but that."""

import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumont.agent.cuts import Piece, cut
from dumont.agent.rolling import rolling_cuts
from dumont.agent.tensors import borders

Tensors = dict[str, bytes]
DRAW = random.Random(3)
TENSORS: Tensors = {f"layers.{n}.weight": DRAW.randbytes(900_000 + 1000 * n) for n in range(12)} | {
    f"layers.{n}.norm": DRAW.randbytes(64) for n in range(12)
}
BIG = DRAW.randbytes(20 << 20)


def safetensors(tensors: Tensors, **metadata: str) -> bytes:
    header, offset = {}, 0
    for name, raw in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(raw)], "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def torch_zip(tensors: Tensors, path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{name}/data.pkl", name.encode() * 50)
        for number, raw in enumerate(tensors.values()):
            archive.writestr(f"{name}/data/{number}", raw)
    return path.read_bytes()


def gguf(tensors: Tensors, note: str) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = text("general.name") + struct.pack("<I", 8) + text(note)
    pairs += text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("bc") + text("")
    pairs += text("scores") + struct.pack("<IIQ", 9, 6, 4) + bytes(16)
    pairs += text("general.alignment") + struct.pack("<II", 4, 64)
    infos, body = b"", b""
    for name, raw in tensors.items():
        infos += text(name) + struct.pack("<IQIQ", 1, len(raw), 24, len(body))
        body += raw + bytes(-len(raw) % 64)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 4) + pairs + infos
    return head + bytes(-len(head) % 64) + body


def pieces(path: Path, content: bytes) -> list[Piece]:
    """Cut a file and check that its pieces make it up."""
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = list(cut(descriptor, len(content)))
    finally:
        os.close(descriptor)
    at = 0
    for piece in found:
        assert piece.offset == at and 0 < piece.length <= 8 << 20
        at += piece.length
    assert at == len(content)
    return found


def chunks(path: Path, content: bytes) -> dict[bytes, int]:
    found = pieces(path, content)
    return {blake2b(content[p.offset : p.offset + p.length]).digest(): p.length for p in found}


def backwards(tensors: Tensors) -> Tensors:
    return dict(reversed(tensors.items()))


RESAVED: dict[str, Callable[[Path], tuple[bytes, list[bytes]]]] = {
    "metadata": lambda _: (safetensors(TENSORS), [safetensors(TENSORS, epoch="7", note="x" * 900)]),
    "order": lambda _: (safetensors(TENSORS), [safetensors(backwards(TENSORS))]),
    "shards": lambda _: (
        safetensors(TENSORS),
        [safetensors(dict(list(TENSORS.items())[at::3]), shard=str(at)) for at in range(3)],
    ),
    "torch": lambda p: (torch_zip(TENSORS, p, "model"), [torch_zip(TENSORS, p, "checkpoint_7")]),
    "gguf": lambda _: (gguf(TENSORS, "a"), [gguf(backwards(TENSORS), "another name")]),
}


@pytest.mark.parametrize("how", RESAVED)
def test_a_model_saved_again_is_cut_as_before(tmp_path: Path, how: str) -> None:
    """Metadata added, tensors in another order, other shards: at most 0.1 % of the bytes are new."""
    first, again = RESAVED[how](tmp_path / "zip")
    known = chunks(tmp_path / "a", first)
    new = sum(
        size for content in again for chunk, size in chunks(tmp_path / "b", content).items() if chunk not in known
    )
    assert 0 < new <= 0.001 * sum(map(len, again))


def test_a_large_tensor_is_cut_evenly(tmp_path: Path) -> None:
    """8 MiB at most, counted from the tensor's own beginning."""
    found = pieces(tmp_path / "a", safetensors({"small": b"s" * 100, "big": BIG}))
    assert [piece.length for piece in found[1:]] == [100, 8 << 20, 8 << 20, 4 << 20]


def lie(**tensor: object) -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 100]}, "b": tensor}).encode()
    return struct.pack("<Q", len(text)) + text + BIG[: 3 << 20]


def lying_gguf(version: int = 3, tensors: int = 1, pairs: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest + BIG[: 3 << 20]


ZIP_END = struct.Struct("<4sHHHHIIH")
WIDE = ZIP_END.pack(b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
DEEP = b"[" * 200_000
LIES = {
    "length beyond the file": struct.pack("<Q", 1 << 40) + b"{" + BIG[: 3 << 20],
    "length of 2^63": struct.pack("<Q", 1 << 63) + b"{" + BIG[: 3 << 20],
    "offset beyond the file": lie(data_offsets=[100, 1 << 62]),
    "offset below zero": lie(data_offsets=[-5, 100]),
    "offset no number": lie(data_offsets=["0", "100"]),
    "offset a truth": lie(data_offsets=[True, 100]),
    "offset a fraction": lie(data_offsets=[100.0, 200.0]),
    "end before start": lie(data_offsets=[900, 800]),
    "overlap": lie(data_offsets=[50, 150]),
    "three offsets": lie(data_offsets=[100, 200, 300]),
    "no offsets": lie(dtype="U8"),
    "not JSON": struct.pack("<Q", 1000) + b"{" + BIG[: 3 << 20],
    "a list": struct.pack("<Q", 13) + b'{"a": [1, 2]}' + BIG[: 3 << 20],
    "deep": struct.pack("<Q", len(DEEP) + 5) + b'{"a":' + DEEP + BIG[: 3 << 20],
    "gguf: 2^63 tensors": lying_gguf(tensors=1 << 63),
    "gguf: 2^63 pairs": lying_gguf(pairs=(1 << 63) - 1),
    "gguf: a string of 2^63": lying_gguf(pairs=1, rest=struct.pack("<Q", 1 << 63)),
    "gguf: an array of 2^63": lying_gguf(pairs=1, rest=struct.pack("<QIIQ", 0, 9, 6, 1 << 63)),
    "gguf: an unknown type": lying_gguf(pairs=1, rest=struct.pack("<QI", 0, 77)),
    "gguf: 2^31 dimensions": lying_gguf(rest=struct.pack("<QI", 0, 1 << 31)),
    "gguf: offset of 2^63": lying_gguf(rest=struct.pack("<QIQIQ", 0, 1, 5, 0, 1 << 63)),
    "gguf: version 1": lying_gguf(version=1),
    "zip: no end": b"PK\x03\x04" + BIG[: 3 << 20],
    "zip: directory beyond": b"PK\x03\x04" + BIG[: 3 << 20] + ZIP_END.pack(b"PK\5\6", 0, 0, 1, 1, 9, 1 << 31, 0),
    "zip: wide, nothing there": b"PK\x03\x04" + BIG[: 3 << 20] + b"PK\6\7" + struct.pack("<IQI", 0, 1 << 63, 1) + WIDE,
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_cut_like_any_other_file(tmp_path: Path, name: str) -> None:
    """No crash, no byte lost, and no border is taken from it."""
    content = LIES[name]
    pieces(tmp_path / "a", content)
    assert borders(lambda offset, length: content[offset : offset + length], len(content)) is None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_of_a_header_leaves_whole_files(data: st.DataObject) -> None:
    """Bytes of a real header overwritten anywhere: whatever borders come out rise and lie within the file."""
    small = {name: raw[:5000] for name, raw in TENSORS.items()}
    content = bytearray(data.draw(st.sampled_from([safetensors(small), gguf(small, "n"), ZIPPED])))
    ends = st.one_of(st.integers(0, 1500), st.integers(len(content) - 2500, len(content) - 1))
    for at, byte in data.draw(st.lists(st.tuples(ends, st.integers(0, 255)), min_size=1, max_size=6)):
        content[at] = byte
    found = borders(lambda offset, length: bytes(content[offset : offset + length]), len(content)) or []
    assert all(a < b for a, b in zip([0, *found], [*found, len(content)], strict=True))


def _zipped() -> bytes:
    import io

    room = io.BytesIO()
    with zipfile.ZipFile(room, "w") as archive:
        for number in range(9):
            archive.writestr(f"m/data/{number}", BIG[number * 5000 : number * 5000 + 5000])
    return room.getvalue()


ZIPPED = _zipped()


def test_bytes_put_in_move_only_the_cuts_around_them() -> None:
    """At the front and in the middle of 20 MiB: the pieces that follow are the same again."""

    def cuts(content: bytes) -> set[bytes]:
        found = rolling_cuts(lambda offset, length: content[offset : offset + length], 0, len(content))
        spans = [content[offset : offset + length] for offset, length in found]
        assert b"".join(spans) == content and all(1 << 20 <= len(span) <= 4 << 20 for span in spans[:-1])
        return {blake2b(span).digest() for span in spans}

    before = cuts(BIG)
    assert len(before) >= 6
    for changed in (b"new" + BIG, BIG[: 9 << 20] + b"new" + BIG[9 << 20 :], BIG[1000:]):
        assert len(cuts(changed) - before) <= 2


def test_holes_are_seen_and_never_read(tmp_path: Path) -> None:
    """A file of 1 GiB with 3 bytes in it: holes in pieces of 8 MiB, bytes around what is there."""
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(500 << 20)
        stream.write(b"end")
    descriptor = os.open(path, os.O_RDONLY)
    found = list(cut(descriptor, 1 << 30, sparse=True))
    os.close(descriptor)
    assert sum(piece.length for piece in found) == 1 << 30
    assert sum(piece.length for piece in found if not piece.hole) < 16 << 20
    assert any(p.offset <= 500 << 20 < p.offset + p.length for p in found if not p.hole)
