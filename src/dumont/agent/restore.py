"""Restore a workspace on the machine's side: fetch into a partial tree, prove it, then exchange."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgpack

from dumont.agent.errors import AgentFailed
from dumont.agent.exchange import OLD_PREFIX, PARTIAL_PREFIX, exchange, remove_tree
from dumont.agent.partial import PartialTree, RestoreCounts, RestorePlan
from dumont.agent.protocol import Progress
from dumont.agent.seen import Seen
from dumont.agent.transfer import Blobs
from dumont.agent.walk import Excluder
from dumont.vault import Location, Sealer, unpack_columns


def dump_plan(plan: RestorePlan, packed_entries: bytes) -> bytes:
    """Return a plan as bytes for the way to the machine."""
    places = [(chunk, *place) for chunk, place in plan.places.items()]
    document = {"entries": packed_entries, "places": places, "root": plan.root, "exclude": plan.exclude}
    packed: bytes = msgpack.packb(document)
    return packed


def load_plan(data: bytes) -> RestorePlan:
    """Read a plan and check every path in it.

    Errors: RecordDamaged for a path that leads out of the workspace; AgentFailed `bad_message`.
    """
    try:
        found = msgpack.unpackb(data)
        places = {row[0]: Location(*row[1:]) for row in found["places"]}
        entries = list(unpack_columns(found["entries"]))
        return RestorePlan(entries, places, found["root"], found["exclude"])
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise AgentFailed("bad_message", "The plan of a restore does not have the right form.") from error


def restore_tree(
    root: bytes, plan: RestorePlan, sealer: Sealer, blobs: Blobs, seen: Seen, progress: Callable[[Progress], None]
) -> RestoreCounts:
    """Make the tree below `root` what the plan says, and remember in `seen` what need not be read for the next save.

    Guarantees: nothing in the target changes before every byte was written and proven; a failure leaves it as it was.
    Errors: AgentFailed, RecordDamaged, OSError.
    """
    os.makedirs(root, exist_ok=True)
    name = secrets.token_hex(8)
    stale = [os.path.join(root, n) for n in os.listdir(root) if n.startswith((PARTIAL_PREFIX, OLD_PREFIX))]
    builder = PartialTree(root, name, plan, sealer, progress)
    try:
        builder.build([root, *stale], blobs)
        builder.prove()
        old, new = _top_level(root, plan)
        exchange(root, name, old, new)
    except BaseException as error:
        if not (isinstance(error, AgentFailed) and error.code == "rollback_failed"):
            with suppress(OSError):
                remove_tree(builder.path)
        raise
    seen.restored(root, builder.proven)
    for left in stale:
        with suppress(OSError):
            remove_tree(left)
    return builder.counts


def _top_level(root: bytes, plan: RestorePlan) -> tuple[list[bytes], list[bytes]]:
    excluded = Excluder(plan.exclude)
    new = [entry.path for entry in plan.entries if b"/" not in entry.path]
    here = os.listdir(root)
    return sorted(name for name in here if name in set(new) or not excluded(name)), new
