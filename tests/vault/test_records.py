"""Records are opened where they lie, of any length, and one that was changed is refused."""

import random

import numpy as np
import pytest

from dumont.vault import DataKeys, Location, RecordDamaged, RecordReader, Rooms, S3Place, Sealer
from dumont.vault.codecs import Codec
from dumont.vault.keys import RepositoryKeys
from dumont.vault.weaving import Woven

SEALER = Sealer(DataKeys.of(b"d" * 32), "wsp_1")


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 4096, (8 << 20) + 1])
def test_a_record_opens_in_the_memory_that_it_came_into(length: int) -> None:
    """The cipher reads and writes the same bytes, which its library allows and does not promise; a wrong tag shows."""
    raw = random.Random(length).randbytes(length)
    chunk, rooms = SEALER.chunk_id(raw), Rooms()
    record = SEALER.seal(chunk, raw).data
    assert SEALER.open(chunk, memoryview(bytearray(record)), rooms=rooms) == raw
    for place in (-1, -16):
        wrong = bytearray(record)
        wrong[place] ^= 1
        with pytest.raises(RecordDamaged):
            SEALER.open(chunk, memoryview(wrong), rooms=rooms)


def test_a_group_of_floats_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many share it: a folder of small embeddings would cost its square."""
    made, plain, size = list[Woven](), Woven.whole, 4096
    monkeypatch.setattr(Woven, "whole", lambda woven: made.append(woven) or plain(woven))
    raw = np.random.default_rng(1).standard_normal(1 << 17).astype("<f4").tobytes()
    group = SEALER.chunk_id(raw)
    record = SEALER.seal(group, raw)
    assert record.codec == Codec.SPLIT
    reader = RecordReader(SEALER, memoryview(bytearray(record.data)), 0, hashed=False, rooms=Rooms())
    for at in range(0, len(raw), size):
        place = Location(b"p" * 16, 0, len(record.data), size, record.codec, group, at)
        assert reader.open(SEALER.chunk_id(raw[at : at + size]), place) == raw[at : at + size]
    assert len(made) == 1


def test_what_is_secret_is_not_shown() -> None:
    """Keys and who holds them may end in a log; named tuples would show all that they hold."""
    secrets = (DataKeys.of(b"k" * 32), RepositoryKeys.of(b"k" * 32), S3Place("https://s3", "b", "", "id", "secret"))
    assert f"{secrets} {secrets[2]}" == "(DataKeys, RepositoryKeys, S3Place) S3Place"
