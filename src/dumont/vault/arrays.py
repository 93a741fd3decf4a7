"""Bring numpy in with as little as it needs here."""

import os
import sys
import threading

_THREADS = "OPENBLAS_NUM_THREADS"
_loading = threading.Lock()


def load_numpy() -> None:
    """Load numpy without the threads of its linear algebra: none is used here, and they cost as much as the rest.

    Guarantees: the environment stays as it was, for programs that are started later.
    """
    if "numpy" in sys.modules:
        return
    with _loading:
        before = os.environ.get(_THREADS)
        os.environ[_THREADS] = "1"
        try:
            import numpy  # noqa: F401
        finally:
            if before is None:
                del os.environ[_THREADS]
            else:
                os.environ[_THREADS] = before
