"""What a restore brings from the store: all of it, or the error, wherever that happens, and nothing hangs."""

import os
from collections.abc import Callable

import pytest

from dumont.agent import fetching
from dumont.vault import Location, Rooms

PACK_BYTES = 40 * 1000
Pack = dict[bytes, bytes]


class Packs:
    """A store of packs in memory, which may lose one of its answers."""

    def __init__(self, packs: Pack, *, breaks_at: int = -1) -> None:
        self._packs = packs
        self._breaks_at = breaks_at

    def reader(self, pack: bytes, end: int) -> Callable[[int, memoryview], None]:
        """Return what fills memory from an offset of a pack."""

        def fill(offset: int, room: memoryview) -> None:
            if offset <= self._breaks_at < offset + len(room):
                raise OSError("the store is gone")
            assert offset + len(room) <= end
            room[:] = self._packs[pack][offset : offset + len(room)]

        return fill


@pytest.fixture
def packs() -> tuple[Pack, dict[bytes, Location]]:
    """Forty packs of forty records with gaps between some of them, and where each record lies."""
    stored = {os.urandom(16): os.urandom(PACK_BYTES) for _ in range(40)}
    needed = {
        pack + bytes([number]): Location(pack, number * 1000, 1000, 1000, 0)
        for pack in stored
        for number in range(40)
        if number % 7
    }
    return stored, needed


def test_all_that_is_needed_comes_once(packs: tuple[Pack, dict[bytes, Location]]) -> None:
    """Each record is handed on once, with its own bytes, however they are gathered."""
    stored, needed = packs
    found: list[tuple[bytes, bytes]] = []

    def take(run: fetching.Run, view: memoryview, rooms: Rooms) -> None:
        start = run[0][1].offset
        found.extend((chunk, bytes(view[p.offset - start : p.offset - start + p.length])) for chunk, p in run)

    fetching.fetch(Packs(stored), needed, take)  # type: ignore[arg-type]
    assert sorted(found) == sorted(
        (chunk, stored[place.pack][place.offset : place.offset + place.length]) for chunk, place in needed.items()
    )


@pytest.mark.parametrize("where", ["the store", "what takes it", "memory"])
def test_an_error_ends_it(
    packs: tuple[Pack, dict[bytes, Location]], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whoever fails, the caller hears of it and no thread waits for ever."""
    stored, needed = packs

    def take(run: fetching.Run, view: memoryview, rooms: Rooms) -> None:
        if where == "what takes it":
            raise ValueError("no such record")

    def no_memory(*_: object) -> Rooms:
        raise MemoryError

    if where == "memory":
        monkeypatch.setattr(fetching, "Rooms", no_memory)
    breaks_at = 22_500 if where == "the store" else -1
    with pytest.raises((OSError, ValueError, MemoryError)):
        fetching.fetch(Packs(stored, breaks_at=breaks_at), needed, take)  # type: ignore[arg-type]
