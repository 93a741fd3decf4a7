"""A workspace such as people rent GPUs for, made for the vault's benchmark: model files, code, text, libraries."""

import json
import shutil
import struct
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_SHARES = {"weights": 0.36, "optimizer": 0.22, "quantised": 0.08, "lines": 0.12, "libraries": 0.12, "packages": 0.10}
_SITE = Path(sysconfig.get_path("purelib"))
_LAYERS = 24
Array = np.ndarray[Any, Any]


def make_tensors(folder: Path, size: int) -> None:
    """Write two bf16 models as safetensors, of so many bytes together."""
    folder.mkdir(parents=True)
    for part in range(2):
        write_safetensors(folder / f"model-{part}.safetensors", _layers(size // 2, seed=part), {"format": "pt"})


def make_workspace(root: Path, size: int) -> None:
    """Write a mixed workspace of about so many bytes."""
    root.mkdir(parents=True)
    part = {name: int(share * size) for name, share in _SHARES.items()}
    draw = np.random.default_rng(7)
    make_tensors(root / "models", part["weights"])
    _optimizer(root / "checkpoint.pt", part["optimizer"], draw)
    blocks = draw.integers(0, 256, part["quantised"], dtype=np.uint8)
    blocks[::18] = draw.integers(40, 48, len(blocks[::18]), dtype=np.uint8)
    (root / "quantised.bin").write_bytes(blocks.tobytes())
    with (root / "train.jsonl").open("wb") as stream:
        for line in _lines(part["lines"], draw):
            stream.write(line)
    _copy(root / "libraries", part["libraries"], (path for path in _site_files() if ".so" in path.name), least=100_000)
    _copy(root / "site-packages", part["packages"], (path for path in _site_files() if path.suffix == ".py"), least=1)


def write_safetensors(path: Path, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write tensors of 16-bit words as bf16."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, words in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [len(words)], "data_offsets": [offset, offset + words.nbytes]}
        offset += words.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for words in tensors.values():
            words.tofile(stream)


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read what `write_safetensors` wrote."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    body = memoryview(content)[8 + length :]
    spans = {name: tensor["data_offsets"] for name, tensor in header.items()}
    return {name: np.frombuffer(body[start:end], np.uint16) for name, (start, end) in spans.items()}


def change(root: Path, share: float, seed: int) -> int:
    """Overwrite a share of all bytes: a fifth of it in whole small files, the rest as one stretch of the largest file.

    Another seed means other bytes. Returns how many they were.
    """
    draw = np.random.default_rng(seed)
    files = sorted((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    wanted = int(sum(path.stat().st_size for path in files) * share)
    changed = 0
    for path in files[::7]:
        if changed + path.stat().st_size > wanted // 5:
            break
        path.write_bytes(draw.bytes(path.stat().st_size))
        changed += path.stat().st_size
    with files[-1].open("r+b") as stream:
        stream.seek(files[-1].stat().st_size // 3)
        stream.write(draw.bytes(wanted - changed))
    return wanted


def _layers(size: int, seed: int) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    count = size // 2 // _LAYERS
    names = (f"model.layers.{number}.weight" for number in range(_LAYERS))
    return {name: bf16(draw.standard_normal(count, dtype=np.float32) * np.float32(0.02)) for name in names}


def bf16(values: Array) -> Array:
    """Cut 32-bit floats to their upper halves."""
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _optimizer(path: Path, size: int, draw: np.random.Generator) -> None:
    count = size // 12 // 8
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("checkpoint/data.pkl", b"pickled names" * 100)
        for number in range(8):
            weights = draw.standard_normal(count, dtype=np.float32) * np.float32(0.02)
            slopes = draw.standard_normal(count, dtype=np.float32) * np.float32(1e-4)
            for kind, values in enumerate((weights, slopes, slopes * slopes)):
                archive.writestr(f"checkpoint/data/{number * 3 + kind}", values.tobytes())


def _lines(size: int, draw: np.random.Generator) -> Iterator[bytes]:
    words = sorted({word for path in list(_site_files())[:200] if path.suffix == ".py" for word in _words(path)})
    made = 0
    while made < size:
        picked = (draw.zipf(1.3, 40) - 1) % len(words)
        line = json.dumps({"id": made, "text": " ".join(words[index] for index in picked)}).encode() + b"\n"
        made += len(line)
        yield line


def _words(path: Path) -> list[str]:
    return path.read_text(errors="replace").split()[:400]


def _site_files() -> list[Path]:
    return sorted(path for path in _SITE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _copy(folder: Path, size: int, paths: Iterator[Path], *, least: int) -> None:
    copied = 0
    for path in paths:
        length = path.stat().st_size
        if length < least or copied + length > size:
            continue
        target = folder / path.relative_to(_SITE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        copied += length
