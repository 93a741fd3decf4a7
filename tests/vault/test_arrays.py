"""Numpy comes without threads, and leaves nothing behind for the programs that an agent starts for a user."""

import os
import subprocess
import sys

PLAIN = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
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
    for more, said in (({}, "None"), ({"OPENBLAS_NUM_THREADS": "7"}, "7")):
        ran = subprocess.run([sys.executable, "-c", CODE], env={**PLAIN, **more}, capture_output=True, text=True)
        assert ran.stdout.split() == ["1", said, "3"], ran.stderr


ALONE = """
import os, sys
from dumont.vault.arrays import load_numpy, numpy_core
from dumont.vault.codecs import Codec, decode
from dumont.vault.planes import Floats, split_plainly
raw = bytes(range(256)) * 64
for kind in (1, 2, 3):
    assert decode(Codec.SPLIT, kind, split_plainly(raw, Floats(kind)), len(raw)) == raw
print("numpy" in sys.modules, len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"))
load_numpy()
import numpy
from numpy.testing import assert_array_equal
assert_array_equal(numpy.sort([3, 1, 2]), [1, 2, 3])
print(numpy.arange(4).sum(), numpy_core().ndarray is numpy.ndarray, numpy.linalg.norm([3.0, 4.0]))
try:
    numpy.arange(3).sum(axis=7)
except numpy.exceptions.AxisError:
    print(numpy.dtypes.Float64DType().name)
"""


def test_floats_need_no_more_than_the_core_of_numpy_and_all_of_it_can_follow() -> None:
    """Who takes floats apart and together loads the core alone; the whole package then takes that one over."""
    ran = subprocess.run([sys.executable, "-c", ALONE], env=PLAIN, capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["False 1 None", "6 True 5.0", "float64"], ran.stderr
