"""A reader written from docs/design/vault.md alone, sharing no code with the vault, restores what the vault wrote."""

import hashlib
import hmac
import json
import random
import struct
from pathlib import Path
from typing import Any

import blake3
import blosc
import msgpack
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.vault.making import store_pack

from dumont.vault import PackBuilder, pack_name

Place = tuple[Path, int, int, bytes | None, int, int]


def derive(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode() + b"\x01", hashlib.sha256).digest()


class Reader:
    """Reads a repository folder with nothing but the installation's secret."""

    def __init__(self, root: Path, secret: bytes) -> None:
        self.root = root
        self.codecs: set[tuple[int, int]] = set()
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

    def rows_of_pack(self, path: Path) -> dict[bytes, Place]:
        data = path.read_bytes()
        footer = data[-28:]
        length, count, form, _, key = struct.unpack("<IIHH8s", footer[:20])
        assert (footer[20:], form in (1, 2), key) == (b"DMTPACK\x01", True, self.data_id)
        box = data[-28 - length : -28]
        aad = footer + self.bound(bytes.fromhex(path.name))
        rows = AESGCM(self.table).decrypt(box[:12], box[12:], aad)
        assert len(rows) == 44 * count
        places = self.places(path, rows)
        assert sum(place[2] for place in places.values() if place[3] is None) + length + 28 == len(data)
        return places

    @staticmethod
    def places(path: Path, rows: bytes) -> dict[bytes, Place]:
        """Path, offset, length of the record; of a member also its group's id and its own place in that."""
        places: dict[bytes, Place] = {}
        offset = start = 0
        record = b""
        for at in range(0, len(rows), 44):
            chunk, length, raw, codec = struct.unpack("<32sIIB", rows[at : at + 41])
            if codec == 255:
                places[chunk] = (*places[record][:3], record, start, raw)
                start += raw
            else:
                places[chunk] = (path, offset, length, None, 0, raw)
                offset, start, record = offset + length, 0, chunk
        return places

    def chunks_from_packs(self) -> dict[bytes, Place]:
        return {c: p for path in (self.root / "data").glob("*/*") for c, p in self.rows_of_pack(path).items()}

    def chunks_from_index(self) -> dict[bytes, Place]:
        found: dict[bytes, Place] = {}
        for path in sorted((self.root / "idx").iterdir()):
            segment = self.sealed(f"idx/{path.name}", b"DMTINDX\x01")
            assert segment["epoch"] == int(path.name[:10])
            for pack, size, rows in segment["packs"]:
                place = self.root / "data" / pack.hex()[:2] / pack.hex()
                assert place.stat().st_size == size
                found = self.places(place, rows) | found
        return found

    def read(self, chunk: bytes, place: Place) -> bytes:
        path, offset, length, group, start, size = place
        if group is not None:
            raw = self.read(group, (path, offset, length, None, 0, -1))[start : start + size]
            assert blake3.blake3(raw, key=self.chunk).digest() == chunk
            return raw
        record = path.read_bytes()[offset : offset + length]
        body = AESGCM(self.record).decrypt(record[:12], record[28:], chunk + record[12:28] + self.repository)
        form, codec, parameter, key, plain = struct.unpack("<BBH8sI", record[12:28])
        assert (form, key) == (1, self.data_id)
        raw = self.decoded(codec, parameter, body, plain)
        self.codecs.add((codec, parameter))
        assert len(raw) == plain and size in (plain, -1)
        assert blake3.blake3(raw, key=self.chunk).digest() == chunk
        return raw

    @staticmethod
    def decoded(codec: int, parameter: int, body: bytes, plain: int) -> bytes:
        if codec == 0:
            return body
        if codec == 1:
            return zstandard.ZstdDecompressor().decompress(body)
        if codec == 2:
            return bytes(blosc.decompress(body))
        assert codec == 3
        (length,) = struct.unpack("<I", body[:4])
        first = zstandard.ZstdDecompressor().decompress(body[4 : 4 + length])
        kind, width = parameter & 15, 4 if parameter & 15 == 3 else 2
        count = plain // width
        if parameter & 16:
            half = (count + 1) // 2
            few = (len(first) - half - 1) // 5
            pairs, places, others = first[:half], first[half : half + 4 * few], first[half + 4 * few : -1]
            near = bytearray(first[-1] + far for pair in pairs for far in (pair & 15, pair >> 4))[:count]
            for place, other in zip(struct.unpack(f"<{few}I", places), others, strict=True):
                near[place] = other
            first = bytes(near)
        second, low = body[4 + length :][:count], body[4 + length + count :]
        odd = low[count * (width - 2) :]
        if kind == 2:
            return b"".join(bytes(pair) for pair in zip(second, first, strict=True)) + odd
        tops = (e << 7 | s >> 1 | (s & 1) << 15 for e, s in zip(first, second, strict=True))
        lows = (low[i * 2 : i * 2 + 2] if width == 4 else b"" for i in range(count))
        return b"".join(under + struct.pack("<H", top) for under, top in zip(lows, tops, strict=True)) + odd

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
        lengths = iter(struct.unpack(f"<{at // 32}I", entries["lengths"]))
        for size, kind, found in zip(entries["size"], entries["kind"], result, strict=True):
            assert kind != 1 or sum(next(lengths) for _ in found) == size
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


def test_every_codec_and_groups_are_read_as_the_document_says(filled: Any) -> None:
    """One chunk for each way of storing it, and three that share a record."""
    draw = random.Random(8)
    fp32 = b"".join(struct.pack("<f", draw.gauss(0, 0.02)) for _ in range(40_000))
    bf16 = b"".join(fp32[at + 2 : at + 4] for at in range(0, len(fp32), 4))
    wide = b"".join(struct.pack("<f", draw.gauss(0, 0.02) * 2.0 ** draw.randrange(-8, 9)) for _ in range(40_000))
    spread = b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))
    halves = b"".join(bytes((draw.randrange(256), 60 + min(15, int(draw.expovariate(0.4))))) for _ in range(40_000))
    counters = struct.pack("<40000I", *range(40_000))
    chunks = [
        bf16 + b"!",
        fp32 + b"odd",
        spread,
        wide,
        halves,
        counters,
        b"text " * 20_000,
        filled.contents[b"a/big"][:100_000],
    ]
    store_pack(filled.repository, b"\x05" * 16, chunks)
    members = [b"one", b"number two", b""]
    sealer, keys = filled.repository.sealer, filled.repository.data_keys
    builder = PackBuilder(keys, "wsp_1")
    whole = b"".join(members)
    named = [(sealer.chunk_id(raw), len(raw)) for raw in members]
    builder.add(sealer.seal(sealer.chunk_id(whole), whole), named)
    filled.store.put(pack_name(b"\x06" * 16), bytes(builder.finish(b"\x06" * 16)))
    filled.repository.adopt_packs([b"\x06" * 16], 1)
    reader = Reader(filled.store.root, b"k" * 32)
    places = reader.chunks_from_index()
    assert places == reader.chunks_from_packs()
    for raw in [*chunks, *members, whole]:
        assert reader.read(sealer.chunk_id(raw), places[sealer.chunk_id(raw)]) == raw
    assert {codec for codec, _ in reader.codecs} == {0, 1, 2, 3} and reader.codecs >= {
        (3, 1),
        (3, 3),
        *((3, 16 + kind) for kind in (1, 2, 3)),
    }
