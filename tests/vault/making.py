"""Make packs, entries and manifests for the tests."""

from dumont.vault import Entry, Kind, Manifest, PackBuilder, Repository, pack_name


def store_pack(repository: Repository, pack: bytes, chunks: list[bytes]) -> list[bytes]:
    """Store chunks as one pack and index it; return their ids."""
    builder = PackBuilder(repository.data_keys, repository.repository_id)
    ids = [repository.sealer.chunk_id(raw) for raw in chunks]
    for chunk, raw in zip(ids, chunks, strict=True):
        builder.add(repository.sealer.seal(chunk, raw))
    repository.store.put(pack_name(pack), bytes(builder.finish(pack)))
    repository.adopt_packs([pack], 1)
    return ids


def draft(entries: list[Entry], **more: object) -> Manifest:
    """Return a manifest that is ready to be committed."""
    plain = Manifest("", None, "host", "/workspace", "", 1, b"", tuple(entries))
    return Manifest(**{**vars(plain), **more})  # type: ignore[arg-type]


def file_entry(path: bytes, size: int, ids: list[bytes]) -> Entry:
    return Entry(path, Kind.FILE, 0o644, 0, 0, 1_700_000_000_000_000_000, size, chunks=tuple(ids))
