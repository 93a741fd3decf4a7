"""Bring numpy in with as little as it needs here."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_THREADS = "OPENBLAS_NUM_THREADS"
_CORE = "numpy._core._multiarray_umath"
_loading = threading.Lock()
_ready: list[Any] = []


def load_numpy() -> None:
    """Load numpy without the threads of its linear algebra: none is used here, and they cost as much as the rest.

    Guarantees: the environment stays as it was, for programs that are started later.
    """
    if not hasattr(sys.modules.get("numpy"), "ndarray"):
        with _loading, _one_thread():
            import numpy  # noqa: F401


def numpy_core() -> Any:
    """Return numpy's core, its arrays and what works on them, without the package around it: a fifth of the time.

    Types go by their letters there ("u2"), and methods of arrays that are written in Python load the package. So does
    whoever imports it later: it takes over the core that is there, as there can be but one.
    """
    if not _ready:
        with _loading, _one_thread():
            if not _ready:
                _ready.append(sys.modules.get(_CORE) or _alone())
    return _ready[0]


def _alone() -> Any:
    """Load the core below packages that are nothing but folders, and leave these out again."""
    folders = [_folder("numpy", None)]
    folders.append(_folder("numpy._core", folders[0].__path__))
    sys.modules.update({folder.__name__: folder for folder in folders})
    try:
        core = import_module(_CORE)
    finally:
        for folder in folders:
            del sys.modules[folder.__name__]
    sys.meta_path.insert(0, _Whole())
    return core


def _folder(name: str, path: Sequence[str] | None) -> ModuleType:
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("The library numpy is not installed.")
    folder = ModuleType(name)
    folder.__path__ = list(spec.submodule_search_locations)
    return folder


class _Whole:
    """Gives the packages, when they are loaded after all, the parts of them that were there before."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in ("numpy", "numpy._core") else None
        if spec is not None and spec.loader is not None:
            spec.loader.create_module = _with_parts  # type: ignore[method-assign]
        return spec


def _with_parts(spec: ModuleSpec) -> ModuleType:
    package = ModuleType(spec.name)
    for name, module in [*sys.modules.items()]:
        above, _, own = name.rpartition(".")
        if above == spec.name:
            setattr(package, own, module)
    return package


@contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before
