"""Which snapshots a policy keeps: the last ones, one a day, one a week, and what somebody wants kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True)
class Saved:
    """A verified snapshot as a policy sees it; `pinned` is kept whatever the policy says."""

    id: str
    created_at: datetime
    pinned: bool = False


@dataclass(frozen=True)
class Rule:
    """How many are kept: the newest ones, the newest of so many days, and of so many weeks, each that has one (UTC)."""

    keep_last: int
    keep_daily: int = 0
    keep_weekly: int = 0


def to_forget(saved: Iterable[Saved], rule: Rule) -> list[str]:
    """Return the ids of one workspace's snapshots that a policy does not keep, oldest first.

    Guarantees: neither the newest nor a pinned one is among them, whatever the numbers.
    """
    newest_first = sorted(saved, key=lambda one: (one.created_at, one.id), reverse=True)
    kept = {one.id for one in newest_first[: max(1, rule.keep_last)]}
    kept |= {one.id for one in newest_first if one.pinned}
    kept |= _newest_of(newest_first, "%Y-%m-%d", rule.keep_daily)
    kept |= _newest_of(newest_first, "%G-W%V", rule.keep_weekly)
    return [one.id for one in reversed(newest_first) if one.id not in kept]


def _newest_of(newest_first: Sequence[Saved], period: str, number: int) -> set[str]:
    chosen: dict[str, str] = {}
    for one in newest_first:
        chosen.setdefault(one.created_at.astimezone(timezone.utc).strftime(period), one.id)
    return set(list(chosen.values())[:number])
