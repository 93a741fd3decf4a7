"""Build what the machine's own Python needs to run the agent: our rooms and the wheels, as one archive."""

import hashlib
import importlib.metadata
import importlib.util
import io
import marshal
import os
import platform
import re
import secrets
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dumont.agent.errors import AgentFailed

OLDEST_PYTHON = (3, 10)
DISTRIBUTIONS = ("blake3", "blosc", "cffi", "cryptography", "msgpack", "numpy", "typing-extensions", "zstandard")
LOCK = Path(__file__).with_name("requirements.txt")
LOCK_310 = Path(__file__).with_name("requirements-3.10.txt")
"""Of its own, because blake3 1.0.11 and later have no wheels for Python 3.10."""
_ROOMS = ("core", "vault", "agent")
_SOURCES = Path(__file__).resolve().parents[1]
_ENDS_LEFT_OUT = (".pyc", ".pyi", ".pxd", ".a", ".h", "/RECORD")
_PARTS_LEFT_OUT = re.compile(r"/tests/|^zstandard/backend_cffi|^numpy/(random|f2py|distutils|testing|_core/_simd)\b")
_INSTALL_SECONDS = 300.0


@dataclass(frozen=True)
class Interpreter:
    """A Python on some machine: what decides which wheels fit it."""

    path: str
    version: tuple[int, int]
    arch: str
    libc: str
    libc_version: tuple[int, int]

    @classmethod
    def ours(cls) -> "Interpreter":
        """Describe the Python that runs this."""
        name, version = platform.libc_ver()
        return cls(sys.executable, sys.version_info[:2], platform.machine(), name or "musl", numbers(version))

    def takes_ours(self) -> bool:
        """Tell whether the wheels installed beside us run there too."""
        ours = Interpreter.ours()
        same = (self.version, self.arch, self.libc) == (ours.version, ours.arch, ours.libc)
        return same and self.libc_version >= ours.libc_version and not sysconfig.get_config_var("Py_GIL_DISABLED")

    @property
    def lock(self) -> Path:
        """The file with the packages and hashes for its version."""
        return LOCK_310 if self.version == OLDEST_PYTHON else LOCK

    @property
    def wheel_platform(self) -> str:
        """The platform's name as `uv` knows it."""
        if self.libc != "glibc":
            return f"{self.arch}-unknown-linux-musl"
        return f"{self.arch}-manylinux_2_28" if self.libc_version >= (2, 28) else f"{self.arch}-manylinux2014"


def numbers(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version, zeros where they are missing."""
    first, second, *_ = [*(int(part) for part in version.split(".")[:2] if part.isdigit()), 0, 0]
    return first, second


def bundle_key(interpreter: Interpreter) -> str:
    """Return the name of the bundle for an interpreter: a hash of all that goes into it."""
    text = hashlib.sha256(interpreter.lock.read_bytes())
    for name, path in sorted(_own_files()):
        text.update(f"{name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    wheels = "ours" if interpreter.takes_ours() else interpreter.wheel_platform
    text.update(f"{interpreter.version}{interpreter.arch}{interpreter.libc}{wheels}".encode())
    return text.hexdigest()[:32]


def bundle_for(interpreter: Interpreter, cache: Path) -> Path:
    """Return the archive for an interpreter, from the cache or built now.

    Errors: AgentFailed `no_wheels` where the packages cannot be had for that machine.
    """
    path = cache / f"agent-{bundle_key(interpreter)}.tar.gz"
    if path.is_file():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    try:
        if interpreter.takes_ours():
            _write(temporary, [*_own_files(), *_installed_files()], compiled=True)
        else:
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                _install(interpreter, Path(folder))
                _write(temporary, [*_own_files(), *_files_in(Path(folder))], compiled=False)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return path


def _own_files() -> Iterator[tuple[str, Path]]:
    yield "dumont/__init__.py", _SOURCES / "__init__.py"
    for room in _ROOMS:
        for path in sorted((_SOURCES / room).iterdir()):
            if path.suffix in (".py", ".txt"):
                yield f"dumont/{room}/{path.name}", path


def _installed_files() -> Iterator[tuple[str, Path]]:
    for name in DISTRIBUTIONS:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if not str(file).startswith("..") and path.is_file():
                yield file.as_posix(), path


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here) / name
            yield path.relative_to(folder).as_posix(), path


def _install(interpreter: Interpreter, folder: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    command = [
        *(str(beside) if beside.is_file() else "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
        *("--python", sys.executable, "--target", str(folder), "--only-binary", ":all:", "--link-mode", "copy"),
        *("--python-version", "{}.{}".format(*interpreter.version), "--python-platform", interpreter.wheel_platform),
        *("-r", str(interpreter.lock)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
        reason = done.stderr.strip()[-400:] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason is not None:
        version = "{}.{}".format(*interpreter.version)
        raise AgentFailed(
            "no_wheels", f"The agent's packages for Python {version} on {interpreter.arch} could not be had: {reason}"
        )


def _write(path: Path, files: list[tuple[str, Path]], *, compiled: bool) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, source in sorted(files):
            if name.endswith(_ENDS_LEFT_OUT) or _PARTS_LEFT_OUT.search(name):
                continue
            content = source.read_bytes()
            _add(archive, name, content)
            if compiled and name.endswith(".py"):
                _add(archive, _compiled_name(name), _bytecode(name, content, source))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def _compiled_name(name: str) -> str:
    """Return where Python looks for a source's bytecode, wherever that of this process lies."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/__pycache__/{last.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc".lstrip("/")


def _bytecode(name: str, content: bytes, source: Path) -> bytes:
    """Return what Python of this version runs in the place of a source, whenever that is unpacked.

    A machine that was rented just now would compile all of it first, which takes longer than all else in a start.
    Source: PEP 552, hash-based and unchecked; the folder it lies in is named by a hash of what it was made from.
    """
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(content)
    with suppress(OSError):
        found = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        seen = source.stat()
        kept = struct.pack("<III", 0, int(seen.st_mtime) & 0xFFFFFFFF, seen.st_size & 0xFFFFFFFF)
        if found[:16] == importlib.util.MAGIC_NUMBER + kept:
            return head + found[16:]
    return head + marshal.dumps(compile(content, name, "exec", dont_inherit=True))
