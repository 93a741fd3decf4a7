"""Who has a GPU when several want it: on-demand first, then the highest bid for each GPU, then the earliest.

Source: docs.vast.ai, rental types; a bidder pays the own bid, is stopped without notice and resumes when it wins again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

HOLDS_GPU = ("created", "loading", "running", "rebooting", "recycling", "failed", "ended")
WAITS = ("queued", "outbid")
"""Phases of rentals that want their GPUs and do not have them."""
QUEUED = "Required resources are currently unavailable, state change queued."
"""What the marketplace answers to a start that has to wait for its GPUs, and shows of the machine meanwhile."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a rental wants or has. Units: `bid` in nano-dollars per hour for all its GPUs, None for on demand."""

    id: int
    box_id: int
    gpus: tuple[int, ...]
    phase: str
    bid: int | None

    @property
    def holds(self) -> bool:
        """Whether it has its GPUs now."""
        return self.phase in HOLDS_GPU

    @property
    def per_gpu(self) -> float:
        """The bid for each GPU; only a bid's is asked for."""
        return (self.bid or 0) / len(self.gpus)


def rank(claim: Claim) -> tuple[int, float, int]:
    """Sort who is served first: holders on demand, waiters on demand, then bids from the highest, older ones first."""
    if claim.bid is None:
        return (0 if claim.holds else 1, 0.0, claim.id)
    return (2, -claim.per_gpu, claim.id)


def winners(claims: Iterable[Claim], admits: Callable[[Claim, list[Claim]], bool]) -> list[Claim]:
    """Return the claims that have or get their GPUs, best first.

    `admits(claim, served)` says whether the rest of the market lets a claim have them after those served before it.
    """
    served: list[Claim] = []
    used: dict[int, set[int]] = {}
    for claim in sorted((c for c in claims if c.holds or c.phase in WAITS), key=rank):
        taken = used.setdefault(claim.box_id, set())
        settled = claim.bid is None and claim.holds
        if settled or (not taken.intersection(claim.gpus) and admits(claim, served)):
            taken.update(claim.gpus)
            served.append(claim)
    return served


def holders(claims: Iterable[Claim], box_id: int, *, bids: bool) -> list[Claim]:
    """Return who holds GPUs of a box by bid, or on demand."""
    return [c for c in claims if c.holds and c.box_id == box_id and (c.bid is not None) == bids]
