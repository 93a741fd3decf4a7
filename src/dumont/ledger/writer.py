"""The writer for postings that are all their request does: what comes while batches are in flight is the next batch."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dumont.core import Problem
from dumont.db import DatabaseUnavailable
from dumont.ledger.faults import Fault, classify, problem_for
from dumont.ledger.lane import LOST, Lane
from dumont.ledger.model import Outcome, Posting, find_fault, problem_of

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 0.1
_WORTH_ANOTHER = 32
"""So many wait before another lane is used: with fewer, what two batches cost is more than two lanes gain."""
_WORTH_APART = 8
"""So many are enough where no account of theirs is in flight, for then the two batches do not wait for each other."""


@dataclass(eq=False, slots=True)
class _Item:
    """A posting that waits; `sent` tells whether it may stand already, because an answer was lost."""

    posting: Posting
    accounts: Sequence[str]
    done: "asyncio.Future[Outcome]"
    until: float
    sent: bool = False


@dataclass
class Tally:
    """What a writer has done so far."""

    batches: int = 0
    postings: int = 0
    faults: dict[Fault, int] = field(default_factory=dict)


class Writer:
    """Posts for one process over one connection or a few, and lets everybody share them.

    A posting waits at most `patience_seconds` for a database that is away, or for an account that somebody has locked;
    others do not wait for that account. `most` postings go in one batch. With a second lane the database works on one
    batch while answers to another are given; one posting is never in two batches at once.
    Guarantees: each posting stands at most once, whatever is lost on the way; if one was answered before another was
    given, their entries on a common account have that order.
    """

    def __init__(self, *lanes: Lane, most: int = 500, patience_seconds: float = 10.0) -> None:
        if not lanes:
            raise ValueError("the ledger's writer needs a lane")
        self._lanes = lanes
        self._most = most
        self._patience = patience_seconds
        self._waiting: deque[_Item] = deque()
        self._busy: set[str] = set()
        self._look_at = 0.0
        self._next_pause = _PAUSE_SECONDS
        self._wake = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._in_flight: set[str] = set()
        self._touched: list[set[str]] = []
        self._at_work = 0
        self._closed = False
        self.tally = Tally()

    async def post(self, posting: Posting) -> Outcome:
        """Post one transfer and say what became of it; a refusal is an outcome.

        Errors: BadPosting for what can never stand. DatabaseUnavailable: nothing was written. OutcomeUnknown: it may
        stand. After both, the same key again is safe and tells.
        """
        if (fault := find_fault(posting)) is not None:
            raise problem_of(fault)
        return await self._give(posting)

    async def post_batch(self, postings: Sequence[Posting]) -> list[Outcome]:
        """Post many and return one outcome for each, in their order; what can never stand is an outcome here too.

        Two with one key are decided one after the other.
        """
        given: list[asyncio.Future[Outcome] | Outcome] = []
        for posting in postings:
            fault = find_fault(posting)
            given.append(self._give(posting) if fault is None else Outcome(posting.id, problem=problem_of(fault)))
        waiting = [item for item in given if isinstance(item, asyncio.Future)]
        answers = iter(await asyncio.gather(*waiting, return_exceptions=True))
        return [
            _outcome(posting, item if isinstance(item, Outcome) else next(answers))
            for posting, item in zip(postings, given, strict=True)
        ]

    async def close(self) -> None:
        """Answer what waits and close the connections."""
        self._closed = True
        self._wake.set()
        await asyncio.gather(*self._workers)
        for lane in self._lanes:
            await lane.close()

    def _give(self, posting: Posting) -> "asyncio.Future[Outcome]":
        if self._closed:
            raise RuntimeError("the ledger's writer is closed")
        loop = asyncio.get_running_loop()
        if not self._workers:
            self._workers = [loop.create_task(self._work(lane), name="ledger-writer") for lane in self._lanes]
        accounts = [leg.account_id for leg in posting.legs]
        item = _Item(posting, accounts, loop.create_future(), time.monotonic() + self._patience)
        self._waiting.append(item)
        if (not self._at_work or len(self._waiting) % _WORTH_APART == 0) and self._is_worth_a_batch():
            self._wake.set()
        return item.done

    async def _work(self, lane: Lane) -> None:
        while self._waiting or not self._closed:
            if not self._is_worth_a_batch():
                self._wake.clear()
                await self._wake.wait()
                continue
            self._at_work += 1
            try:
                await self._turn(lane)
            finally:
                self._at_work -= 1
                self._wake.set()

    def _share(self) -> int:
        """Return how many one batch may take: lanes that are free share what waits, where it is worth it."""
        free = len(self._lanes) - self._at_work + 1
        return min(self._most, max(_WORTH_ANOTHER, -(-len(self._waiting) // free)))

    def _is_worth_a_batch(self) -> bool:
        waiting = len(self._waiting)
        if not self._at_work or waiting >= _WORTH_ANOTHER:
            return waiting > 0
        if waiting < _WORTH_APART or self._at_work == len(self._lanes):
            return False
        touched = set().union(*self._touched)
        return sum([touched.isdisjoint(item.accounts) for item in self._waiting]) >= _WORTH_APART

    async def _turn(self, lane: Lane) -> None:
        """Send one batch of what waits, without two of one key and without accounts that somebody has locked."""
        if self._busy and time.monotonic() >= self._look_at:
            await self._look(lane)
        batch = self._gather()
        ids = {item.posting.id for item in batch}
        accounts = {account for item in batch for account in item.accounts}
        self._in_flight |= ids
        self._touched.append(accounts)
        try:
            if batch:
                await self._send(lane, batch)
            else:
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        except Exception as error:  # noqa: BLE001 - whoever waits is answered, whatever happened
            _LOG.exception("The ledger's writer met what nobody expected.")
            self._fail(batch, error)
        finally:
            self._in_flight -= ids
            self._touched.remove(accounts)
        self._give_up()

    def _gather(self) -> list[_Item]:
        """Take a batch of what waits.

        Little is parted by accounts: two batches that share one take turns in the database, and one is quicker.
        """
        count, room = len(self._waiting), self._share()
        blocked: set[str] = set(self._busy)
        if self._at_work > 1 and count < _WORTH_ANOTHER:
            blocked.update(*self._touched)
        parted = self._at_work == 1 < len(self._lanes) and 2 * _WORTH_APART <= count < 2 * _WORTH_ANOTHER
        if parted:
            room = -(-count // 2)
        batch: list[_Item] = []
        left: deque[_Item] = deque()
        ids = set(self._in_flight)
        company: set[str] = set()
        while self._waiting and len(batch) < (self._most if parted else room):
            item = self._waiting.popleft()
            apart = len(batch) >= room and company.isdisjoint(item.accounts)
            if apart or item.posting.id in ids or not blocked.isdisjoint(item.accounts):
                left.append(item)
            elif not item.done.done():
                ids.add(item.posting.id)
                company.update(item.accounts)
                batch.append(item)
        left.extend(self._waiting)
        self._waiting = left
        return batch

    async def _send(self, lane: Lane, items: list[_Item]) -> None:
        """Post a batch; where it fails, what the error means decides what is done with its items."""
        try:
            outcomes = await lane.post([item.posting for item in items])
        except LOST as error:
            fault = classify(error)
            self.tally.faults[fault] = self.tally.faults.get(fault, 0) + 1
            await self._recover(lane, items, fault, error)
            return
        self._next_pause = _PAUSE_SECONDS
        self.tally.batches += 1
        self.tally.postings += len(items)
        for item, outcome in zip(items, outcomes, strict=True):
            if not item.done.done():
                item.done.set_result(outcome)

    async def _recover(self, lane: Lane, items: list[_Item], fault: Fault, error: BaseException) -> None:
        if fault in (Fault.REFUSED, Fault.BROKEN):
            await self._bisect(lane, items, error)
        elif fault is Fault.LOCKED:
            await self._set_aside(lane, items, error)
        else:
            for item in items:
                item.sent = item.sent or fault is Fault.UNKNOWN
            self._waiting.extendleft(reversed(items))
            await self._pause()

    async def _bisect(self, lane: Lane, items: list[_Item], error: BaseException) -> None:
        if len(items) == 1:
            self._fail(items, error)
            return
        middle = len(items) // 2
        await self._send(lane, items[:middle])
        await self._send(lane, items[middle:])

    async def _set_aside(self, lane: Lane, items: list[_Item], error: BaseException) -> None:
        """Leave the accounts that somebody has locked, and those of them who wait for one, out of the next batches."""
        self._busy.update(account for item in items for account in item.accounts)
        await self._look(lane)
        if self._busy:
            self._waiting.extendleft(reversed(items))
        elif len(items) > 1:
            await self._bisect(lane, items, error)
        else:
            self._waiting.append(items[0])

    async def _look(self, lane: Lane) -> None:
        """Ask which accounts are still locked."""
        try:
            self._busy = await lane.busy(self._busy)
        except LOST:
            self._busy = set()
        self._look_at = time.monotonic() + _LOOK_AGAIN_SECONDS

    async def _pause(self) -> None:
        """Wait a moment before the database is asked again; longer, the longer it has been away."""
        await asyncio.sleep(self._next_pause)
        self._next_pause = min(self._next_pause * 2, _LONGEST_PAUSE_SECONDS)

    def _give_up(self) -> None:
        """Answer those whose patience is over: nothing was written, or nobody knows."""
        now = time.monotonic()
        late = [item for item in self._waiting if item.until <= now]
        if late:
            self._waiting = deque(item for item in self._waiting if item.until > now)
            self._fail(late, None)

    def _fail(self, items: Sequence[_Item], error: BaseException | None) -> None:
        for item in items:
            if item.done.done():
                continue
            if error is None:
                item.done.set_exception(problem_for(OSError()) if item.sent else DatabaseUnavailable(retry_after=1.0))
            else:
                item.done.set_exception(problem_for(error))


def _outcome(posting: Posting, answer: "Outcome | BaseException") -> Outcome:
    if isinstance(answer, Outcome):
        return answer
    return Outcome(posting.id, problem=answer if isinstance(answer, Problem) else problem_for(answer))
