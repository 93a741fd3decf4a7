"""Save, restore and compare a workspace: the control plane's part, which writes index and manifest itself."""

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from dumont.agent.errors import AgentFailed
from dumont.agent.link import AgentLink
from dumont.agent.partial import RestorePlan
from dumont.agent.protocol import Progress
from dumont.agent.restore import dump_plan
from dumont.vault import (
    MAX_PACK_BYTES,
    PACK_ID_BYTES,
    SPAN_BYTES,
    Entries,
    Gate,
    Manifest,
    RecordDamaged,
    Repository,
    RepositoryDamaged,
    StoreError,
    VerificationFailed,
    merkle_root,
    pack_columns,
    pack_name,
    unpack_columns,
)

if TYPE_CHECKING:
    from dumont.vault import Choice

_SIGNED_SECONDS = 900.0
_COUNTS = ("bytes_read", "bytes_new", "chunks_new")
_MOST_AT_ONCE = SPAN_BYTES + MAX_PACK_BYTES

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class SavedSnapshot:
    """A committed snapshot. Units: bytes; `bytes_stored` is what the store grew by in packs, `ratio` raw to stored."""

    name: str
    merkle_root: str
    files: int
    bytes_total: int
    bytes_read: int
    bytes_new: int
    bytes_stored: int
    chunks: int
    chunks_new: int
    ratio: float | None
    read_errors: list[tuple[str, str]]
    unstable: list[str]
    skipped: list[str]
    seconds: float


@dataclass(frozen=True)
class Restored:
    """A restored workspace, or a part of it, proven on the machine.

    Units: bytes; `bytes_fetched` as they lie in the store. `replaced` counts the paths that gave way to others.
    """

    files: int
    bytes_total: int
    bytes_fetched: int
    chunks_reused: int
    merkle_root: str
    hashes_compared: int
    seconds: float
    replaced: int = 0


@dataclass(frozen=True)
class Comparison:
    """How a workspace differs from a snapshot. Units: `bytes` that were read and hashed on the machine."""

    equal: bool
    differing: list[str]
    missing: list[str]
    extra: list[str]
    files: int
    bytes: int


async def save_workspace(
    link: AgentLink,
    repository: Repository,
    gate: Gate,
    gate_url_for_agent: str,
    *,
    host: str,
    parent: str | None,
    exclude: Sequence[str],
    epoch: int,
    on_progress: OnProgress,
) -> SavedSnapshot:
    """Save the workspace as a new snapshot.

    Guarantees: packs, then index, then manifest; each finished pack is indexed at once, so that a save that was cut
    short continues where it was. Nothing is committed unless every chunk is in a pack that the store holds.
    Errors: AgentFailed, AgentLost (unknown, save again); StoreError; StaleEpoch; RepositoryDamaged.
    """
    started = time.monotonic()
    known = await asyncio.to_thread(_begin, repository, epoch)
    session = _SaveSession(repository, gate, gate_url_for_agent, epoch)
    args = {**_session_args(repository), "exclude": list(exclude)}
    try:
        told, blob = await link.request("save", args, data=known, on_progress=on_progress, on_ask=session.answer)
    except AgentFailed as error:
        raise _translated(error) from error
    report, entries = _read_report(blob)
    counts = {name: _count(told, name) for name in _COUNTS}
    draft = Manifest(
        name="",
        parent=parent,
        host=host,
        root=link.workspace_root,
        created="",
        epoch=epoch,
        merkle_root=b"",
        entries=entries,
        exclude=tuple(exclude),
        read_errors=tuple((path, reason) for path, reason in report["errors"]),
        unstable=tuple(report["unstable"]),
        skipped=tuple(report["skipped"]),
        packs_new=tuple(sorted(session.stored)),
        totals=counts,
    )
    manifest = await asyncio.to_thread(repository.commit, draft)
    return _saved(manifest, counts, session, time.monotonic() - started)


async def restore_workspace(
    link: AgentLink,
    repository: Repository,
    gate: Gate,
    gate_url_for_agent: str,
    snapshot: str,
    *,
    on_progress: OnProgress,
    choice: "Choice | None" = None,
    still: bool = False,
    before_exchange: Callable[[], Awaitable[None]] | None = None,
) -> Restored:
    """Make the workspace on the machine equal to a snapshot, or bring a part of one back.

    `still`: the user's processes are stopped for the moment of the exchange. `before_exchange` is the last chance to
    turn back: what it raises ends the restore with the target as it was.
    Guarantees: the target changes only after every byte was written and its Merkle root re-computed from what was read
    back; a failure leaves it as it was, a crash is settled when the next agent greets.
    Errors: VerificationFailed when packs are missing; RepositoryDamaged; NotInSnapshot; AgentFailed; AgentLost;
    StoreError.
    """
    started = time.monotonic()
    plan, data = await asyncio.to_thread(_plan, repository, snapshot, choice)
    allowed = {pack_name(place.pack) for place in plan.places.values()}

    async def answer(what: str, args: dict[str, Any]) -> Any:
        if what == "exchange":
            return await before_exchange() if before_exchange is not None else None
        name, size = str(args.get("name")), int(args.get("size", 0))
        if what != "sign" or args.get("method") != "GET" or name not in allowed or not 0 < size <= _MOST_AT_ONCE:
            raise AgentFailed("refused_ask", "The agent asked for something that this restore does not need.")
        path = gate.sign("GET", name, max_bytes=size, expires_in=_SIGNED_SECONDS)
        return _whole_url(gate_url_for_agent, path)

    try:
        args = {**_session_args(repository), "still": still}
        counts, _ = await link.request("restore", args, data=data, on_progress=on_progress, on_ask=answer)
    except AgentFailed as error:
        raise _translated(error) from error
    return Restored(
        files=counts["files"],
        bytes_total=counts["bytes_total"],
        bytes_fetched=counts["bytes_fetched"],
        chunks_reused=counts["chunks_reused"],
        merkle_root=plan.root.hex(),
        hashes_compared=counts["hashes_compared"],
        seconds=time.monotonic() - started,
        replaced=counts["replaced"],
    )


async def compare_workspace(
    link: AgentLink, repository: Repository, snapshot: str, *, on_progress: OnProgress | None = None
) -> Comparison:
    """Hash every file on the machine again and compare with a snapshot; times of folders are left out.

    Errors: RepositoryDamaged; AgentFailed; AgentLost; StoreError.
    """
    manifest = await asyncio.to_thread(repository.manifest, snapshot)
    args = {**_session_args(repository), "exclude": list(manifest.exclude)}
    _, blob = await link.request("compare", args, data=pack_columns(manifest.entries), on_progress=on_progress)
    report = msgpack.unpackb(blob)
    differing, missing, extra = ([shown(path) for path in report[key]] for key in ("differing", "missing", "extra"))
    equal = not (differing or missing or extra)
    return Comparison(equal, differing, missing, extra, int(report["files"]), int(report["bytes"]))


def shown(path: bytes) -> str:
    """Return a path for people: bytes that are not UTF-8 are shown escaped."""
    return path.decode("utf-8", "backslashreplace")


class _SaveSession:
    """Answer what the agent asks during a save, and nothing else."""

    def __init__(self, repository: Repository, gate: Gate, url: str, epoch: int) -> None:
        self.stored: dict[bytes, int] = {}
        self._repository = repository
        self._gate = gate
        self._url = url
        self._epoch = epoch
        self._issued: dict[str, bytes] = {}

    async def answer(self, what: str, args: dict[str, Any]) -> Any:
        if what == "pack":
            pack = secrets.token_bytes(PACK_ID_BYTES)
            self._issued[pack_name(pack)] = pack
            return pack.hex()
        if what == "sign" and args.get("method") == "PUT" and args.get("name") in self._issued:
            size = int(args["size"])
            if 0 < size <= MAX_PACK_BYTES:
                path = self._gate.sign("PUT", str(args["name"]), max_bytes=size, expires_in=_SIGNED_SECONDS)
                return _whole_url(self._url, path)
        if what == "stored" and pack_name(bytes.fromhex(str(args["pack"]))) in self._issued:
            return await asyncio.to_thread(self._adopt, bytes.fromhex(str(args["pack"])))
        raise AgentFailed("refused_ask", "The agent asked for something that this save does not need.")

    def _adopt(self, pack: bytes) -> None:
        self._repository.adopt_packs([pack], self._epoch)
        self.stored[pack] = self._repository.index().packs[pack].size

    @property
    def bytes_stored(self) -> int:
        """What the store grew by: each pack once, however many were told of at the same time."""
        return sum(self.stored.values())


def _whole_url(gate_url: str, path: str) -> str:
    """Return where the agent finds an object: below the gate, or wherever else the signature says."""
    return path if "://" in path else gate_url.rstrip("/") + path


def _begin(repository: Repository, epoch: int) -> bytes:
    repository.check_epoch(epoch)
    repository.adopt_left_packs(epoch)
    return b"".join(sorted(repository.reusable_chunks()))


def _plan(repository: Repository, snapshot: str, choice: "Choice | None") -> tuple[RestorePlan, bytes]:
    """Return what a restore does, and the same as bytes for the machine."""
    manifest = repository.manifest(snapshot)
    entries, root, parts = manifest.entries, manifest.merkle_root, None
    if choice is not None and not choice.whole:
        from dumont.vault import choose

        chosen = choose(entries, choice)
        entries, parts = Entries.of(chosen.entries), chosen.places
        root = merkle_root(repository.data_keys.merkle, entries)
    places, missing = repository.locate(set(Entries.of(entries).chunk_ids()))
    here = repository.packs_in_store()
    packs = repository.index().packs
    absent = sorted({p.pack for p in places.values() if here.get(p.pack) != packs[p.pack].size})
    if missing or absent:
        raise VerificationFailed([f"chunk {c.hex()}" for c in missing] + [pack_name(p) for p in absent], [])
    replace = choice is not None and choice.replace
    plan = RestorePlan([], places, root, list(manifest.exclude), parts, replace)
    return plan, dump_plan(plan, pack_columns(entries))


def _session_args(repository: Repository) -> dict[str, Any]:
    key = b64encode(repository.data_key).decode("ascii")
    return {"repository_id": repository.repository_id, "data_key": key}


def _read_report(blob: bytes) -> tuple[dict[str, Any], Entries]:
    try:
        report = msgpack.unpackb(blob)
        return report, unpack_columns(report["entries"])
    except RecordDamaged as error:
        raise AgentFailed("bad_message", f"The agent's list of files cannot be used: {error.detail}") from error
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise AgentFailed("bad_message", "The agent's report does not have the right form.") from error


def _count(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    if not isinstance(value, int) or value < 0:
        raise AgentFailed("bad_message", "The agent's counts do not have the right form.")
    return value


def _saved(manifest: Manifest, counts: dict[str, int], session: _SaveSession, seconds: float) -> SavedSnapshot:
    new = counts["bytes_new"]
    return SavedSnapshot(
        name=manifest.name,
        merkle_root=manifest.merkle_root.hex(),
        files=manifest.files,
        bytes_total=manifest.bytes_total,
        bytes_read=counts["bytes_read"],
        bytes_new=new,
        bytes_stored=session.bytes_stored,
        chunks=len(manifest.chunks()),
        chunks_new=counts["chunks_new"],
        ratio=new / session.bytes_stored if session.bytes_stored else None,
        read_errors=[(shown(path), reason) for path, reason in manifest.read_errors],
        unstable=[shown(path) for path in manifest.unstable],
        skipped=[shown(path) for path in manifest.skipped],
        seconds=seconds,
    )


def _translated(error: AgentFailed) -> Exception:
    if error.code == "store_full":
        return StoreError(error.detail, full=True)
    if error.code in ("damaged", "store_missing"):
        return RepositoryDamaged(error.detail)
    return error
