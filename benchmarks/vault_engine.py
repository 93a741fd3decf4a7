"""One save or restore by the product's own engine, alone in its process; `vault_peers.engine` starts it.

The machine's part and the control plane's part run in one process, without the wire between them, so that both are
counted. Objects go to a folder, or to a bucket by signed URLs as from a machine.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dumont.agent.keeping import keep_memory

keep_memory()  # as an agent does when it starts, before it loads what it works with

from dumont.vault import (  # noqa: E402
    KeyRing,
    LocalStore,
    Manifest,
    Repository,
    RepositoryMissing,
    Store,
    pack_name,
    unpack_columns,
)

if TYPE_CHECKING:
    from dumont.agent.seen import Seen
    from dumont.agent.transfer import Fill

SECRET = b"benchmark" * 4
REPOSITORY = "wsp_bench"


class Folder:
    """Packs straight into a store, as presigned URLs would bring them."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def put(self, pack: bytes, data: memoryview) -> None:
        """Store a pack."""
        self._store.put_stream(pack_name(pack), (data,))  # type: ignore[arg-type]

    def reader(self, pack: bytes, _: int) -> "Fill":
        """Return what reads a range of a pack."""
        path = self._store.root / pack_name(pack)

        def fill(offset: int, room: memoryview) -> None:
            with path.open("rb", buffering=0) as stream:
                if os.preadv(stream.fileno(), [room], offset) != len(room):
                    raise SystemExit("a pack is short")

        return fill


def main() -> None:
    """Do what the JSON in the first argument says and answer with JSON."""
    task = json.loads(sys.argv[1])
    place = task["place"]
    store, blobs = _bucket(place) if isinstance(place, dict) else _folder(Path(place))
    repository = _repository(store)
    answer: Any
    if task["do"] == "restore":
        answer = _restore(repository, blobs, task["root"])
    else:
        from dumont.agent import seen as seen_files

        seen_files.SETTLED_SECONDS = float(task.get("settled_seconds", seen_files.SETTLED_SECONDS))
        seen = seen_files.Seen(task["seen"], "bench")
        answer = [_save(repository, blobs, seen, task) for _ in range(int(task.get("times", 1)))]
        for seed in task.get("changes", ()):
            from benchmarks.vault_workspace import change

            change(Path(task["root"]), float(task["share"]), seed)
            answer.append(_save(repository, blobs, seen, task))
    print(json.dumps(answer), flush=True)  # noqa: T201 - the answer to the process that started this one
    os._exit(0)  # as an agent ends


def _folder(root: Path) -> tuple[Store, Any]:
    store = LocalStore(root)
    return store, Folder(store)


def _bucket(place: dict[str, Any]) -> tuple[Store, Any]:
    from dumont.agent.transfer import Blobs
    from dumont.vault import BucketGate, S3Place, S3Store

    store = S3Store(S3Place(**place))
    gate = BucketGate(store, SECRET)
    return store, Blobs(lambda m, pack, size: gate.sign(m, pack_name(pack), max_bytes=size, expires_in=900))


def _repository(store: Store) -> Repository:
    keyring = KeyRing(SECRET)
    try:
        return Repository.open(store, REPOSITORY, keyring)
    except RepositoryMissing:
        return Repository.create(store, REPOSITORY, keyring)


def _save(repository: Repository, blobs: Any, seen: "Seen", task: dict[str, Any]) -> dict[str, float]:
    from dumont.agent.pipeline import Packer
    from dumont.agent.save import save_tree
    from dumont.vault import numpy_core

    started, burned = time.monotonic(), time.process_time()
    numpy_core()  # as an agent does once it has greeted, while the control plane makes its plan; counted, all the same
    known = set(repository.index().chunks)
    packer = Packer(repository.sealer, known, blobs, lambda: os.urandom(16), lambda pack, size: None)
    root = os.fsencode(task["root"])
    try:
        counts, blob = save_tree(root, [], [], packer, seen, lambda progress: None)
    finally:
        packer.close()
    agent_seconds, agent_cpu = time.monotonic() - started, time.process_time() - burned
    import msgpack

    entries = unpack_columns(msgpack.unpackb(blob)["entries"])
    repository.adopt_packs(counts.packs, 1)
    draft = Manifest("", None, "bench", task["root"], "", 1, b"", entries, packs_new=tuple(counts.packs))
    manifest = repository.commit(draft)
    return {
        "wall": time.monotonic() - started,
        "agent_wall": agent_seconds,
        "agent_cpu": agent_cpu,
        "cpu": time.process_time() - burned,
        "files": manifest.files,
        "bytes": manifest.bytes_total,
        "read": counts.bytes_read,
        "new": counts.bytes_new,
        "stored": counts.bytes_stored,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """Return the most memory that this process ever held; what `wait4` says counts its parent's too, up to the exec.

    Source: proc_pid_status(5), VmHWM.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024 / 1e6


def _restore(repository: Repository, blobs: Any, root: str) -> dict[str, float]:
    from dumont.agent.partial import RestorePlan
    from dumont.agent.restore import restore_tree
    from dumont.agent.seen import Seen

    started, burned, seen = time.monotonic(), time.process_time(), Seen(f"{root}.seen", "bench")
    manifest = repository.manifest(repository.snapshots()[-1])
    places, missing = repository.locate(manifest.chunks())
    if missing:
        raise SystemExit("the repository lacks chunks")
    plan = RestorePlan(list(manifest.entries), places, manifest.merkle_root, [])
    counts = restore_tree(os.fsencode(root), plan, repository.sealer, blobs, seen, lambda progress: None)
    took = {"wall": time.monotonic() - started, "cpu": time.process_time() - burned}
    return {**took, "bytes": counts.bytes_total, "fetched": counts.bytes_fetched}
