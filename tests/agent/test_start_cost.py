"""What an agent loads when it starts: each conversation pays for it anew."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import dumont

_READY = """
import sys
sys.path[:0] = sys.argv[1:]
import dumont.agent.main
from dumont.agent import verbs
verbs.get_ready(lambda: False)
print(*sorted({"dataclasses", "inspect"} & sys.modules.keys()))
"""


def test_an_agent_starts_without_dataclasses() -> None:
    """They bring `inspect` and compile code for each class: together a sixth of the CPU time of a start."""
    places = [str(Path(dumont.__file__).parents[1]), sysconfig.get_path("purelib")]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _READY, *places], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
