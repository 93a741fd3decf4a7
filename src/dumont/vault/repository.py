"""A repository: one workspace's chunks, packs, index and manifests in one store, opened with the installation's key."""

import hmac
import json
import secrets
import threading
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from datetime import datetime, timezone

from blake3 import blake3

from dumont.core import derive_key
from dumont.vault.errors import (
    RecordDamaged,
    RepositoryDamaged,
    RepositoryMissing,
    StaleEpoch,
    StoreError,
    StoreExists,
    StoreMissing,
    WrongKey,
)
from dumont.vault.index import Index, dump_segment, load_segment, segment_epoch, segment_name
from dumont.vault.keys import DataKeys, KeyRing, RepositoryKeys
from dumont.vault.manifest import Manifest, check_entries, dump_manifest, load_manifest
from dumont.vault.marks import Mark, dump_mark, load_mark, mark_name
from dumont.vault.merkle import merkle_root
from dumont.vault.notes import Note, dump_note, load_note
from dumont.vault.packs import (
    MAX_PACK_BYTES,
    PACK_ID_BYTES,
    TAIL_BYTES,
    USUAL_TAIL_BYTES,
    Location,
    PackTable,
    has_table,
    pack_name,
    read_table,
)
from dumont.vault.records import MAX_CHUNK_BYTES, Sealer
from dumont.vault.sealed import INDEX_MAGIC, MANIFEST_MAGIC, MARK_MAGIC, NOTE_MAGIC, open_object, seal_object
from dumont.vault.store import Store
from dumont.vault.verify import Verification, read_back, verify_snapshot

CONFIG_FORMAT = 1


class Repository:
    """The control plane's end of a vault. Methods block; call them in a thread. Safe to share between threads."""

    def __init__(self, store: Store, repository_id: str, repository_key: bytes) -> None:
        self.store = store
        self.repository_id = repository_id
        self.keys = RepositoryKeys.of(repository_key)
        self.data_keys = DataKeys.of(self.keys.data_key)
        self.sealer = Sealer(self.data_keys, repository_id)
        self._index = Index()
        self._last: Manifest | None = None
        self._lock = threading.RLock()

    @property
    def data_key(self) -> bytes:
        """What a machine gets for a session: opens chunks and packs, neither index nor manifest."""
        return self.keys.data_key

    @classmethod
    def create(cls, store: Store, repository_id: str, keyring: KeyRing) -> "Repository":
        """Make a repository in an empty place.

        Guarantees: an existing repository is never overwritten; a creation that was cut short is finished.
        Errors: StoreExists where one is already; StoreError.
        """
        if store.size("config") is not None:
            raise StoreExists("There is already a repository here.")
        left = _unwrap_any(store, repository_id, keyring)
        key = left or secrets.token_bytes(32)
        if left is None:
            ids = RepositoryKeys.of(key).key_id
            store.put(f"keys/{keyring.current_id.hex()}-{ids.hex()}", keyring.wrap(key, repository_id))
        store.put("config", _config(key, repository_id))
        return cls(store, repository_id, key)

    @classmethod
    def open(cls, store: Store, repository_id: str, keyring: KeyRing) -> "Repository":
        """Open a repository.

        Errors: RepositoryMissing, RepositoryDamaged, WrongKey; StoreError.
        """
        if store.size("config") is None:
            raise RepositoryMissing("There is no repository here.")
        key = _unwrap_any(store, repository_id, keyring)
        if key is None:
            raise RepositoryDamaged("The repository has no key: it was erased or damaged.", ["keys/"])
        repository = cls(store, repository_id, key)
        if damaged := repository.damaged_config():
            raise RepositoryDamaged("The repository's config was changed or is of another format.", damaged)
        return repository

    def damaged_config(self) -> list[str]:
        """Re-read config and check it against the key; return the names of what is wrong."""
        found = self.store.get("config")
        return [] if _config_fits(found, self.keys.seal, self.repository_id) else ["config"]

    def snapshots(self) -> list[str]:
        """Return the names of all committed snapshots, oldest first."""
        return [name.removeprefix("snap/") for name, _ in self.store.list("snap/")]

    def manifest(self, name: str) -> Manifest:
        """Read a snapshot's manifest from the store and check it whole, Merkle root included.

        Errors: StoreMissing; RepositoryDamaged.
        """
        manifest = self._read_manifest(name)
        if not hmac.compare_digest(merkle_root(self.data_keys.merkle, manifest.entries), manifest.merkle_root):
            raise RepositoryDamaged("A manifest's Merkle root does not fit its entries.", [f"snap/{name}"])
        return manifest

    def index(self, *, fresh: bool = False) -> Index:
        """Return the index, with segments, notes and marks that were added since; `fresh` reads all of them again.

        What a list still shows and a collector has deleted is passed over: another object took its place before.
        Errors: RepositoryDamaged naming the first segment that cannot be used; StoreError.
        """
        with self._lock:
            index = Index() if fresh else self._index
            for name, _ in self.store.list("gc/"):
                if name not in index.marks:
                    self._heed(index, name)
            for name, _ in self.store.list("note/"):
                if name not in index.notes:
                    index.learn(name, self._note(name))
            for name, _ in self.store.list("idx/"):
                if name not in index.segments:
                    index.add(name, self._segment(name))
            self._index = index
            return index

    def locate(self, chunks: set[bytes]) -> tuple[dict[bytes, Location], list[bytes]]:
        """Return where chunks lie, and those that no pack in the index holds."""
        places = self.index().chunks
        found = {chunk: places[chunk] for chunk in chunks if chunk in places}
        return found, sorted(chunks - found.keys())

    def packs_in_store(self) -> dict[bytes, int]:
        """Return the packs that are really there, with their sizes in bytes."""
        listed = ((name.rpartition("/")[2], size) for name, size in self.store.list("data/"))
        return {bytes.fromhex(stem): size for stem, size in listed if len(stem) == 2 * PACK_ID_BYTES}

    def pack_table(self, pack: bytes) -> PackTable:
        """Read a pack's table from the store.

        Errors: StoreMissing; RecordDamaged.
        """
        name = pack_name(pack)
        size = self.store.size(name)
        if size is None:
            raise StoreMissing(f"The store has no object {name}.")
        if size > MAX_PACK_BYTES:
            raise RecordDamaged("A pack is larger than any pack may be.")
        tail = self.store.get(name, max(0, size - USUAL_TAIL_BYTES))
        if not has_table(tail) and size > USUAL_TAIL_BYTES:
            tail = self.store.get(name, max(0, size - TAIL_BYTES))
        return read_table(self.data_keys, self.repository_id, pack, size, tail)

    def check_epoch(self, epoch: int) -> None:
        """Refuse a writer whose lease was taken over.

        Errors: StaleEpoch.
        """
        newest = self.newest_epoch()
        if epoch < newest:
            raise StaleEpoch(f"A newer writer (epoch {newest}) has taken over; epoch {epoch} may no longer write.")

    def newest_epoch(self) -> int:
        """Return the epoch of the newest writer that has left something here, 0 where nobody has."""
        newest = max((segment_epoch(name) for name, _ in self.store.list("idx/")), default=0)
        return newest if (last := self._newest()) is None else max(newest, last.epoch)

    def adopt_packs(self, packs: Sequence[bytes], epoch: int) -> int:
        """Write an index segment for packs that are complete in the store, believing only the packs themselves.

        Guarantees: packs already in the index change nothing. Returns how many were new.
        Errors: StoreMissing, RecordDamaged, StoreError; then nothing is written.
        """
        with self._lock:
            known = self.index().packs
            tables = [self.pack_table(pack) for pack in dict.fromkeys(packs) if pack not in known]
            if tables:
                self.write_segment(epoch, tables)
            return len(tables)

    def adopt_left_packs(self, epoch: int) -> int:
        """Take in complete packs that an interrupted writer left without an index segment; return how many.

        Packs that do not open are left alone, and so are those that a collector marked.
        """
        index = self.index()
        left = self.packs_in_store().keys() - index.packs.keys() - index.marked
        if index.blind:
            return 0
        return self.adopt_packs([pack for pack in sorted(left) if self._opens(pack)], epoch)

    def reusable_chunks(self, *, read_most: int = 1 << 30) -> set[bytes]:
        """Return the chunks that need not be stored again.

        Guarantees: their packs are in the store with the right size, were never found damaged, and no collector marked
        them; packs that were never read back are read now, up to about `read_most` bytes of them. What only a newer
        version can decode is not stored again: the verification after the save says so.
        Errors: RepositoryDamaged, StoreError.
        """
        index = self.index()
        here = self.packs_in_store()
        kept = index.packs.keys() - index.marked
        sound = {pack for pack in kept if here.get(pack) == index.packs[pack].size}
        sound |= {p for p in kept - sound if self.store.size(pack_name(p)) == index.packs[p].size}  # lists may be old
        self.note(set(), kept - sound)
        if index.blind:
            return set()
        read_back(self, index.unread(sound - index.damaged), read_most)
        sound -= index.damaged
        return {chunk for chunk, place in index.chunks.items() if place.pack in sound}

    def note(self, read: Set[bytes], damaged: Set[bytes]) -> None:
        """Keep for later which packs were read wholly and which were found damaged or missing.

        Guarantees: nothing is believed for a note that could not be stored or no longer opens; packs are read again.
        """
        with self._lock:
            index = self._index
            note = Note(frozenset(read - index.read), frozenset(damaged - index.damaged))
            if not note.read and not note.damaged:
                return
            self.write_note(note)

    def write_note(self, note: Note) -> None:
        """Write a note and learn from it; one that cannot be stored is learnt from all the same."""
        name = f"note/{secrets.token_hex(16)}"
        with suppress(StoreError):
            self._seal(name, NOTE_MAGIC, dump_note(note))
        with self._lock:
            self._index.learn(name, note)

    def mark(self, mark: Mark) -> str:
        """Write a mark and heed it; returns its name."""
        name = mark_name(mark)
        self._seal(name, MARK_MAGIC, dump_mark(mark))
        with self._lock:
            self._index.heed(name, mark)
        return name

    def write_segment(self, epoch: int, tables: Sequence[PackTable]) -> str:
        """Write an index segment over packs that are known; returns its name."""
        name = segment_name(epoch, secrets.token_hex(16))
        self._seal(name, INDEX_MAGIC, dump_segment(epoch, tables))
        with self._lock:
            self._index.add(name, tables)
        return name

    def commit(self, manifest: Manifest) -> Manifest:
        """Write a manifest, which makes the snapshot exist; returns it with its name.

        Guarantees: refused unless every chunk is in the index; `name`, `created` and `merkle_root` are set here.
        Errors: StaleEpoch; RepositoryDamaged for chunks that no pack holds; StoreError.
        """
        self.check_epoch(manifest.epoch)
        missing = manifest.chunks() - self.index().chunks.keys()
        if missing:
            raise RepositoryDamaged(f"{len(missing)} chunks of the snapshot are in no pack.")
        now = datetime.now(timezone.utc)
        name = f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(16)}"
        last = self._newest()
        check_entries(manifest.entries)
        if last is not None and last.entries == manifest.entries:
            root = last.merkle_root
        else:
            root = merkle_root(self.data_keys.merkle, manifest.entries)
        named = manifest.changed(name=name, created=now.isoformat(), merkle_root=root)
        self._seal(f"snap/{name}", MANIFEST_MAGIC, dump_manifest(named))
        self._last = named
        return named

    def verify(self, name: str, *, all_below: int = 2 << 30, sample: int = 64, quick: bool = False) -> Verification:
        """Prove from the store alone that a snapshot is whole.

        Guarantees: everything is read again; a snapshot below `all_below` stored bytes is decoded and hashed wholly,
        a larger one in its new packs, all packs that were never read back, and `sample` further random chunks. Packs
        found damaged are noted, so that the next save stores their chunks again. `quick` opens no chunk: config,
        manifest, index, and that each pack is there with its size and table.
        Errors: VerificationFailed listing what is missing and damaged; RecordUnknown where nothing is, but only a newer
        version can decode it (never noted as damage); StoreError where the store cannot answer.
        """
        return verify_snapshot(self, name, all_below=all_below, sample=sample, quick=quick)

    def _newest(self) -> Manifest | None:
        """Return the newest manifest, opened under its own name; manifests never change, so it is read once.

        Its entries are not checked: they are only compared with some that are.
        """
        for name in reversed(self.snapshots()):
            with suppress(StoreMissing):  # it was forgotten, and the list is old
                if self._last is None or self._last.name != name:
                    self._last = self._read_manifest(name, check=False)
                return self._last
        return None

    def _read_manifest(self, name: str, *, check: bool = True) -> Manifest:
        try:
            return load_manifest(name, self._open(f"snap/{name}", MANIFEST_MAGIC), check=check)
        except RecordDamaged as error:
            raise RepositoryDamaged(error.detail, [f"snap/{name}"]) from error

    def _segment(self, name: str) -> list[PackTable]:
        try:
            return load_segment(name, self._open(name, INDEX_MAGIC))
        except StoreMissing:
            return []
        except RecordDamaged as error:
            raise RepositoryDamaged(error.detail, [name]) from error

    def _note(self, name: str) -> Note:
        try:
            return load_note(name, self._open(name, NOTE_MAGIC))
        except (RecordDamaged, StoreMissing):
            return Note()

    def _heed(self, index: Index, name: str) -> None:
        with suppress(StoreMissing):  # it was carried out in this moment
            try:
                index.heed(name, load_mark(name, self._open(name, MARK_MAGIC)))
            except RecordDamaged:
                index.heed(name, None)

    def _opens(self, pack: bytes) -> bool:
        try:
            self.pack_table(pack)
        except (RecordDamaged, StoreMissing):
            return False
        return True

    def _open(self, name: str, magic: bytes) -> bytes:
        return open_object(self.keys, self.repository_id, name, magic, self.store.get(name))

    def _seal(self, name: str, magic: bytes, content: bytes) -> None:
        self.store.put(name, seal_object(self.keys, self.repository_id, name, magic, content))


def _unwrap_any(store: Store, repository_id: str, keyring: KeyRing) -> bytes | None:
    wrong: RepositoryDamaged | None = None
    for name in _key_names(store):
        try:
            key = keyring.unwrap(store.get(name), repository_id)
        except WrongKey as error:
            wrong = wrong or error
        except RecordDamaged as error:
            wrong = RepositoryDamaged(error.detail, [name])
        else:
            return key
    if wrong is not None:
        raise wrong
    return None


def _key_names(store: Store) -> Iterator[str]:
    return (name for name, _ in store.list("keys/"))


def _config(repository_key: bytes, repository_id: str) -> bytes:
    document = {
        "format": CONFIG_FORMAT,
        "repository": repository_id,
        "chunk_id": "blake3-keyed",
        "cipher": "aes-256-gcm",
        "chunking": {"at_most": MAX_CHUNK_BYTES},
    }
    text = json.dumps(document, sort_keys=True).encode()
    return text + b"\n" + _config_mac(text, RepositoryKeys.of(repository_key).seal).encode() + b"\n"


def _config_fits(found: bytes, seal_key: bytes, repository_id: str) -> bool:
    text, _, mac = found.partition(b"\n")
    if not hmac.compare_digest(mac, _config_mac(text, seal_key).encode() + b"\n"):
        return False
    document = json.loads(text)
    return bool(document["format"] == CONFIG_FORMAT and document["repository"] == repository_id)


def _config_mac(text: bytes, seal_key: bytes) -> str:
    return blake3(text, key=derive_key(seal_key, "dumont config key v1")).hexdigest()
