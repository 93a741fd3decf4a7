"""Decides between our rentals and everybody else: who runs, who is outbid and since when, who may start again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dumont.sandbox.bids import Claim, rank, winners
from dumont.sandbox.catalogue import Box
from dumont.sandbox.rivals import Rivals
from dumont.sandbox.traces import Binding


@dataclass(frozen=True)
class Verdict:
    """What is to change: rentals that lose their GPUs, with the moment in product seconds, and those that get them."""

    outbid: list[tuple[int, float]]
    start: list[int]


class Contest:
    """One look at all claims on the boxes."""

    def __init__(self, boxes: dict[int, Box], rivals: Rivals, claims: Sequence[Claim], dark: set[int]) -> None:
        self._boxes = boxes
        self._rivals = rivals
        self._claims = list(claims)
        self._dark = dark

    def judge(self, since: float, now: float) -> Verdict:
        """Return who lost between two moments, and who gets what is free at the second one.

        Guarantees: a loss to the weather or a trace is dated to the moment it happened, however late it is asked for.
        """
        outbid = self._losses(since, now)
        lost = {number for number, _ in outbid}
        claims = [replace(claim, phase="outbid") if claim.id in lost else claim for claim in self._claims]
        served = self._winners(claims, now)
        for claim in claims:
            if claim.holds and claim.bid is not None and claim.id not in served and claim.box_id not in self._dark:
                outbid.append((claim.id, now))
        start = [claim.id for claim in claims if not claim.holds and claim.id in served and claim.id not in lost]
        return Verdict(outbid, start)

    def wins(self, number: int, now: float) -> bool:
        """Tell whether a claim has or would get its GPUs now."""
        return any(
            c.id == number for c in winners(self._claims, lambda claim, so_far: self._admits(claim, so_far, now))
        )

    def next_change(self, now: float) -> float:
        """Return the next moment at which a verdict may differ without anybody of ours doing anything."""
        waits = [c for c in self._claims if c.bid is not None or not c.holds]
        return min((self._change(claim, now) for claim in waits), default=float("inf"))

    def room(self, binding: Binding, now: float, *, bids: bool) -> int:
        """Return how many more rentals a trace leaves room for; `bids` counts only those that run by bid."""
        held = [c for c in self._claims if c.holds and (c.bid is not None or not bids) and self._covered(binding, c)]
        return max(0, binding.value(now) - len(held))

    def _winners(self, claims: Sequence[Claim], at: float) -> set[int]:
        return {claim.id for claim in winners(claims, lambda claim, so_far: self._admits(claim, so_far, at))}

    def _losses(self, since: float, now: float) -> list[tuple[int, float]]:
        running = [c for c in self._claims if c.holds and c.bid is not None and c.box_id not in self._dark]
        lost: list[tuple[int, float]] = []
        at = since
        while running:
            at = min(self._change(claim, at) for claim in running)
            if at > now:
                break
            served: list[Claim] = []
            for claim in sorted(running, key=rank):
                if self._admits(claim, served, at):
                    served.append(claim)
                else:
                    lost.append((claim.id, at))
            running = served
        return lost

    def _change(self, claim: Claim, at: float) -> float:
        return self._rivals.next_change(self._boxes[claim.box_id], claim.gpus, at)

    def _admits(self, claim: Claim, served: list[Claim], at: float) -> bool:
        box = self._boxes[claim.box_id]
        if claim.box_id in self._dark:
            return claim.holds
        if not all(self._within(trace, claim, served, at) for trace in self._rivals.traces if trace.covers(box)):
            return False
        if not claim.holds and self._rivals.held(box, claim.gpus, at):
            return False
        if claim.bid is None:
            return True
        least = self._rivals.market_price(box, at) if claim.holds else self._rivals.floor(box, at)
        return (
            not self._rivals.ousts(box, claim.gpus, at)
            and claim.per_gpu >= least
            and claim.per_gpu > self._rivals.bid(box, claim.gpus, at)
        )

    def _within(self, trace: Binding, claim: Claim, served: list[Claim], at: float) -> bool:
        if trace.mode == "preemption" and claim.bid is not None:
            running = [c for c in served if c.bid is not None and self._covered(trace, c)]
            return len(running) < trace.value(at)
        if trace.mode == "availability" and not claim.holds:
            others = [c for c in self._claims if c.id != claim.id and c.holds and self._covered(trace, c)]
            fresh = [c for c in served if not c.holds and self._covered(trace, c)]
            return len(others) + len(fresh) < trace.value(at)
        return True

    def _covered(self, trace: Binding, claim: Claim) -> bool:
        return trace.covers(self._boxes[claim.box_id])
