"""The demo's workspace: a real safetensors model, a source tree, links, modes and odd names; and its hashes."""

import json
import os
import random
import struct
import tarfile
from pathlib import Path

TENSOR_MIB = 6
TENSORS = 6

LISTING = r"""
import hashlib, json, os, stat, sys
found = {}
for folder, folders, files in os.walk(".", followlinks=False):
    for name in folders + files:
        path = os.path.join(folder, name)[2:]
        seen = os.lstat(path)
        row = [stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode)]
        if stat.S_ISLNK(seen.st_mode):
            row = ["link", os.readlink(path)]
        elif stat.S_ISREG(seen.st_mode):
            digest = hashlib.sha256()
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
            row += [seen.st_size, digest.hexdigest(), seen.st_mtime_ns, seen.st_nlink]
        found[path] = row
json.dump(found, sys.stdout, sort_keys=True)
"""
"""Runs on the machine with its own Python: path -> type, mode, size, SHA-256, mtime, links. Shares no code with us."""


def make_workspace(folder: Path, seed: int) -> int:
    """Write the workspace below an empty folder and return the bytes of its files."""
    chance = random.Random(seed)
    _write_model(folder / "model.safetensors", chance)
    source = folder / "src" / "train"
    source.mkdir(parents=True)
    for number in range(60):
        lines = [f"def step_{number}_{line}(x):\n    return x * {chance.random()}\n" for line in range(40)]
        (source / f"part_{number:02}.py").write_text("\n".join(lines))
    (folder / "run.sh").write_text("#!/bin/sh\nexec python3 -m src.train\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "token.txt").write_text("keep me private\n")
    (folder / "token.txt").chmod(0o600)
    (folder / "checkpoints" / "empty").mkdir(parents=True)
    (folder / "dados de São Paulo.csv").write_text("cidade;valor\nSão Paulo;1.234,56\n")
    (folder / "latest.safetensors").symlink_to("model.safetensors")
    (folder / "gone").symlink_to("/nowhere/at/all")
    os.link(folder / "run.sh", folder / "run-again.sh")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def pack(folder: Path, target: Path) -> None:
    """Write a tar of the workspace, links as links."""
    with tarfile.open(target, "w") as archive:
        archive.add(folder, arcname=".")


def _write_model(path: Path, chance: random.Random) -> None:
    """Write a safetensors file of bf16 tensors with values as a trained layer has them.

    Source of the format: https://github.com/huggingface/safetensors (8 bytes length, JSON header, data).
    """
    size = TENSOR_MIB << 20
    header = {
        f"layers.{number}.weight": {
            "dtype": "BF16",
            "shape": [size // 2048, 1024],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _ in range(TENSORS):
            stream.write(_bf16(chance, size))


def _bf16(chance: random.Random, size: int) -> bytes:
    """Return bf16 bytes: random mantissas under exponents of small weights (about 2^-6)."""
    exponents = bytes(chance.choices(range(0x3A, 0x3F), weights=(1, 3, 8, 6, 2), k=4096))
    low = chance.randbytes(size // 2)
    high = exponents * (size // 2 // len(exponents)) + exponents[: size // 2 % len(exponents)]
    data = bytearray(size)
    data[0::2] = low
    data[1::2] = high
    return bytes(data)
