"""Numpy comes without threads, and leaves nothing behind for the programs that an agent starts for a user."""

import os
import subprocess
import sys

CODE = """
import os
from dumont.vault.arrays import load_numpy
load_numpy()
load_numpy()
import numpy
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"), numpy.arange(3).sum())
"""


def test_numpy_brings_no_threads_and_the_environment_stays() -> None:
    """Whether a user has said how many threads he wants or not."""
    plain = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    for more, said in (({}, "None"), ({"OPENBLAS_NUM_THREADS": "7"}, "7")):
        ran = subprocess.run([sys.executable, "-c", CODE], env={**plain, **more}, capture_output=True, text=True)
        assert ran.stdout.split() == ["1", said, "3"], ran.stderr
