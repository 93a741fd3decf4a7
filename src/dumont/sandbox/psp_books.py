"""What the simulated payment service remembers, in SQLite: charges, payments, returns, notices that are due."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dumont.sandbox.sqlite import open_file, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charge (
  txid TEXT PRIMARY KEY, pix_key TEXT NOT NULL, amount INTEGER NOT NULL, expires_s INTEGER NOT NULL,
  created_s REAL NOT NULL, status TEXT NOT NULL, location TEXT NOT NULL UNIQUE, note TEXT);
CREATE TABLE IF NOT EXISTS payment (
  end_to_end_id TEXT PRIMARY KEY, txid TEXT, amount INTEGER NOT NULL, at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS payback (
  end_to_end_id TEXT NOT NULL, id TEXT NOT NULL, amount INTEGER NOT NULL, status TEXT NOT NULL, at_s REAL NOT NULL,
  PRIMARY KEY (end_to_end_id, id));
CREATE TABLE IF NOT EXISTS webhook (pix_key TEXT PRIMARY KEY, url TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notice (
  number INTEGER PRIMARY KEY AUTOINCREMENT, end_to_end_id TEXT NOT NULL, amount INTEGER, due_s REAL,
  tries INTEGER NOT NULL DEFAULT 0);
"""


@dataclass(frozen=True)
class PspCharge:
    """A charge. Units: centavos; product seconds."""

    txid: str
    pix_key: str
    amount: int
    expires_s: int
    created_s: float
    status: str
    location: str
    note: str | None


@dataclass(frozen=True)
class PspPayment:
    """A payment; `txid` None where its payer named no charge."""

    end_to_end_id: str
    txid: str | None
    amount: int
    at_s: float


@dataclass(frozen=True)
class PspReturn:
    """Money that goes back."""

    end_to_end_id: str
    id: str
    amount: int
    status: str
    at_s: float


@dataclass(frozen=True)
class PspNotice:
    """A notice to be sent; `amount` is what it says where that is a lie. Units: `due_s` in real Unix seconds."""

    number: int
    end_to_end_id: str
    amount: int | None
    tries: int


class PspBooks:
    """The only place of the payment service that speaks SQL; used from one thread."""

    def __init__(self, path: Path) -> None:
        self._db = open_file(path, _SCHEMA)

    def transaction(self) -> AbstractContextManager[None]:
        """Commit all of the block or nothing of it."""
        return transaction(self._db)

    def add_charge(self, charge: PspCharge) -> bool:
        """Write a charge; False where its txid is taken."""
        values = tuple(vars(charge).values())
        return self._db.execute("INSERT OR IGNORE INTO charge VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values).rowcount == 1

    def charge(self, txid: str) -> PspCharge | None:
        """Return a charge."""
        row = self._db.execute("SELECT * FROM charge WHERE txid = ?", (txid,)).fetchone()
        return None if row is None else PspCharge(*row)

    def charge_at(self, location: str) -> PspCharge | None:
        """Return the charge that a code points at."""
        row = self._db.execute("SELECT * FROM charge WHERE location = ?", (location,)).fetchone()
        return None if row is None else PspCharge(*row)

    def set_status(self, txid: str, status: str) -> None:
        """Change where a charge is."""
        self._db.execute("UPDATE charge SET status = ? WHERE txid = ?", (status, txid))

    def add_payment(self, payment: PspPayment) -> None:
        """Write a payment."""
        self._db.execute("INSERT INTO payment VALUES (?, ?, ?, ?)", tuple(vars(payment).values()))

    def payment(self, end_to_end_id: str) -> PspPayment | None:
        """Return a payment."""
        row = self._db.execute("SELECT * FROM payment WHERE end_to_end_id = ?", (end_to_end_id,)).fetchone()
        return None if row is None else PspPayment(*row)

    def payments_of(self, txid: str) -> list[PspPayment]:
        """Return the payments of a charge, oldest first."""
        rows = self._db.execute("SELECT * FROM payment WHERE txid = ? ORDER BY at_s, end_to_end_id", (txid,))
        return [PspPayment(*row) for row in rows]

    def set_return(self, back: PspReturn) -> None:
        """Write a return, or where it is now."""
        self._db.execute("INSERT OR REPLACE INTO payback VALUES (?, ?, ?, ?, ?)", tuple(vars(back).values()))

    def returns_of(self, end_to_end_id: str) -> list[PspReturn]:
        """Return what goes back of a payment, oldest first."""
        rows = self._db.execute("SELECT * FROM payback WHERE end_to_end_id = ? ORDER BY at_s, id", (end_to_end_id,))
        return [PspReturn(*row) for row in rows]

    def set_webhook(self, pix_key: str, url: str) -> None:
        """Remember where the notices of a key go."""
        self._db.execute("INSERT OR REPLACE INTO webhook VALUES (?, ?)", (pix_key, url))

    def webhook(self, pix_key: str) -> str | None:
        """Return where the notices of a key go."""
        row = self._db.execute("SELECT url FROM webhook WHERE pix_key = ?", (pix_key,)).fetchone()
        return None if row is None else str(row[0])

    def keys(self) -> Sequence[str]:
        """Return the keys that have somewhere to send notices."""
        return [row[0] for row in self._db.execute("SELECT pix_key FROM webhook ORDER BY pix_key")]

    def add_notice(self, end_to_end_id: str, amount: int | None, due_s: float | None) -> None:
        """Queue a notice; without a time it is held until somebody asks for it."""
        self._db.execute(
            "INSERT INTO notice (end_to_end_id, amount, due_s) VALUES (?, ?, ?)", (end_to_end_id, amount, due_s)
        )

    def release(self, end_to_end_id: str, due_s: float) -> int:
        """Let the held notices of a payment go; return how many."""
        done = self._db.execute(
            "UPDATE notice SET due_s = ? WHERE end_to_end_id = ? AND due_s IS NULL", (due_s, end_to_end_id)
        )
        return done.rowcount

    def due(self, now_s: float) -> list[PspNotice]:
        """Return the notices whose time has come, in the order of their times."""
        rows = self._db.execute(
            "SELECT number, end_to_end_id, amount, tries FROM notice WHERE due_s <= ? ORDER BY due_s, number", (now_s,)
        )
        return [PspNotice(*row) for row in rows]

    def next_due(self) -> float | None:
        """Return when the next notice is due."""
        row = self._db.execute("SELECT min(due_s) FROM notice").fetchone()
        return None if row[0] is None else float(row[0])

    def sent(self, number: int) -> None:
        """Forget a notice that was taken, or given up."""
        self._db.execute("DELETE FROM notice WHERE number = ?", (number,))

    def later(self, number: int, due_s: float) -> None:
        """Try a notice again at that time."""
        self._db.execute("UPDATE notice SET due_s = ?, tries = tries + 1 WHERE number = ?", (due_s, number))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
