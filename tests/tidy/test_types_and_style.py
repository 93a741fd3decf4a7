"""What the standard tools say about the tree: ruff, mypy, and Python 3.10 for the rooms that travel."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import ROOT, expect_none, nodes, place, python_files

TRAVELLING = ("src/dumont/core", "src/dumont/vault", "src/dumont/agent")
NEWER_THAN_310 = {
    "asyncio": {"TaskGroup", "timeout", "timeout_at", "Runner", "Barrier"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "verify", "member", "nonmember", "global_enum", "EnumCheck", "ReprEnum"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "typing": {"Self", "Never", "LiteralString", "NotRequired", "Required", "Unpack", "TypeVarTuple", "assert_never"}
    | {"assert_type", "reveal_type", "override", "dataclass_transform"},
}
NEW_MODULES = {"tomllib", "wsgiref.types", "compression"}
NEW_BUILTINS = {"ExceptionGroup", "BaseExceptionGroup"}


def _run(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [*(done.stdout + done.stderr).splitlines(), f"exit {done.returncode}"]


def test_ruff_finds_nothing() -> None:
    """`ruff check` is clean."""
    expect_none(_run("ruff", "check", "--output-format", "concise", "--quiet", "."))


def test_ruff_formats_nothing() -> None:
    """`ruff format --check` is clean."""
    expect_none(_run("ruff", "format", "--check", "."))


def test_mypy_finds_nothing() -> None:
    """`mypy --strict` is clean, also over the benchmarks, most of which no test runs."""
    expect_none(_run("mypy", "--no-error-summary", "src", "tools", "benchmarks"))


def test_travelling_rooms_speak_python_310() -> None:
    """Rented images have Python 3.10: no newer syntax and no newer part of the standard library there."""
    expect_none(sentence for path in python_files(*TRAVELLING) for sentence in _too_new(path))


def _too_new(path: Path) -> Iterator[str]:
    try:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    except SyntaxError as error:
        yield f"{place(path)}:{error.lineno}: {error.msg}"
    for node in nodes(path, ast.Import, ast.ImportFrom, ast.Attribute, ast.Name):
        for name in _new_names(node):
            yield f"{place(path, node)}: {name} came after Python 3.10"


def _new_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in NEW_MODULES]
    if isinstance(node, ast.ImportFrom):
        new = NEWER_THAN_310.get(node.module or "", set())
        whole = [node.module] if node.module in NEW_MODULES else []
        return [*whole, *(alias.name for alias in node.names if alias.name in new)]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        new = NEWER_THAN_310.get(node.value.id, set())
        return [f"{node.value.id}.{node.attr}"] if node.attr in new else []
    return [node.id] if isinstance(node, ast.Name) and node.id in NEW_BUILTINS else []
