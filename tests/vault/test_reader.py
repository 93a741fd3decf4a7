"""A reader written from docs/design/vault.md alone, sharing no code with the vault, restores what the vault wrote."""

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import blake3
import msgpack
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def derive(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode() + b"\x01", hashlib.sha256).digest()


class Reader:
    """Reads a repository folder with nothing but the installation's secret."""

    def __init__(self, root: Path, secret: bytes) -> None:
        self.root = root
        line, mac, _ = (root / "config").read_bytes().split(b"\n")
        self.repository = json.loads(line)["repository"].encode()
        (wrapped,) = (path.read_bytes() for path in (root / "keys").iterdir())
        assert len(wrapped) == 76 and wrapped[:8] == b"DMTKEY\x00\x01"
        assert wrapped[8:16] == derive(secret, "dumont wrapping key id v1")[:8]
        wrapping = AESGCM(derive(secret, "dumont vault wrapping key v1"))
        key = wrapping.decrypt(wrapped[16:28], wrapped[28:], wrapped[:16] + self.repository)
        self.seal = derive(key, "dumont seal key v1")
        data = derive(key, "dumont data key v1")
        self.data_id = derive(data, "dumont data key id v1")[:8]
        self.chunk, self.record, self.table, self.merkle = (
            derive(data, f"dumont {use} key v1") for use in ("chunk id", "record", "table", "merkle")
        )
        assert mac.decode() == blake3.blake3(line, key=derive(self.seal, "dumont config key v1")).hexdigest()

    def bound(self, rest: bytes) -> bytes:
        return struct.pack("<H", len(self.repository)) + self.repository + rest

    def sealed(self, name: str, magic: bytes) -> Any:
        data = (self.root / name).read_bytes()
        assert data[:11] == magic + struct.pack("<HB", 1, 1)
        packed = AESGCM(self.seal).decrypt(data[24:36], data[36:], data[:24] + self.bound(name.encode()))
        return msgpack.unpackb(zstandard.ZstdDecompressor().decompress(packed), strict_map_key=False)

    def rows_of_pack(self, path: Path) -> dict[bytes, tuple[Path, int, int]]:
        data = path.read_bytes()
        footer = data[-28:]
        length, count, form, _, key = struct.unpack("<IIHH8s", footer[:20])
        assert (footer[20:], form, key) == (b"DMTPACK\x01", 1, self.data_id)
        box = data[-28 - length : -28]
        aad = footer + self.bound(bytes.fromhex(path.name))
        rows = AESGCM(self.table).decrypt(box[:12], box[12:], aad)
        assert len(rows) == 44 * count
        places, offset = {}, 0
        for at in range(0, len(rows), 44):
            (size,) = struct.unpack("<I", rows[at + 32 : at + 36])
            places[rows[at : at + 32]] = (path, offset, size)
            offset += size
        assert offset + length + 28 == len(data)
        return places

    def chunks_from_packs(self) -> dict[bytes, tuple[Path, int, int]]:
        return {c: p for path in (self.root / "data").glob("*/*") for c, p in self.rows_of_pack(path).items()}

    def chunks_from_index(self) -> dict[bytes, tuple[Path, int, int]]:
        found: dict[bytes, tuple[Path, int, int]] = {}
        for path in sorted((self.root / "idx").iterdir()):
            segment = self.sealed(f"idx/{path.name}", b"DMTINDX\x01")
            assert segment["epoch"] == int(path.name[:10])
            for pack, size, rows in segment["packs"]:
                place = self.root / "data" / pack.hex()[:2] / pack.hex()
                assert place.stat().st_size == size
                offset = 0
                for at in range(0, len(rows), 44):
                    (length,) = struct.unpack("<I", rows[at + 32 : at + 36])
                    found.setdefault(rows[at : at + 32], (place, offset, length))
                    offset += length
        return found

    def read(self, chunk: bytes, place: tuple[Path, int, int]) -> bytes:
        path, offset, length = place
        record = path.read_bytes()[offset : offset + length]
        body = AESGCM(self.record).decrypt(record[:12], record[28:], chunk + record[12:28] + self.repository)
        assert record[12] == 1 and record[16:24] == self.data_id
        raw = zstandard.ZstdDecompressor().decompress(body) if record[13] == 1 else body
        assert len(raw) == struct.unpack("<I", record[24:28])[0]
        assert blake3.blake3(raw, key=self.chunk).digest() == chunk
        return raw

    def root_of(self, entries: dict[str, Any]) -> bytes:
        level = []
        for i, ids in enumerate(self.ids(entries)):
            numbers = [entries[c][i] for c in ("kind", "mode", "mtime_ns", "size", "group")]
            text = b"\x00" + struct.pack("<BIqQII", *numbers, len(ids))
            for part in (entries["path"][i], entries["target"][i]):
                text += struct.pack("<I", len(part)) + part
            level.append(blake3.blake3(text + b"".join(ids), key=self.merkle).digest())
        while len(level) > 1:
            above = [
                blake3.blake3(b"\x01" + level[i] + level[i + 1], key=self.merkle).digest()
                for i in range(0, len(level) - 1, 2)
            ]
            level = above + (level[-1:] if len(level) % 2 else [])
        return level[0]

    @staticmethod
    def ids(entries: dict[str, Any]) -> list[list[bytes]]:
        flat, result, at = entries["chunks"], [], 0
        for count in entries["chunk_counts"]:
            result.append([flat[at + 32 * n : at + 32 * n + 32] for n in range(count)])
            at += 32 * count
        assert at == len(flat)
        return result


def test_a_reader_that_knows_only_the_document_reads_everything(filled: Any) -> None:
    """Manifest, Merkle root, index and packs agree, and every file comes out, by the index and by packs alone."""
    reader = Reader(filled.store.root, b"k" * 32)
    manifest = reader.sealed(f"snap/{filled.snapshot}", b"DMTSNAP\x01")
    entries = manifest["entries"]
    assert reader.root_of(entries) == manifest["merkle_root"]
    by_packs = reader.chunks_from_packs()
    assert reader.chunks_from_index() == by_packs
    ids = dict(zip(entries["path"], reader.ids(entries), strict=True))
    for path, content in filled.contents.items():
        assert b"".join(reader.read(chunk, by_packs[chunk]) for chunk in ids[path]) == content
    assert entries["target"][entries["path"].index(b"link")] == b"a/big"
