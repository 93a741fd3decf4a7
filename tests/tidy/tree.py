"""The source tree as the tidy tests see it: which files there are, and what they say once parsed."""

import ast
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "dumont"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Return every Python file under these folders of the checkout, in order."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts))


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def nodes(path: Path, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    """Walk one file and yield the nodes of these kinds."""
    return (node for node in ast.walk(parsed(path)) if isinstance(node, kinds))


def place(path: Path, node: ast.AST | None = None) -> str:
    """Name a place for people: `src/dumont/core/ids.py:12`."""
    line = f":{node.lineno}" if node is not None and hasattr(node, "lineno") else ""
    return f"{path.relative_to(ROOT)}{line}"


@cache
def rooms() -> tuple[str, ...]:
    """Return the names of the rooms that have code today."""
    return tuple(sorted(path.parent.name for path in SRC.glob("*/__init__.py")))


@cache
def text_files() -> tuple[Path, ...]:
    """Return the files of the project that are text: those git tracks or would track."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name]
    return tuple(path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:4096])


def imported_modules(path: Path) -> Iterator[tuple[ast.AST, str, tuple[str, ...]]]:
    """Yield every import of one file as (node, module, names); relative imports are made absolute."""
    package = path.relative_to(ROOT / "src").parent.parts if path.is_relative_to(ROOT / "src") else ()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield node, module, tuple(alias.name for alias in node.names)


def expect_none(found: Iterable[str]) -> None:
    """Fail with one line for each thing found."""
    lines = list(found)
    assert not lines, "\n" + "\n".join(lines)
