"""Make packs, entries and manifests for the tests."""

from dumont.vault import Entry, Kind, Manifest, PackBuilder, Record, Repository, pack_name
from dumont.vault.records import Coded


def store_pack(repository: Repository, pack: bytes, chunks: list[bytes]) -> list[bytes]:
    """Store chunks as one pack and index it; return their ids."""
    builder = PackBuilder(repository.data_keys, repository.repository_id)
    ids = [repository.sealer.chunk_id(raw) for raw in chunks]
    for chunk, raw in zip(ids, chunks, strict=True):
        builder.add(repository.sealer.seal(chunk, raw))
    repository.store.put(pack_name(pack), bytes(builder.finish(pack)))
    repository.adopt_packs([pack], 1)
    return ids


def store_newer(repository: Repository, pack: bytes, raw: bytes, *others: bytes) -> list[bytes]:
    """Store a chunk in a way that this version does not know, others beside it in one pack, and index it."""
    builder, sealer = PackBuilder(repository.data_keys, repository.repository_id), repository.sealer
    ids = [sealer.chunk_id(one) for one in (raw, *others)]
    coded = Coded(77, 5, len(raw), raw[::-1])
    room = bytearray(coded.record_bytes)
    sealer.seal_into(ids[0], coded, memoryview(room))
    builder.add(Record(ids[0], coded.codec, len(raw), bytes(room)))
    for chunk, other in zip(ids[1:], others, strict=True):
        builder.add(sealer.seal(chunk, other))
    repository.store.put(pack_name(pack), bytes(builder.finish(pack)))
    repository.adopt_packs([pack], 1)
    return ids


def draft(entries: list[Entry], **more: object) -> Manifest:
    """Return a manifest that is ready to be committed."""
    return Manifest("", None, "host", "/workspace", "", 1, b"", entries).changed(**more)


def file_entry(path: bytes, size: int, ids: list[bytes]) -> Entry:
    return Entry(path, Kind.FILE, 0o644, 0, 0, 1_700_000_000_000_000_000, size, chunks=tuple(ids))
