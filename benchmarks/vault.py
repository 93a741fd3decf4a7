"""`vault`: snapshots against restic and s5cmd on the same data in the same run, in turns, and against the floor."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.installation import Laboratory
from benchmarks.metrics import Metric, median
from benchmarks.vault_agent import Agents
from benchmarks.vault_decoding import decoding, least_seconds
from benchmarks.vault_ground import even_place, have_memory, spread
from benchmarks.vault_peers import Ran, Restic, S5cmd, engine, find_restic, timed

if TYPE_CHECKING:
    from dumont.vault import S3Place

MEGABYTES = 1100
"""The size of the mixed workspace; `--megabytes` makes it smaller."""
_QUICK_MEGABYTES = 40
_BIG_BYTES = 4 << 30
_CHANGED = 0.01


@dataclass
class _Bench:
    """Where everything lies, and what was found so far."""

    folder: Path
    place: "S3Place"
    restic: Restic | None
    s5cmd: S5cmd
    rounds: int
    room: int
    """How many bytes of memory a turn may want at most."""
    number: int = 0
    found: dict[str, list[float]] = field(default_factory=dict)

    @property
    def mixed(self) -> Path:
        return self.folder / "mixed"

    @property
    def tensors(self) -> Path:
        return self.folder / "tensors"

    def fresh(self, name: str) -> Path:
        """Return a path that nothing is at yet."""
        self.number += 1
        return self.folder / f"{name}-{self.number}"

    def bucket(self) -> dict[str, Any]:
        """Return a place in the bucket that is empty."""
        self.number += 1
        return self.place._replace(prefix=f"ours-{self.number}")._asdict()

    def save(self, root: Path, place: Any, **more: Any) -> tuple[Ran, list[dict[str, float]]]:
        """Save a folder with our engine."""
        task = {"do": "save", "root": str(root), "place": place, "seen": str(self.fresh("seen")), **more}
        return engine(task, self.folder)

    def even(self) -> None:
        """Let the disk come to rest and have memory of the host, as every turn finds it."""
        os.sync()
        have_memory(self.room)

    def note(self, **values: float) -> None:
        """Take down figures of one round."""
        for name, value in values.items():
            self.found.setdefault(name, []).append(value)

    def ratio(self, ours: str, theirs: str) -> float:
        """Return the median over the rounds of ours to theirs of the same round."""
        return median([a / b for a, b in zip(self.found[ours], self.found[theirs], strict=True)])

    def middle(self, name: str) -> float:
        return median(self.found[name])


def measure(_: Laboratory, quick: bool, megabytes: int = MEGABYTES) -> Iterator[Metric]:
    """Measure first, unchanged and changed snapshots, restores, codecs and memory."""
    from tests.vault.s3_server import s3_server

    from benchmarks.vault_workspace import make_tensors, make_workspace

    size = (_QUICK_MEGABYTES if quick else megabytes) * 1_000_000
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="dumont-bench-vault-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "s3").mkdir()
        place = stack.enter_context(s3_server(folder / "s3"))
        program = find_restic(folder)
        if program is None:
            print("There is no restic here and apt does not bring one: its figures are left out.", file=sys.stderr)  # noqa: T201
        restic = Restic(program, folder) if program else None
        bench = _Bench(folder, place, restic, S5cmd(place, folder), 1 if quick else 3, 2 * size)
        make_workspace(bench.mixed, size)
        make_tensors(bench.tensors, size // 3)
        timed(["sync"], folder=folder)
        yield from _first(bench)
        yield from _restores(bench)
        yield from _later(bench)
        yield from _resaved(bench)
        yield from _codecs(bench)
        yield _memory(bench, quick)


def _first(bench: _Bench) -> Iterator[Metric]:
    for _ in range(bench.rounds):
        bench.even()
        ours, _ = bench.save(bench.mixed, bench.bucket())
        bench.even()
        theirs = bench.s5cmd.up(bench.mixed, bench.fresh("raw").name)
        bench.note(s3_cpu=ours.cpu, s3_wall=ours.wall, s5cmd_cpu=theirs.cpu, s5cmd_wall=theirs.wall)
        for kind, root in (("mixed", bench.mixed), ("tensors", bench.tensors)):
            _beside_restic(bench, kind, root)
    more: dict[str, float | str] = {"mb": _megabytes(bench.mixed), "rounds": str(bench.rounds)}
    for what in ("cpu", "wall"):
        ours_s = bench.middle(f"s3_{what}")
        yield Metric(
            f"first_{what}_vs_s5cmd", bench.ratio(f"s3_{what}", f"s5cmd_{what}"), "x", more={**more, "s": ours_s}
        )
    for kind in ("mixed", "tensors") if bench.restic else ():
        seconds = {"s": bench.middle(f"{kind}_cpu"), "restic_s": bench.middle(f"{kind}_restic_cpu")}
        value = bench.ratio(f"{kind}_cpu", f"{kind}_restic_cpu")
        yield Metric(f"first_cpu_vs_restic_{kind}", value, "x", more={**more, **seconds})
        yield Metric(f"stored_vs_restic_{kind}", bench.ratio(f"{kind}_stored", f"{kind}_restic_stored"), "x", more=more)


def _beside_restic(bench: _Bench, kind: str, root: Path) -> None:
    target = bench.fresh(f"local-{kind}")
    bench.even()
    ran, (saved,) = bench.save(root, str(target))
    bench.note(**{f"{kind}_cpu": ran.cpu, f"{kind}_wall": ran.wall, f"{kind}_engine_cpu": saved["cpu"]})
    bench.note(**{f"{kind}_stored": saved["stored"], f"{kind}_bytes": saved["bytes"]})
    if bench.restic is not None:
        theirs, stored = bench.restic.backup(root, ready=bench.even)
        bench.note(**{f"{kind}_restic_cpu": theirs.cpu, f"{kind}_restic_stored": stored})


def _restores(bench: _Bench) -> Iterator[Metric]:
    local, remote, raw = str(bench.fresh("local")), bench.bucket(), bench.fresh("raw").name
    bench.save(bench.mixed, local)
    bench.save(bench.tensors, remote)
    bench.s5cmd.up(bench.tensors, raw)
    agents = Agents(remote, bench.folder)

    def down(target: Path) -> Ran:
        brought = agents.restore(target)
        bench.note(call_wall=brought.call)
        return brought.ran

    turns: dict[str, Callable[[Path], Ran]] = {
        "restore": lambda target: _restored(bench, local, target),
        "down": down,
        "raw": lambda target: bench.s5cmd.down(raw, target),
    }
    if bench.restic is not None:
        bench.restic.backup(bench.mixed)
        turns["restic_restore"] = bench.restic.restore
    _in_turns(bench, turns)
    files = {"new_file_us": bench.middle("new_file_us")}
    if bench.restic is not None:
        more = _beside(bench, "cpu", wall=("restore_wall", "restic_restore_wall"))
        yield Metric("restore_vs_restic", bench.ratio("restore_cpu", "restic_restore_cpu"), "x", more={**more, **files})
    more = _beside(bench, "wall", cpu=("down_cpu", "raw_cpu"), call=("call_wall", "raw_wall"))
    seconds = {"s": bench.middle("down_wall"), "raw_s": bench.middle("raw_wall")}
    yield Metric("restore_tensors_vs_raw", bench.ratio("down_wall", "raw_wall"), "x", more={**more, **seconds})


def _in_turns(bench: _Bench, turns: dict[str, Callable[[Path], Ran]]) -> None:
    """Restore into new folders on even ground, every other round from the last to the first; all stay until the end.

    Twice the rounds of saves, as the clock is what counts for some of them.
    """
    spread(bench.folder)
    for number in range(2 * bench.rounds):
        for name in list(turns)[:: -1 if number % 2 else 1]:
            target, seconds = even_place(lambda: bench.fresh("target"))
            bench.even()
            ran = turns[name](target)
            bench.note(**{f"{name}_cpu": ran.cpu, f"{name}_wall": ran.wall, "new_file_us": 1e6 * seconds})
    for target in filter(Path.is_dir, bench.folder.glob("target-*")):
        shutil.rmtree(target)


def _beside(bench: _Bench, kind: str, **pairs: tuple[str, str]) -> dict[str, float | str]:
    """Return what stands beside a ratio of whole processes: other ratios."""
    return {"kind": f"{kind} of whole processes", **{name: bench.ratio(*pair) for name, pair in pairs.items()}}


def _restored(bench: _Bench, place: Any, target: Path) -> Ran:
    ran, _ = engine({"do": "restore", "root": str(target), "place": place}, bench.folder)
    return ran


def _later(bench: _Bench) -> Iterator[Metric]:
    """An unchanged tree in a running agent, then one with 1 % of its bytes overwritten, there and in new agents."""
    local, seen, times = str(bench.fresh("local")), str(bench.fresh("seen")), 2 + 2 * bench.rounds
    held = {"seen": seen, "settled_seconds": 1}
    _, saves = bench.save(bench.mixed, local, times=times, changes=[*range(bench.rounds)], share=_CHANGED, **held)
    (first, *again), soon = saves[:times], saves[times:]
    unchanged = median([saved["agent_wall"] for saved in again[1:]])
    burned = median([saved["agent_cpu"] for saved in again[1:]])
    more: dict[str, float | str] = {
        "files": first["files"],
        "cpu_ms": 1000 * burned * 10_000 / first["files"],
        "read": max(saved["read"] for saved in again),
        "with_commit_ms": 1000 * median([saved["wall"] for saved in again[1:]]),
    }
    yield Metric("nochange_ms_per_10k_files", 1000 * unchanged * 10_000 / first["files"], "ms", more=more)
    yield Metric("nochange_speedup", first["wall"] / median([saved["wall"] for saved in again[1:]]), "x")
    yield from _changed(bench, local, held, first["wall"], median([saved["wall"] for saved in soon]))


def _changed(bench: _Bench, local: str, held: dict[str, Any], first: float, running: float) -> Iterator[Metric]:
    """Agents that start with what the last one left behind, each with other bytes."""
    from benchmarks.vault_workspace import change

    later: list[tuple[Ran, dict[str, float]]] = []
    for number in range(bench.rounds):
        changed = change(bench.mixed, _CHANGED, 101 + number)
        ran, (saved,) = bench.save(bench.mixed, local, **held)
        later.append((ran, saved))
    fresh = median([saved["wall"] for _, saved in later])
    seconds = {"first_s": first, "fresh_s": fresh, "process_s": median([ran.wall for ran, _ in later])}
    shown: dict[str, float | str] = {**seconds, "running_s": running, "running_x": first / running}
    yield Metric("changed_1pct_speedup", first / fresh, "x", more={"kind": "fresh agent", **shown})
    stored = median([saved["stored"] for _, saved in later])
    spread: dict[str, float | str] = {"changed_mb": changed / 1e6, "stored_mb": stored / 1e6}
    yield Metric("changed_1pct_stored_ratio", stored / changed, "x", more=spread)


def _resaved(bench: _Bench) -> Iterator[Metric]:
    """The same weights with more metadata, in another order, in other shards."""
    from benchmarks.vault_workspace import read_safetensors, write_safetensors

    local, root = str(bench.fresh("local")), bench.fresh("resaved")
    bench.save(bench.tensors, local)
    root.mkdir()
    tensors = read_safetensors(bench.tensors / "model-0.safetensors")
    write_safetensors(root / "metadata.safetensors", tensors, {"format": "pt", "epoch": "7", "note": "x" * 1000})
    write_safetensors(root / "order.safetensors", dict(reversed(tensors.items())), {})
    for shard in range(3):
        part = dict(list(tensors.items())[shard::3])
        write_safetensors(root / f"shard-{shard}.safetensors", part, {})
    _, (saved,) = bench.save(root, local)
    yield Metric("resaved_new_bytes_pct", 100 * saved["new"] / saved["bytes"], "%")


def _codecs(bench: _Bench) -> Iterator[Metric]:
    """Codecs alone, in memory as an agent has it, and which share of the floor the whole pipeline reaches.

    The floor is the sum of what cannot be left out.
    """
    import numpy as np

    from benchmarks.vault_workspace import bf16
    from dumont.agent.keeping import keep_memory
    from dumont.vault.codecs import encode

    keep_memory()
    raw = bf16(np.random.default_rng(3).standard_normal(4 << 20, dtype=np.float32) * np.float32(0.02)).tobytes()
    _, _, parts = encode(raw)
    packed = b"".join(parts)
    coding = least_seconds(lambda: encode(raw))
    yield Metric("bf16_ratio", len(raw) / len(packed), "x")
    yield Metric("bf16_gb_per_cpu_s", len(raw) / coding / 1e9, "GB/s", more={"kind": "probe and field split"})
    yield decoding(raw)
    floor = {**_floor(bench, raw, packed), "code": coding}
    total = sum(floor.values()) * bench.middle("tensors_bytes") / len(raw)
    copy = bytearray(len(raw))
    beside = {"memcpy": least_seconds(lambda: copy.__setitem__(slice(None), raw)), "put": _put(bench, raw)}
    rates = {f"{name}_gb_s": len(raw) / seconds / 1e9 for name, seconds in (floor | beside).items()}
    shown: dict[str, float | str] = {"floor_s": total, **rates}
    yield Metric("floor_share", total / bench.middle("tensors_engine_cpu"), "x", more=shown)


def _floor(bench: _Bench, raw: bytes, packed: bytes) -> dict[str, float]:
    """Return CPU seconds for a chunk: reading from the page cache, hashing, sealing, and writing it as packs are."""
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from dumont.vault import fresh_memory
    from dumont.vault.direct import Sink

    path, copy = bench.fresh("chunk"), bytearray(len(raw))
    path.write_bytes(raw)
    cipher, room = AESGCM(bytes(32)), memoryview(fresh_memory(len(packed) + 16))

    def write() -> None:
        with bench.fresh("written").open("xb", buffering=0) as sink:
            taken = Sink(sink)
            taken.write(room)
            taken.finish()

    with path.open("rb", buffering=0) as stream:
        return {
            "read": least_seconds(lambda: os.preadv(stream.fileno(), [copy], 0)),
            "hash": least_seconds(lambda: blake3(raw, key=bytes(32)).digest()),
            "seal": least_seconds(lambda: cipher.encrypt_into(bytes(12), packed, b"", room)),
            "write": least_seconds(write),
        }


def _put(bench: _Bench, raw: bytes) -> float:
    """Return CPU seconds of sending a chunk to the S3 server by a signed URL."""
    from dumont.agent.transfer import Blobs
    from dumont.vault import BucketGate, S3Place, S3Store, pack_name

    gate = BucketGate(S3Store(S3Place(**bench.bucket())), bytes(32))
    blobs = Blobs(lambda method, pack, size: gate.sign(method, pack_name(pack), max_bytes=size, expires_in=900))
    return least_seconds(lambda: blobs.put(os.urandom(16), raw))


def _memory(bench: _Bench, quick: bool) -> Metric:
    """Save a file of 4 GB, an eighth of it bytes and the rest holes; quick: a sixteenth of that."""
    root = bench.fresh("big")
    root.mkdir()
    size = _BIG_BYTES // (16 if quick else 1)
    block = os.urandom(1 << 20)
    with (root / "big.bin").open("wb") as stream:
        stream.truncate(size)
        for at in range(0, size, 256 << 20):
            stream.seek(at)
            for number in range(32):
                stream.write(number.to_bytes(8, "little") + at.to_bytes(8, "little") + block[16:])
    _, (saved,) = bench.save(root, str(bench.fresh("local")))
    shutil.rmtree(root)
    return Metric(
        "peak_rss_mb", saved["peak_mb"], "MB", more={"gb": saved["bytes"] / 1e9, "stored_mb": saved["stored"] / 1e6}
    )


def _megabytes(root: Path) -> float:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6
