"""Blosc's library without the package around it."""

import sys
import threading
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

_CORE = "blosc.blosc_extension"
_loading = threading.Lock()
_ready: list[Any] = []


def blosc() -> Any:
    """Return the core of the library, set to one thread and no lock: the threads are ours.

    The package around it loads its own tests as well, with unittest and numpy: fifty times as long.
    """
    if not _ready:
        with _loading:
            if not _ready:
                core = sys.modules.get(_CORE) or _core()
                core.set_nthreads(1)
                core.set_releasegil(True)
                _ready.append(core)
    return _ready[0]


def _core() -> Any:
    package = find_spec("blosc")
    spec = package and PathFinder.find_spec(_CORE, package.submodule_search_locations)
    if not spec or not spec.loader:
        raise ImportError("The library blosc is not installed, or not as we know it.")
    core: Any = module_from_spec(spec)
    spec.loader.exec_module(core)
    sys.modules[_CORE] = core
    core.init()
    return core
