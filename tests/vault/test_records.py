"""Records are opened where they lie, of any length, and one that was changed is refused."""

import random

import pytest

from dumont.vault import DataKeys, RecordDamaged, Rooms, Sealer

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
