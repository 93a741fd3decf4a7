"""What is known of a snapshot in figures: sizes, what was new, how quick it was, what it costs to keep."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.durable import get_operation
from dumont.http import MoneyDocument, money
from dumont.snapshots import queries
from dumont.snapshots.model import Snapshot

GB = 10**9


class PhaseDocument(BaseModel):
    """One step of the operation that made a snapshot. Units: `bytes` that it went through."""

    phase: str
    seconds: float
    bytes: int | None
    bytes_second: int | None


class MetadataDocument(BaseModel):
    """A snapshot in figures; what was not measured is null. Units: bytes, seconds, bytes in a second."""

    snapshot_id: str
    kind: str
    created_at: datetime
    files: int | None
    bytes_total: int | None = Field(description="What the files hold.")
    bytes_new: int | None = Field(description="Of these, what no earlier snapshot had.")
    bytes_stored: int | None = Field(description="What the storage grew by.")
    bytes_verified: int | None = Field(description="What was read back from the storage before the machine stopped.")
    ratio: float | None = Field(description="New bytes to stored bytes.")
    dedup_share: float | None = Field(description="The share of the bytes that was stored already.")
    seconds: float | None
    bytes_second: int | None = Field(description="What the files hold, to the seconds that the save took.")
    sent_bytes_second: int | None = Field(description="What was stored, to the same seconds.")
    phases: list[PhaseDocument]
    chain: list[str] = Field(description="The snapshot and those before it, newest first; each is whole by itself.")
    first_seconds: float | None = Field(description="What the first save of the workspace took.")
    speedup_vs_full: float | None
    unstable: int
    read_errors: int
    cost_month: MoneyDocument | None = Field(description="What keeping the stored bytes costs; null without a price.")


async def metadata(session: AsyncSession, snapshot: Snapshot, gb_month_nano: int | None) -> MetadataDocument:
    """Gather what was measured of a snapshot."""
    operation = await get_operation(session, snapshot.operation_id) if snapshot.operation_id else None
    first = await queries.first_seconds(session, snapshot.workspace_id)
    later = snapshot.parent_id is not None and first is not None and bool(snapshot.seconds)
    new, total = snapshot.bytes_new, snapshot.bytes_total
    same = ("kind", "created_at", "files", "bytes_total", "bytes_new", "bytes_stored", "bytes_verified", "seconds")
    return MetadataDocument(
        **{name: getattr(snapshot, name) for name in same},
        snapshot_id=snapshot.id,
        ratio=_share(new, snapshot.bytes_stored),
        dedup_share=round(1 - new / total, 4) if new is not None and total else None,
        bytes_second=_rate(total, snapshot.seconds),
        sent_bytes_second=_rate(snapshot.bytes_stored, snapshot.seconds),
        phases=[phase for step in (operation.steps if operation else ()) if (phase := _phase(step)) is not None],
        chain=await queries.chain(session, snapshot.id),
        first_seconds=first,
        speedup_vs_full=round(first / snapshot.seconds, 2) if later and first and snapshot.seconds else None,
        unstable=len(snapshot.unstable),
        read_errors=len(snapshot.read_errors),
        cost_month=cost_month(snapshot.bytes_stored, gb_month_nano),
    )


def cost_month(stored: int | None, gb_month_nano: int | None) -> MoneyDocument | None:
    """Say what so many bytes cost in a month, None where one of the two is not known."""
    if stored is None or gb_month_nano is None:
        return None
    return money(round(stored * gb_month_nano / GB))


def _phase(step: dict[str, Any]) -> PhaseDocument | None:
    began, ended = step.get("started_at"), step.get("finished_at")
    if step.get("status") != "done" or not began or not ended:
        return None
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    done = step.get("bytes_done")
    return PhaseDocument(phase=step["name"], seconds=seconds, bytes=done, bytes_second=_rate(done, seconds))


def _rate(count: int | None, seconds: float | None) -> int | None:
    return round(count / seconds) if count is not None and seconds else None


def _share(part: int | None, whole: int | None) -> float | None:
    return round(part / whole, 3) if part and whole else None
