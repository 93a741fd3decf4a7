"""pytest plugin: gathers which tests prove which item of the user's checklist, and writes docs/CHECKLIST.md.

Tests say `@pytest.mark.checklist("INST-01")`. The document is written at the end of a full run only, holds no date
and no duration, and is left alone when nothing changed. `DUMONT_CHECKLIST=off` keeps it from being written.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
ITEMS = ROOT / "docs" / "checklist.toml"
PROPERTY = "checklist"
GATHERED = pytest.StashKey["Gathered"]()


@dataclass(frozen=True)
class Section:
    """One part of the checklist: its title and its items by id."""

    title: str
    items: dict[str, str]


@dataclass
class Gathered:
    """What one run showed: the tests of each item, and whether each passed."""

    path: Path
    proofs: dict[str, dict[str, bool]] = field(default_factory=dict)
    written: str | None = None

    def add(self, report: pytest.TestReport) -> None:
        """Take in one report; a test counts as passed only if all its cases and phases did."""
        name = report.nodeid.partition("[")[0]
        for item in _ids_of(report):
            tests = self.proofs.setdefault(item, {})
            tests[name] = tests.get(name, True) and report.passed


@cache
def sections() -> tuple[Section, ...]:
    """Read the checklist in its order."""
    document = tomllib.loads(ITEMS.read_text(encoding="utf-8"))
    return tuple(Section(part["title"], part["items"]) for part in document.values())


def known_ids() -> frozenset[str]:
    """Return every id of the checklist."""
    return frozenset(item for section in sections() for item in section.items)


def render(proofs: dict[str, dict[str, bool]]) -> str:
    """Return the document: the counts, the items without a test, then every item with its tests."""
    every = [item for section in sections() for item in section.items]
    bare = [item for item in every if not proofs.get(item)]
    failed = [item for item in every if item not in bare and not all(proofs[item].values())]
    lines = [
        "# Checklist",
        "",
        "What the product's user asked for (`docs/checklist.toml`), and the tests that prove it. Written by a full",
        "`./test`; do not edit.",
        "",
        f"{len(every) - len(bare) - len(failed)} of {len(every)} items proven, {len(failed)} with a failing test, "
        f"{len(bare)} without a test.",
        "",
        "## Without a test",
        "",
    ]
    for section in sections():
        lines += _without_a_test(section, bare)
    lines += ["", "## With tests", ""]
    for section in sections():
        lines += _with_tests(section, proofs)
    return "\n".join(lines).rstrip() + "\n"


def pytest_configure(config: pytest.Config) -> None:
    """Gather in the process that reports: the only one, or the one that leads xdist's workers."""
    if not hasattr(config, "workerinput"):
        config.stash[GATHERED] = Gathered(ROOT / "docs" / "CHECKLIST.md")
        config.pluginmanager.register(_Listener(config.stash[GATHERED]), "checklist-listener")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hang the ids on each test where its reports carry them, from workers too."""
    for item in items:
        ids = [str(name) for mark in item.iter_markers(PROPERTY) for name in mark.args]
        if ids:
            item.user_properties.append((PROPERTY, ids))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that claims an item which the checklist does not have."""
    unknown = [name for name in _claimed(item.user_properties) if name not in known_ids()]
    if unknown:
        pytest.fail(f"docs/checklist.toml has no {', '.join(unknown)}", pytrace=False)


class _Listener:
    def __init__(self, gathered: Gathered) -> None:
        self.gathered = gathered

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in each phase of each test."""
        self.gathered.add(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the document after a full run."""
        if os.environ.get("DUMONT_CHECKLIST") == "off" or not _is_full_run(session, exitstatus):
            return
        text = render(self.gathered.proofs)
        path = self.gathered.path
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            self.gathered.written = f"{path.relative_to(session.config.rootpath)} is new"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say that the document changed."""
        if self.gathered.written:
            terminalreporter.write_line(f"checklist: {self.gathered.written}")


def _is_full_run(session: pytest.Session, exitstatus: int) -> bool:
    config = session.config
    option = config.option
    narrowed = option.keyword or option.markexpr or option.collectonly or getattr(option, "lf", False)
    narrowed = narrowed or option.deselect or option.ignore or option.ignore_glob or option.maxfail
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return whole and not narrowed and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def _claimed(properties: list[tuple[str, Any]]) -> Iterator[str]:
    return (name for key, names in properties if key == PROPERTY for name in names)


def _ids_of(report: pytest.TestReport) -> Iterator[str]:
    return (name for name in _claimed(report.user_properties) if name in known_ids())


def _without_a_test(section: Section, bare: list[str]) -> list[str]:
    missing = [f"- {item}: {text}" for item, text in section.items.items() if item in bare]
    return [f"### {section.title}", "", *missing, ""] if missing else []


def _with_tests(section: Section, proofs: dict[str, dict[str, bool]]) -> list[str]:
    lines = list[str]()
    for item, text in section.items.items():
        tests = sorted(proofs.get(item, {}).items())
        if tests:
            lines.append(f"- {item}: {text}")
            lines += [f"  - {'passed' if passed else 'FAILED'} `{name}`" for name, passed in tests]
    return [f"### {section.title}", "", *lines, ""] if lines else []
