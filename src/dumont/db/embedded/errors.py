"""The one error of starting the embedded database, and the sentences that PostgreSQL's own words turn into."""

from pathlib import Path

NEEDED_BYTES = 160 * 1024 * 1024
"""A new cluster is 39 MB and its log of changes may grow to 64 MB before it is recycled; measured with 18.6."""


class DatabaseStartError(Exception):
    """The embedded database cannot start; the message says why and what to do."""


class DatabaseInUse(DatabaseStartError):
    """Another process supervises this database now."""


def full_disk(place: Path) -> DatabaseStartError:
    """Make the error for a disk without room."""
    return DatabaseStartError(
        f"The disk that holds {place} is full: a new database needs {NEEDED_BYTES // 1_048_576} MB. Nothing was left "
        "half-made. Free some room, or set DUMONT_HOME to another disk, and start again."
    )


def from_output(what: str, place: Path, output: str) -> DatabaseStartError:
    """Turn what PostgreSQL printed before it gave up into one error."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return full_disk(place)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if any(mark in line for mark in ("FATAL", "PANIC", "error:", "ERROR"))]
    last = "; ".join((told or lines)[-3:]) or "it said nothing"
    return DatabaseStartError(f"{what} in {place} failed. PostgreSQL said: {last}")
