"""The checklist's plugin tells the truth: tried on a small project of its own, with and without workers."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.checklist import known_ids
from tests.tidy.tree import ROOT, expect_none, nodes, place, python_files

SUITE = """
import pytest

@pytest.mark.checklist("INST-01", "INST-02")
def test_that_passes(): pass

@pytest.mark.checklist("INST-02")
@pytest.mark.parametrize("number", [1, 2])
def test_that_fails_once(number): assert number == 1

@pytest.mark.checklist("INST-03")
def test_whose_teardown_fails(request):
    request.addfinalizer(lambda: 1 / 0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the plugin, the real checklist and three tests."""
    for folder in ("tests/support", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tests/support/checklist.py", tmp_path / "tests/support")
    shutil.copy(ROOT / "docs/checklist.toml", tmp_path / "docs")
    (tmp_path / "tests/test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = checklist(*ids): x\n")
    return tmp_path


def _pytest(project: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.checklist", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DUMONT_"))}
    env = {**clean, **env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_a_full_run_writes_what_was_proven(project: Path, workers: tuple[str, ...]) -> None:
    """Passed, failed in one of its cases, failed in teardown and without a test are told apart, from workers too."""
    done = _pytest(project, *workers)
    document = (project / "docs/CHECKLIST.md").read_text()
    assert "1 of 282 items proven, 2 with a failing test, 279 without a test." in document, done.stdout
    bare, _, proven = document.partition("## With tests")
    assert "- INST-04:" in bare and "- INST-01:" not in bare
    assert "  - passed `tests/test_suite.py::test_that_passes`" in proven
    assert "  - FAILED `tests/test_suite.py::test_that_fails_once`" in proven
    assert "  - FAILED `tests/test_suite.py::test_whose_teardown_fails`" in proven
    assert done.stdout.strip().splitlines()[-1].startswith("1 failed, 3 passed, 1 error")


def test_the_document_is_left_alone_otherwise(project: Path) -> None:
    """A narrowed run and a run with the document switched off write nothing; a claim of an unknown item fails."""
    suite = project / "tests/test_suite.py"
    _pytest(project, "-k", "passes")
    _pytest(project, DUMONT_CHECKLIST="off")
    suite.write_text('import pytest\n\n@pytest.mark.checklist("INST-99")\ndef test_a(): pass\n')
    assert "docs/checklist.toml has no INST-99" in _pytest(project, "tests").stdout
    assert not (project / "docs/CHECKLIST.md").exists()


def test_claimed_items_exist() -> None:
    """Every id in a checklist mark of this tree is in docs/checklist.toml."""
    expect_none(
        f"{place(path, node)} claims {argument.value}"
        for path in python_files("tests")
        for node in nodes(path, ast.Call)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.checklist"
        for argument in node.args
        if isinstance(argument, ast.Constant) and argument.value not in known_ids()
    )


def test_the_list_is_whole() -> None:
    """All 282 items are there, once each, in one sentence."""
    assert len(known_ids()) == 282
