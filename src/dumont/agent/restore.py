"""Restore a workspace on the machine's side: fetch into a partial tree, prove it, then exchange."""

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

import msgpack

from dumont.agent.errors import AgentFailed
from dumont.agent.exchange import OLD_PREFIX, PARTIAL_PREFIX, exchange, remove_tree
from dumont.agent.partial import PartialTree, RestoreCounts, RestorePlan
from dumont.agent.protocol import Progress
from dumont.agent.seen import Seen
from dumont.agent.walk import Excluder
from dumont.vault import Kind, Location, Sealer, unpack_columns

if TYPE_CHECKING:
    from dumont.agent.transfer import Blobs


def dump_plan(plan: RestorePlan, packed_entries: bytes) -> bytes:
    """Return a plan as bytes for the way to the machine."""
    places = [(chunk, *place) for chunk, place in plan.places.items()]
    whole = {"entries": packed_entries, "places": places, "root": plan.root, "exclude": plan.exclude}
    packed: bytes = msgpack.packb({**whole, "parts": plan.parts, "replace": plan.replace})
    return packed


def load_plan(data: bytes) -> RestorePlan:
    """Read a plan and check every path in it.

    Errors: RecordDamaged for a path that leads out of the workspace; AgentFailed `bad_message`.
    """
    try:
        found = msgpack.unpackb(data)
        places = {row[0]: Location(*row[1:]) for row in found["places"]}
        entries = list(unpack_columns(found["entries"]))
        parts, paths = found["parts"], {entry.path for entry in entries}
        if parts is not None and not paths.issuperset(parts):
            raise AgentFailed("bad_message", "The plan of a restore names parts that it does not hold.")
        return RestorePlan(entries, places, found["root"], found["exclude"], parts, found["replace"])
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise AgentFailed("bad_message", "The plan of a restore does not have the right form.") from error


def restore_tree(
    root: bytes,
    plan: RestorePlan,
    sealer: Sealer,
    blobs: "Blobs",
    seen: Seen,
    progress: Callable[[Progress], None],
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> RestoreCounts:
    """Make the tree below `root` what the plan says, and remember in `seen` what need not be read for the next save.

    Guarantees: nothing in the target changes before every byte was written and proven; a failure leaves it as it was.
    `turn` is entered before the exchange and may still refuse it.
    Errors: AgentFailed, RecordDamaged, OSError.
    """
    os.makedirs(root, exist_ok=True)
    name = os.urandom(8).hex()
    stale = [os.path.join(root, n) for n in os.listdir(root) if n.startswith((PARTIAL_PREFIX, OLD_PREFIX))]
    builder = PartialTree(root, name, plan, sealer, progress)
    try:
        builder.build([root, *stale], blobs)
        builder.prove()
        with turn():
            old, new = _top_level(root, plan) if plan.parts is None else _parts(root, plan, plan.parts)
            exchange(root, name, old, new)
            builder.counts.replaced = len(old)
    except BaseException as error:
        if not (isinstance(error, AgentFailed) and error.code == "rollback_failed"):
            with suppress(OSError):
                remove_tree(builder.path)
        raise
    if plan.parts is None:
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


def _parts(root: bytes, plan: RestorePlan, parts: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return which paths give way and which come: a part, or the folder above it that is not there yet.

    Errors: AgentFailed `in_the_way` where a file or link stands for a folder, or a folder for a file that is to be
    written beside others.
    """
    kinds = {entry.path: entry.kind for entry in plan.entries}
    new = set()
    for part in parts:
        place = _missing(root, part)
        if place is None and not plan.replace:
            stands, comes = _is_folder(root, part), kinds[part] is Kind.FOLDER
            if stands and comes:
                continue
            if stands or comes:
                raise _blocked(part)
        new.add(place or part)
    return sorted(path for path in new if os.path.lexists(os.path.join(root, path))), sorted(new)


def _missing(root: bytes, path: bytes) -> bytes | None:
    """Return the first part of a path that is not there; None where all of it is."""
    names = path.split(b"/")
    for number in range(1, len(names) + 1):
        above = b"/".join(names[:number])
        if not os.path.lexists(os.path.join(root, above)):
            return above
        if number < len(names) and not _is_folder(root, above):
            raise _blocked(above)
    return None


def _is_folder(root: bytes, path: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode)


def _blocked(path: bytes) -> AgentFailed:
    shown = path.decode("utf-8", "backslashreplace")
    return AgentFailed(
        "in_the_way",
        f"What stands at {shown} is of another kind than in the snapshot. Move it away, or let it be replaced.",
    )
