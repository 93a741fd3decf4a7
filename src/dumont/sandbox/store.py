"""The sandbox's own records in SQLite: rentals, keys, spans of billing. A write outlives the process, killed or not."""

import json
import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dumont.sandbox.bids import Claim
from dumont.sandbox.sqlite import open_file, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rental (
  id INTEGER PRIMARY KEY AUTOINCREMENT, offer_id INTEGER NOT NULL, box_id INTEGER NOT NULL, gpus TEXT NOT NULL,
  image TEXT NOT NULL, disk_gb REAL NOT NULL, label TEXT, env TEXT NOT NULL, onstart TEXT, runtype TEXT NOT NULL,
  is_bid INTEGER NOT NULL, gpu_rate INTEGER NOT NULL, disk_rate INTEGER NOT NULL, created_us INTEGER NOT NULL,
  phase TEXT NOT NULL, intended TEXT NOT NULL, status_msg TEXT, port INTEGER NOT NULL, api_key TEXT NOT NULL,
  hardware TEXT NOT NULL, destroyed_us INTEGER);
CREATE TABLE IF NOT EXISTS span (
  id INTEGER PRIMARY KEY, rental_id INTEGER NOT NULL REFERENCES rental, state TEXT NOT NULL,
  gpu_rate INTEGER NOT NULL, disk_rate INTEGER NOT NULL, from_us INTEGER NOT NULL, to_us INTEGER);
CREATE INDEX IF NOT EXISTS span_rental ON span (rental_id);
CREATE TABLE IF NOT EXISTS ssh_key (
  id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, account INTEGER NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rental_key (
  rental_id INTEGER NOT NULL, key_id INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (rental_id, key_id));
CREATE TABLE IF NOT EXISTS dead_box (box_id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS cut_box (box_id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS rental_host (rental_id INTEGER PRIMARY KEY, host TEXT NOT NULL);
"""
_RENTAL_COLUMNS = (
    "offer_id",
    "box_id",
    "gpus",
    "image",
    "disk_gb",
    "label",
    "env",
    "onstart",
    "runtype",
    "is_bid",
    "gpu_rate",
    "disk_rate",
    "created_us",
    "phase",
    "intended",
    "status_msg",
    "port",
    "api_key",
    "hardware",
)
_FIRST_IDS = range(30_000_000, 900_000_000)


@dataclass(frozen=True)
class Rental:
    """One contract and its machine. Units: rates in nano-dollars per hour, times in product microseconds."""

    id: int
    offer_id: int
    box_id: int
    gpus: tuple[int, ...]
    image: str
    disk_gb: float
    label: str | None
    env: dict[str, str]
    onstart: str | None
    runtype: str
    is_bid: bool
    gpu_rate: int
    disk_rate: int
    created_us: int
    phase: str
    intended: str
    status_msg: str | None
    port: int
    api_key: str
    hardware: dict[str, Any]
    destroyed_us: int | None


@dataclass(frozen=True)
class Span:
    """A stretch of time at one pair of rates; `to_us` is None while it runs."""

    rental_id: int
    state: str
    gpu_rate: int
    disk_rate: int
    from_us: int
    to_us: int | None


class Store:
    """The only place that speaks SQL; used from one thread."""

    def __init__(self, path: Path) -> None:
        self._db = open_file(path, _SCHEMA)
        self._db.row_factory = sqlite3.Row
        if self.meta("marker") is None:
            self._begin()

    def _begin(self) -> None:
        # A first number of its own keeps machines of different sandboxes on one computer apart.
        first = secrets.choice(_FIRST_IDS)
        with self.transaction():
            self.set_meta("marker", secrets.token_hex(16))
            self.set_meta("first", str(first))
            self._db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('rental', ?)", (first,))

    def transaction(self) -> AbstractContextManager[None]:
        """Commit all of the block or nothing of it."""
        return transaction(self._db)

    def close(self) -> None:
        """Close the file; nothing may be called afterwards."""
        self._db.close()

    def meta(self, name: str) -> str | None:
        """Return a stored word, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Store a word under a name."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def add_rental(self, values: dict[str, Any]) -> int:
        """Write a rental with the account's present keys and return its number, which is never used again."""
        packed = [json.dumps(values[n]) if n in ("gpus", "env", "hardware") else values[n] for n in _RENTAL_COLUMNS]
        marks = ", ".join("?" * len(packed))
        done = self._db.execute(f"INSERT INTO rental ({', '.join(_RENTAL_COLUMNS)}) VALUES ({marks})", packed)
        number = int(done.lastrowid or 0)
        self._db.execute(
            "INSERT INTO rental_key SELECT ?, id, text FROM ssh_key WHERE account = 1 ORDER BY id", (number,)
        )
        return number

    def rental(self, number: int) -> Rental | None:
        """Return a rental, destroyed ones too, or None."""
        row = self._db.execute("SELECT * FROM rental WHERE id = ?", (number,)).fetchone()
        return None if row is None else _rental(row)

    def rentals(self, *, destroyed: bool = False) -> list[Rental]:
        """Return the rentals by number; with `destroyed` the ended ones as well."""
        where = "" if destroyed else "WHERE destroyed_us IS NULL"
        return [_rental(row) for row in self._db.execute(f"SELECT * FROM rental {where} ORDER BY id")]

    def update(self, number: int, **values: Any) -> None:
        """Change columns of a rental."""
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE rental SET {names} WHERE id = ?", (*values.values(), number))

    def turn_span(self, number: int, state: str | None, gpu_rate: int, disk_rate: int, at_us: int) -> None:
        """End the running span and begin another one, never before the ended one; `state` None begins none."""
        running = self._db.execute(
            "UPDATE span SET to_us = max(from_us, ?) WHERE rental_id = ? AND to_us IS NULL RETURNING to_us",
            (at_us, number),
        ).fetchall()
        at_us = max([at_us, *(row[0] for row in running)])
        if state is not None:
            self._db.execute(
                "INSERT INTO span (rental_id, state, gpu_rate, disk_rate, from_us) VALUES (?, ?, ?, ?, ?)",
                (number, state, gpu_rate, disk_rate, at_us),
            )

    def close_spans(self, at_us: int) -> None:
        """End every running span, none before its own beginning."""
        self._db.execute("UPDATE span SET to_us = max(from_us, ?) WHERE to_us IS NULL", (at_us,))

    def spans(self, number: int | None = None) -> list[Span]:
        """Return the spans of one rental or of all, oldest first."""
        where, values = ("", ()) if number is None else ("WHERE rental_id = ?", (number,))
        rows = self._db.execute(
            f"SELECT rental_id, state, gpu_rate, disk_rate, from_us, to_us FROM span {where} ORDER BY id", values
        )
        return [Span(*row) for row in rows]

    def add_key(self, text: str, created: str, *, account: bool) -> int:
        """Write a public key and return its number."""
        done = self._db.execute(
            "INSERT INTO ssh_key (text, account, created) VALUES (?, ?, ?)", (text, int(account), created)
        )
        return int(done.lastrowid or 0)

    def account_keys(self) -> list[tuple[int, str, str]]:
        """Return the account's keys as (number, text, created)."""
        rows = self._db.execute("SELECT id, text, created FROM ssh_key WHERE account = 1 ORDER BY id")
        return [(row[0], row[1], row[2]) for row in rows]

    def change_key(self, key: int, text: str | None) -> bool:
        """Replace the text of an account key, or remove it with None; machines keep what they have."""
        if text is None:
            done = self._db.execute("DELETE FROM ssh_key WHERE id = ? AND account = 1", (key,))
        else:
            done = self._db.execute("UPDATE ssh_key SET text = ? WHERE id = ? AND account = 1", (text, key))
        return done.rowcount == 1

    def rental_keys(self, number: int) -> list[tuple[int, str]]:
        """Return the keys that open a machine as (number, text)."""
        rows = self._db.execute("SELECT key_id, text FROM rental_key WHERE rental_id = ? ORDER BY key_id", (number,))
        return [(row[0], row[1]) for row in rows]

    def attach(self, number: int, key: int, text: str) -> None:
        """Let a key open a machine."""
        self._db.execute("INSERT OR REPLACE INTO rental_key VALUES (?, ?, ?)", (number, key, text))

    def detach(self, number: int, key: int) -> bool:
        """Take a key from a machine; False where it had none of that number."""
        done = self._db.execute("DELETE FROM rental_key WHERE rental_id = ? AND key_id = ?", (number, key))
        return done.rowcount == 1

    def dead_boxes(self) -> set[int]:
        """Return the boxes whose plug is pulled."""
        return {row[0] for row in self._db.execute("SELECT box_id FROM dead_box")}

    def set_dead(self, box: int, dead: bool) -> None:
        """Record that a box lost its power, or has it again."""
        self._db.execute("DELETE FROM dead_box WHERE box_id = ?", (box,))
        if dead:
            self._db.execute("INSERT INTO dead_box VALUES (?)", (box,))

    def ports(self) -> set[int]:
        """Return the ports of the living rentals."""
        return {row[0] for row in self._db.execute("SELECT port FROM rental WHERE destroyed_us IS NULL")}

    def claims(self) -> list[Claim]:
        """Return what living rentals want or have of their boxes, by number."""
        rows = self._db.execute(
            "SELECT id, box_id, gpus, phase, is_bid, gpu_rate FROM rental WHERE destroyed_us IS NULL ORDER BY id"
        )
        return [Claim(r[0], r[1], _gpus(r[2]), r[3], r[5] if r[4] else None) for r in rows]

    def cut_boxes(self) -> set[int]:
        """Return the boxes that run, but that the marketplace cannot hear."""
        return {row[0] for row in self._db.execute("SELECT box_id FROM cut_box")}

    def set_cut(self, box: int, cut: bool) -> None:
        """Record that the marketplace no longer hears a box, or does again."""
        self._db.execute("DELETE FROM cut_box WHERE box_id = ?", (box,))
        if cut:
            self._db.execute("INSERT INTO cut_box VALUES (?)", (box,))

    def rental_hosts(self) -> dict[int, str]:
        """Return the addresses of the machines that were moved."""
        return dict(self._db.execute("SELECT rental_id, host FROM rental_host").fetchall())

    def set_rental_host(self, number: int, host: str) -> None:
        """Record the address that a machine was moved to."""
        self._db.execute("INSERT OR REPLACE INTO rental_host VALUES (?, ?)", (number, host))

    def first_number(self) -> int:
        """Return the number below the first rental's since the beginning or the last `begin_again`."""
        return int(self.meta("first") or 0)

    def begin_again(self) -> None:
        """Forget rentals, bills, keys and dead boxes; numbers are never used again."""
        with self.transaction():
            for table in ("span", "rental_key", "rental_host", "rental", "ssh_key", "dead_box", "cut_box"):
                self._db.execute(f"DELETE FROM {table}")
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rental'").fetchone()
            self.set_meta("first", str(row[0]))

    def rental_gpus(self) -> Iterable[tuple[int, tuple[int, ...]]]:
        """Return (box, GPU positions) of every rental that ever was."""
        return [(row[0], _gpus(row[1])) for row in self._db.execute("SELECT box_id, gpus FROM rental")]


@lru_cache(maxsize=1024)
def _gpus(text: str) -> tuple[int, ...]:
    return tuple(json.loads(text))


def _rental(row: sqlite3.Row) -> Rental:
    return _read(tuple(row), tuple(row.keys()))


@lru_cache(maxsize=2048)
def _read(values: tuple[Any, ...], names: tuple[str, ...]) -> Rental:
    """Read a row once for as long as it does not change; nobody writes into what is read."""
    found = dict(zip(names, values, strict=True))
    found["gpus"] = _gpus(found["gpus"])
    found["env"] = json.loads(found["env"])
    found["hardware"] = json.loads(found["hardware"])
    found["is_bid"] = bool(found["is_bid"])
    return Rental(**found)
