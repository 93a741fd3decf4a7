"""A stand-in for the database of snapshots, with a clock of its own, and a writer and reader that keep its rules."""

import random
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from tests.vault.making import draft, file_entry

from dumont.vault import Named, PackBuilder, Repository, pack_name

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass
class Books:
    """What a collector asks the database: the time, who is under way, which snapshots there are."""

    at: datetime = BEGIN
    work: dict[str, datetime] = field(default_factory=dict)
    live: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    ended: dict[int, datetime] = field(default_factory=dict)
    epoch: int = 0

    def now(self) -> datetime:
        return self.at

    def open_work(self, before: datetime) -> list[str]:
        return sorted(name for name, began in self.work.items() if began < before or name.startswith("read"))

    def named(self) -> Named:
        return Named(frozenset(self.live), frozenset(self.forgotten), dict(self.ended))

    def later(self, **wait: float) -> None:
        self.at += timedelta(**wait)

    def forget(self, repository: Repository, name: str) -> None:
        """Forget a snapshot, as the product does: first the row, then the manifest."""
        del self.live[name]
        self.forgotten.add(name)
        repository.store.delete(f"snap/{name}")

    def intact(self, repository: Repository) -> None:
        """Read every snapshot that there is back, all of its bytes, and compare them with what was saved."""
        for name, contents in self.live.items():
            repository.verify(name, all_below=1 << 62)
            manifest = repository.manifest(name)
            places, missing = repository.locate(manifest.chunks())
            assert missing == []
            for entry in manifest.entries:
                got = b"".join(read_chunk(repository, places, chunk) for chunk in entry.chunks)
                assert got == contents[entry.path]


def read_chunk(repository: Repository, places: dict[bytes, object], chunk: bytes) -> bytes:
    """Read one chunk from the store, through its record."""
    from dumont.vault import RecordReader

    place = places[chunk]
    data = repository.store.get(pack_name(place.pack), place.offset, place.length)  # type: ignore[attr-defined]
    return bytes(RecordReader(repository.sealer, memoryview(data), place.offset).open(chunk, place))  # type: ignore


class Writer:
    """A save in steps, as the agent and the control plane make it; `known` is what it need not store again."""

    def __init__(self, books: Books, repository: Repository) -> None:
        books.epoch += 1
        self.name, self.epoch = f"save {books.epoch}", books.epoch
        self.books, self.repository = books, repository
        self.known: set[bytes] = set()
        books.work[self.name] = books.at

    def begin(self) -> None:
        """Look what is there."""
        self.repository.check_epoch(self.epoch)
        self.repository.adopt_left_packs(self.epoch)
        self.known = self.repository.reusable_chunks()

    def store(self, files: dict[bytes, bytes], *, adopt: bool = True, grouped: bool = False) -> list[bytes]:
        """Store the files that are not known, all of them in one pack; return the ids."""
        ids = [self.repository.sealer.chunk_id(raw) for raw in files.values()]
        new = {chunk: raw for chunk, raw in zip(ids, files.values(), strict=True) if chunk not in self.known}
        if new:
            pack = self.put(new, grouped=grouped)
            if adopt:
                self.repository.adopt_packs([pack], self.epoch)
        return ids

    def put(self, new: dict[bytes, bytes], *, grouped: bool) -> bytes:
        """Store one pack, and tell nobody of it."""
        builder = PackBuilder(self.repository.data_keys, self.repository.repository_id)
        sealer = self.repository.sealer
        if grouped and len(new) > 1:
            whole = b"".join(new.values())
            builder.add(sealer.seal(sealer.chunk_id(whole), whole), [(c, len(raw)) for c, raw in new.items()])
        else:
            for chunk, raw in new.items():
                builder.add(sealer.seal(chunk, raw))
        pack = secrets.token_bytes(16)
        self.repository.store.put(pack_name(pack), bytes(builder.finish(pack)))
        return pack

    def commit(self, files: dict[bytes, bytes], ids: list[bytes]) -> str:
        """Write the manifest, read it back, and tell the database; end."""
        entries = [file_entry(path, len(raw), [chunk]) for (path, raw), chunk in zip(files.items(), ids, strict=True)]
        entries.sort(key=lambda entry: entry.path)
        name = self.repository.commit(draft(entries, epoch=self.epoch)).name
        self.books.live[name] = dict(files)
        self.end()
        return name

    def end(self) -> None:
        """End, however it went."""
        self.books.work.pop(self.name, None)
        self.books.ended[self.epoch] = BEGIN - timedelta(days=4000)


def save(books: Books, repository: Repository, files: dict[bytes, bytes], *, grouped: bool = False) -> str:
    """Save files as a snapshot, all steps at once."""
    writer = Writer(books, repository)
    writer.begin()
    return writer.commit(files, writer.store(files, grouped=grouped))


def some_files(draw: random.Random, number: int, size: int = 400) -> dict[bytes, bytes]:
    """Make files of bytes that do not compress."""
    return {b"f%03d" % place: draw.randbytes(size) for place in range(number)}
