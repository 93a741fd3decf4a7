"""Make what tests share importable, and load the plugins that exist."""

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_ROOT = Path(__file__).resolve().parents[1]
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what runs in its background deaf to Ctrl-C, and every child inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PLUGINS = ("postgres", "checklist", "sandbox")
pytest_plugins = [f"tests.support.{name}" for name in _PLUGINS if (_ROOT / "tests/support" / f"{name}.py").is_file()]

_LONGEST_FIRST = (
    "e2e/test_kills",
    "e2e/test_starts",
    "simulation/test_seeds",
    "scale/test_scale_out",
    "workflows/test_failures",
    "workflows/test_faults",
    "api/test_fuzz",
    "workflows/test_crashes",
    "e2e/test_answers",
    "ledger/test_chaos",
    "ledger/test_suites",
    "simulation",
    "ledger",
    "workflows/test_worker",
    "sync",
    "workflows/test_freezing",
    "tidy/test_types_and_style",
    "workflows/test_turning_back",
    "e2e/test_demo",
    "app",
    "scale",
    "tidy/test_bootstrap",
    "bench",
    "api",
    "e2e",
    "workflows",
    "http",
    "identity",
    "db",
)
"""Folders and files whose tests take longest, so that no process is left with one of them at the end of a run."""


def pytest_configure(config: pytest.Config) -> None:
    """Let the laws be tried on the same examples in each run, however slow it is; the long forms draw anew."""
    slow = [HealthCheck.too_slow]
    drawn = bool(config.getoption("--long"))
    settings.register_profile("dumont", deadline=None, database=None, derandomize=not drawn, suppress_health_check=slow)
    settings.load_profile("dumont")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the long forms, which take too long for every run."""
    parser.addoption("--long", action="store_true", help="run the long forms of tests too")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long forms unless asked for, and begin with what takes longest; within a file the order stays."""
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        place = item.path.with_suffix("").as_posix().removeprefix(f"{tests.as_posix()}/")
        return next((n for n, name in enumerate(_LONGEST_FIRST) if place.startswith(name)), len(_LONGEST_FIRST))

    items.sort(key=rank)
