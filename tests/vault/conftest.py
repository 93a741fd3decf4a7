"""A small repository with two packs, an index segment each and one snapshot."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.vault.making import draft, file_entry, store_pack

from dumont.vault import (
    CHUNK_BYTES,
    Entry,
    Gate,
    KeyRing,
    Kind,
    LocalStore,
    Repository,
)


@dataclass
class Filled:
    """What the tests need to know of the repository."""

    store: LocalStore
    keyring: KeyRing
    repository: Repository
    snapshot: str
    contents: dict[bytes, bytes]

    def reopened(self) -> Repository:
        return Repository.open(self.store, self.repository.repository_id, self.keyring)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    store, keyring = LocalStore(tmp_path / "store"), KeyRing(b"k" * 32)
    repository = Repository.create(store, "wsp_1", keyring)
    draw = random.Random(11)
    big = draw.randbytes(CHUNK_BYTES + 1000)
    text = b"the same line again and again\n" * 5000
    first = store_pack(repository, b"\x01" * 16, [big[:CHUNK_BYTES]])
    second = store_pack(repository, b"\x02" * 16, [big[CHUNK_BYTES:], text])
    entries = [
        Entry(b"a", Kind.FOLDER, 0o755, 0, 0, 1),
        file_entry(b"a/big", len(big), [*first, second[0]]),
        Entry(b"link", Kind.LINK, 0o777, 0, 0, 2, 5, target=b"a/big"),
        file_entry(b"text", len(text), [second[1]]),
    ]
    manifest = repository.commit(draft(entries, packs_new=(b"\x01" * 16, b"\x02" * 16)))
    return Filled(store, keyring, repository, manifest.name, {b"a/big": big, b"text": text})


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(LocalStore(tmp_path / "gated"), b"secret")
    yield gate
    gate.stop()
