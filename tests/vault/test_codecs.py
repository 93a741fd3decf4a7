"""Every codec gives back any bytes, the probe takes the one that pays, and nothing decodes to more than it says."""

import math
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import blosc
import numpy as np
import pytest
import zstandard
from benchmarks import vault_decoding
from benchmarks.installation import BenchmarkError
from hypothesis import given, settings
from hypothesis import strategies as st

from dumont.vault import RecordDamaged, RecordUnknown, Rooms, coder, whole
from dumont.vault.codecs import Codec, _encoded, choose, decode, encode
from dumont.vault.planes import Floats, split_plainly

WAYS = [
    (Codec.RAW, 0),
    (Codec.ZSTD, 0),
    *((Codec.BITSHUFFLE, width) for width in (2, 4)),
    *((Codec.SPLIT, kind) for kind in (1, 2, 3)),
]
ROOMS = Rooms()
ANY = st.one_of(
    st.binary(max_size=300),
    st.binary(min_size=1, max_size=9).map(lambda b: b * 3001),
    st.integers(0, 99_999).map(lambda n: random.Random(n).randbytes(n)),
)


@settings(max_examples=60, deadline=None)
@given(raw=ANY, way=st.sampled_from(WAYS))
def test_every_codec_gives_back_any_bytes(raw: bytes, way: tuple[Codec, int]) -> None:
    """Odd lengths, none at all, noise and repetition."""
    codec, parameter = way
    if not raw and codec is not Codec.RAW:
        return
    plain = codec is Codec.SPLIT
    body = bytes(split_plainly(raw, Floats(parameter))) if plain else b"".join(_encoded(raw, codec, parameter))
    assert decode(codec, parameter, body, len(raw)) == raw
    assert whole(decode(codec, parameter, memoryview(body), len(raw), ROOMS)) == raw


def floats(kind: str, count: int = 1 << 19) -> bytes:
    values = np.random.default_rng(5).standard_normal(count).astype(np.float32) * np.float32(0.02)
    if kind == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"fp16": np.float16, "fp32": np.float32}[kind]).tobytes()


@pytest.mark.checklist("SNAP-01")
@pytest.mark.parametrize(
    ("name", "raw", "codec", "least"),
    [
        ("bf16", floats("bf16"), Codec.SPLIT, 1.50),
        ("fp16", floats("fp16"), Codec.SPLIT, 1.15),
        ("fp32", floats("fp32"), Codec.SPLIT, 1.19),
        ("counters", np.arange(500_000, dtype=np.uint32).tobytes(), Codec.BITSHUFFLE, 10),
        ("text", b"".join(b'{"id": %d, "n": %d}\n' % (n, n * n % 977) for n in range(40_000)), Codec.ZSTD, 4),
        ("noise", random.Random(1).randbytes(1 << 20), Codec.RAW, 1),
        ("zeros", bytes(1 << 20), Codec.ZSTD, 1000),
        ("a flat field", np.full(1 << 18, math.pi, np.float32).tobytes(), Codec.ZSTD, 1000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_probe_takes_what_pays(name: str, raw: bytes, codec: Codec, least: float) -> None:
    """Weights are split into fields, counters bitshuffled, text compressed, noise left alone."""
    found, parameter, body = encode(raw)
    assert found is codec, f"{name}: {choose(raw)}"
    assert len(raw) / sum(map(len, body)) >= least
    assert decode(found, parameter, b"".join(body), len(raw)) == raw


@pytest.mark.parametrize("form", [coder._Whole, coder._Plain])
def test_both_forms_of_the_coder_write_frames_of_zstd(form: Callable[[], Any]) -> None:
    """Planes that compress, that do not, that are nothing but one byte, and nothing at all."""
    draw = random.Random(3)
    near = bytes(draw.choices(range(8), range(1, 9), k=100_000))
    for plane in (near, draw.randbytes(70_000), bytes(300_000), b"x", b""):
        room = memoryview(bytearray(coder.frame_room(len(plane))))
        packed = form().code_into(memoryview(plane), room)
        assert zstandard.frame_content_size(room[:packed]) == len(plane)
        assert coder.decompressor().decompress(bytes(room[:packed])) == plane
        assert packed < len(plane) * 0.4 or plane != near


def bomb() -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(64 << 20))


PAIRED = 16


def odd_ones(kind: int, count: int, few: int) -> bytes:
    """Weights of which some have exponents of their own, zero and the greatest among them."""
    draw = random.Random(count)
    raw = bytearray(floats("bf16" if kind == 1 else "fp32", count))
    width = 2 if kind == 1 else 4
    for number in range(few):
        place = draw.randrange(count) if number else count - 1
        raw[place * width + width - 2 : (place + 1) * width] = draw.choice(
            (b"\0\0", b"\xff\x7f", b"\xff\xff", b"\0\x01")
        )
    return bytes(raw)


@pytest.mark.checklist("SNAP-01")
@pytest.mark.parametrize("kind", [1, 3])
@pytest.mark.parametrize(("count", "few"), [(400_001, 0), (400_001, 60), (600_000, 90), (131_072, 1), (50_001, 3)])
def test_weights_are_coded_in_pairs(kind: int, count: int, few: int) -> None:
    """Odd and even counts, with a few that lie elsewhere, the last one among them; the plain form gives the same."""
    raw = odd_ones(kind, count, few) + b"!"
    codec, parameter, body = encode(raw)
    assert (codec, parameter) == (Codec.SPLIT, kind | PAIRED)
    packed = b"".join(body)
    plain = bytes(split_plainly(raw, Floats(kind)))
    assert len(packed) < len(plain) * 1.005
    for rooms in (None, ROOMS):
        assert whole(decode(codec, parameter, packed, len(raw), rooms)) == raw
        assert whole(decode(Codec.SPLIT, kind, plain, len(raw), rooms)) == raw


@pytest.mark.parametrize("start", [0, 1])
def test_what_lies_too_wide_for_pairs_is_coded_as_before(start: int) -> None:
    """Whether a sample, of each 24th, shows it or only the whole does."""
    raw = bytearray(floats("bf16", 400_000))
    for place in range(start, 400_000, 40 * 24):
        raw[2 * place + 1] = 0x7F
    codec, parameter, body = encode(bytes(raw))
    assert (codec, parameter) == (Codec.SPLIT, 1)
    assert decode(codec, parameter, b"".join(body), len(raw)) == raw


BLOSC = blosc.compress(bytes(1 << 20), typesize=4, clevel=1, shuffle=blosc.BITSHUFFLE, cname="lz4")
SPLIT = bytes(split_plainly(floats("bf16", 1000), Floats.BF16))


def paired(plane: bytes) -> bytes:
    """Return the body of 1,000 halves of floats whose plane of pairs is that."""
    frame = zstandard.ZstdCompressor().compress(plane)
    return struct.pack("<I", len(frame)) + frame + bytes(1000)


BOMBS = {
    "zstd that says more": (Codec.ZSTD, 0, bomb(), 1000),
    "zstd that says nothing": (Codec.ZSTD, 0, zstandard.ZstdCompressor(write_content_size=False).compress(b"x"), 1),
    "a record beyond any chunk": (Codec.ZSTD, 0, bomb(), 1 << 31),
    "blosc that says more": (Codec.BITSHUFFLE, 4, BLOSC, 1000),
    "blosc with another length": (Codec.BITSHUFFLE, 4, BLOSC[:4] + struct.pack("<I", 1 << 31) + BLOSC[8:], 1 << 20),
    "blosc cut short": (Codec.BITSHUFFLE, 4, BLOSC[:-1], 1 << 20),
    "blosc of nothing": (Codec.BITSHUFFLE, 4, b"", 0),
    "blosc of another format": (Codec.BITSHUFFLE, 4, b"\x09" + BLOSC[1:], 1 << 20),
    "a plane that says more": (Codec.SPLIT, 1, struct.pack("<I", len(bomb())) + bomb() + bytes(500), 1000),
    "a frame beyond the body": (Codec.SPLIT, 1, struct.pack("<I", 1 << 31) + SPLIT[4:], 2000),
    "planes cut short": (Codec.SPLIT, 1, SPLIT[:-1], 2000),
    "no planes": (Codec.SPLIT, 1, b"", 0),
    "pairs without a base": (Codec.SPLIT, 17, paired(b"\0" * 500), 2000),
    "pairs of half a place": (Codec.SPLIT, 17, paired(b"\0" * 503), 2000),
    "pairs that name a place beyond": (Codec.SPLIT, 17, paired(b"\0" * 500 + b"\xe8\3\0\0" + b"\0\0"), 2000),
    "pairs above a base beyond": (Codec.SPLIT, 17, paired(b"\0" * 500 + b"\xf1"), 2000),
    "pairs that say more": (Codec.SPLIT, 17, paired(b"\0" * 1001), 2000),
}
NEWER = {
    "pairs of no kind": (Codec.SPLIT, 16, paired(b"\0" * 501), 2000),
    "floats of no kind": (Codec.SPLIT, 9, SPLIT, 2000),
    "a form beside pairs": (Codec.SPLIT, 33, SPLIT, 2000),
    "zstd with something": (Codec.ZSTD, 1, zstandard.ZstdCompressor().compress(b"x"), 1),
    "raw with something": (Codec.RAW, 1, b"x", 1),
    "another width": (Codec.BITSHUFFLE, 8, BLOSC, 1 << 20),
    "an unknown codec": (77, 0, b"", 0),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_decodes_to_more_than_it_says_is_refused(name: str) -> None:
    """Lengths are checked before memory is asked for."""
    with pytest.raises(RecordDamaged):
        decode(*BOMBS[name])
    with pytest.raises(RecordDamaged):
        decode(*BOMBS[name], ROOMS)


@pytest.mark.parametrize("name", NEWER)
def test_what_only_a_newer_version_can_decode_is_not_damage(name: str) -> None:
    """Nobody may take it for broken; the error says what to do."""
    with pytest.raises(RecordUnknown, match="update Dumont Cloud"):
        decode(*NEWER[name])


@pytest.mark.checklist("SNAP-21")
def test_the_speed_of_decoding_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is the chunk's bytes for the CPU time that is said beside it; what decodes wrongly has none."""
    raw = floats("bf16")
    found = vault_decoding.decoding(raw, times=2)
    shown = found.document()
    assert (shown["metric"], shown["bytes"]) == ("decode_gb_per_cpu_s", len(raw))
    seconds, together = found.more["cpu_s"], found.more["all_cores_gb_s"]
    assert isinstance(seconds, float) and isinstance(together, float)
    assert seconds > 0 and together > 0
    assert found.value == pytest.approx(len(raw) / seconds / 1e9)
    monkeypatch.setattr("dumont.vault.codecs.decode", lambda *args: bytes(len(raw)))
    with pytest.raises(BenchmarkError):
        vault_decoding.decoding(raw, times=2)


def test_bitshuffle_does_without_the_tests_of_its_library() -> None:
    """A machine that restores loads neither these, nor unittest, nor numpy for it; what comes out is right."""
    code = """
import sys
from dumont.vault.codecs import Codec, _encoded, decode
raw = bytes(range(200)) * 700
for width in (2, 4):
    assert decode(Codec.BITSHUFFLE, width, b"".join(_encoded(raw, Codec.BITSHUFFLE, width)), len(raw)) == raw
assert not {"blosc.test", "unittest", "numpy"} & {*sys.modules}
import blosc
assert blosc.decompress(b"".join(_encoded(raw, Codec.BITSHUFFLE, 4))) == raw
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
