"""Floats of any kind, base and outliers are taken apart as docs/design/vault.md says, and put together again."""

import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.vault.test_reader import Reader

from dumont.vault.pairs import LEAST_COUNT
from dumont.vault.planes import PAIRED, Floats, _split, split
from dumont.vault.weaving import Woven

FEW = 2048
EDGES = (1 << 16, 1 << 17, 1 << 18)
"""Where a block ends: when floats are woven, when fp32 and when halves are taken apart."""
SMALL = st.integers(LEAST_COUNT, LEAST_COUNT + 5000)
LARGE = st.sampled_from([edge + more for edge in EDGES for more in (-1, 0, 1, 1023, 3001)])


def firsts_of(count: int, base: int, few: int, draw: Any) -> Any:
    """Return first bytes near a base, and where `few` are not: first, last, around a block's end, anywhere."""
    firsts = (base + draw.integers(0, 16, count)).astype("u1")
    ends = {0, count - 1, *(at for edge in EDGES for at in (edge - 1, edge) if at < count)}
    anywhere = [int(at) for at in draw.permutation(count)[: few + len(ends)] if at not in ends]
    places = np.array([*sorted(ends), *anywhere][:few], "u4")
    firsts[places] = base + 16 + draw.integers(0, 240, few)
    return firsts, np.sort(places)


def woven(kind: Floats, firsts: Any, seconds: Any, low: Any) -> bytes:
    """Put floats together by the document: the first byte is the exponent, or of fp16 the upper one."""
    wide, under = firsts.astype("u4"), seconds.astype("u4")
    tops = wide << 8 | under if kind is Floats.FP16 else wide << 7 | under >> 1 | (under & 1) << 15
    halves = tops.astype("<u2").reshape(-1, 1)
    if kind is Floats.FP32:
        halves = np.hstack((low.view("<u2").reshape(-1, 1), halves))
    return halves.astype("<u2").tobytes()


@settings(max_examples=30)
@given(
    kind=st.sampled_from(Floats),
    base=st.one_of(st.sampled_from([0, 240]), st.integers(0, 240)),
    count=st.one_of(SMALL, LARGE),
    few=st.one_of(st.integers(0, 9), st.none()),
    odd=st.integers(0, 3),
    seed=st.integers(0, 999),
)
@example(kind=Floats.BF16, base=0, count=(1 << 18) + 1, few=None, odd=1, seed=1)
@example(kind=Floats.FP16, base=240, count=(1 << 18) + 3001, few=None, odd=0, seed=2)
@example(kind=Floats.FP32, base=240, count=(1 << 17) + 1, few=None, odd=3, seed=3)
def test_pairs_are_as_the_document_says_and_give_back_all_floats(
    kind: Floats, base: int, count: int, few: int | None, odd: int, seed: int
) -> None:
    """As many outliers as may be (None) or fewer; the same from the writer, by the document, and back again."""
    few = count // FEW if few is None else min(few, count // FEW)
    draw = np.random.default_rng(seed)
    firsts, places = firsts_of(count, base, few, draw)
    seconds, low = (draw.integers(0, 256, size).astype("u1") for size in (count, 2 * count * (kind is Floats.FP32)))
    odds = b"odd"[: min(odd, (4 if kind is Floats.FP32 else 2) - 1)]
    raw = woven(kind, firsts, seconds, low) + odds
    found = _split(raw, kind, base)
    assert found is not None
    body = bytes(found)
    (packed,) = struct.unpack("<I", body[:4])
    content = zstandard.ZstdDecompressor().decompress(body[4 : 4 + packed])
    assert body[4 + packed :] == seconds.tobytes() + low.tobytes() + odds
    assert content[(count + 1) // 2 :] == places.tobytes() + firsts[places].tobytes() + bytes([base])
    back = Woven(body, kind | PAIRED, len(raw))
    assert back.whole() == raw
    for most in (512 << 10, 4096 + draw.integers(0, 9), 8 if count < EDGES[0] else 40_000):
        pieces = [bytes(piece) for piece in back.pieces(int(most))]
        assert max(map(len, pieces), default=0) <= most
        assert b"".join(pieces) == raw
    if count < EDGES[0]:
        parameter, chosen = split(raw, kind)
        assert (parameter, bytes(chosen)) == (kind | PAIRED, body)
        assert Reader.decoded(3, kind | PAIRED, body, len(raw)) == raw


@pytest.mark.parametrize("kind", Floats)
@pytest.mark.parametrize("base", [0, 240])
@pytest.mark.parametrize("count", [LEAST_COUNT, 10 * FEW - 1, 10 * FEW, (1 << 18) + FEW - 1])
def test_one_outlier_too_many_and_there_are_no_pairs(kind: Floats, base: int, count: int) -> None:
    """One in 2,048 may lie elsewhere; one more, and the floats are written as they are, and come back all the same."""
    draw = np.random.default_rng(count + base)
    for more, paired in ((0, PAIRED), (1, 0)):
        firsts, _ = firsts_of(count, base, count // FEW + more, draw)
        low = draw.integers(0, 256, 2 * count * (kind is Floats.FP32)).astype("u1")
        raw = woven(kind, firsts, draw.integers(0, 256, count).astype("u1"), low)
        assert (_split(raw, kind, base) is not None) == bool(paired)
        parameter, body = split(raw, kind)
        assert count > EDGES[0] or parameter == kind | paired
        assert Woven(bytes(body), parameter, len(raw)).whole() == raw


@pytest.mark.parametrize("kind", Floats)
def test_too_few_floats_are_not_paired(kind: Floats) -> None:
    """There is nothing to be gained, and no sample to go by."""
    width = 4 if kind is Floats.FP32 else 2
    for count, form in ((LEAST_COUNT, PAIRED), (LEAST_COUNT - 1, 0)):
        assert split(bytes(count * width), kind)[0] == kind | form
