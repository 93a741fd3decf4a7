"""What an agent is asked to do with a workspace: save it, restore it, compare it."""

import hashlib
import os
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from dumont.agent.compare import compare_tree
from dumont.agent.pipeline import Packer
from dumont.agent.restore import load_plan, restore_tree
from dumont.agent.save import save_tree
from dumont.agent.seen import Seen
from dumont.vault import CHUNK_ID_BYTES, DataKeys, Sealer, numpy_core, pack_name

if TYPE_CHECKING:
    from dumont.agent.main import Result, Session
    from dumont.agent.transfer import Blobs


def get_ready(is_asked: Callable[[], bool]) -> None:
    """Load what is otherwise loaded with the first chunk that is sent or coded, until something is asked for."""
    from dumont.agent import transfer  # noqa: F401

    if not is_asked():
        numpy_core()


def save(session: "Session", number: int, args: dict[str, Any], data: bytes) -> "Result":
    """Save the workspace; return the counts and the list of its entries."""
    root = session.workspace()
    known = {data[at : at + CHUNK_ID_BYTES] for at in range(0, len(data), CHUNK_ID_BYTES)}

    def ask_pack() -> bytes:
        return bytes.fromhex(session.ask(number, "pack"))

    def tell_stored(pack: bytes, size: int) -> None:
        session.ask(number, "stored", pack=pack.hex(), size=size)

    numpy_core()  # before several threads wait for it
    packer = Packer(_sealer(args), known, _blobs(session, number), ask_pack, tell_stored)
    try:
        own = [os.path.realpath(os.fsencode(__file__)).rpartition(b"/dumont/agent/")[0]]
        counts, blob = save_tree(
            root, list(args["exclude"]), own, packer, _seen(session, args), session.progress(number)
        )
    finally:
        packer.close()
    numbers = {name: value for name, value in vars(counts).items() if isinstance(value, int)}
    return numbers, blob


def restore(session: "Session", number: int, args: dict[str, Any], data: bytes) -> "Result":
    """Make the workspace what the plan in `data` says; return the counts."""
    root, plan = session.workspace(), load_plan(data)
    seen, progress = _seen(session, args), session.progress(number)
    turn = partial(_turn, session, number, still=bool(args.get("still")))
    counts = restore_tree(root, plan, _sealer(args), _blobs(session, number), seen, progress, turn)
    return vars(counts), b""


@contextmanager
def _turn(session: "Session", number: int, *, still: bool) -> Iterator[None]:
    """Ask whether to exchange, which is not taken back any more; with `still` nothing of the user's runs meanwhile."""
    session.ask(number, "exchange")
    try:
        if still:
            session.freezer.freeze()
        yield
    finally:
        if still:
            session.freezer.thaw()


def compare(session: "Session", number: int, args: dict[str, Any], data: bytes) -> "Result":
    """Return how the workspace differs from the entries in `data`."""
    progress = session.progress(number)
    return {}, compare_tree(session.workspace(), list(args["exclude"]), data, _sealer(args), progress)


def _blobs(session: "Session", number: int) -> "Blobs":
    from dumont.agent.transfer import Blobs

    def sign(method: str, pack: bytes, size: int) -> str:
        return str(session.ask(number, "sign", method=method, name=pack_name(pack), size=size))

    return Blobs(sign)


def _sealer(args: dict[str, Any]) -> Sealer:
    return Sealer(DataKeys.of(b64decode(args["data_key"])), str(args["repository_id"]))


def _seen(session: "Session", args: dict[str, Any]) -> Seen:
    about = b"\0".join((str(args["repository_id"]).encode(), session.workspace()))
    name = hashlib.sha256(about).hexdigest()[:32]
    if name not in session.seen:
        session.seen[name] = Seen(os.path.expanduser(f"~/.dumont/agent/seen-{name}"), name)
    return session.seen[name]
