"""Make what tests share importable, and load the plugins that exist."""

import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

_PLUGINS = ("postgres", "checklist", "sandbox")
pytest_plugins = [f"tests.support.{name}" for name in _PLUGINS if (_ROOT / "tests/support" / f"{name}.py").is_file()]

_LONGEST_FIRST = (
    "e2e/test_kills",
    "workflows/test_turning_back",
    "workflows/test_failures",
    "scale/test_scale_out",
    "e2e/test_starts",
    "workflows/test_crashes",
    "tidy/test_types_and_style",
    "e2e/test_answers",
    "bench",
    "tidy",
    "app",
    "scale/test_database_down",
    "e2e",
    "workflows",
    "scale",
    "api",
)
"""Folders and files whose tests take longest, so that no process is left with one of them at the end of a run."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; within a file the order stays."""
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(tests).with_suffix("").as_posix()
        return next((n for n, name in enumerate(_LONGEST_FIRST) if place.startswith(name)), len(_LONGEST_FIRST))

    items.sort(key=rank)
