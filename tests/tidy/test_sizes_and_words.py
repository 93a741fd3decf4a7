"""Small enough to see, named by what it is, said what it is for, and nothing swept under the carpet."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import FUNCTIONS, expect_none, nodes, parsed, place, python_files

EVERYWHERE = ("src", "tests", "tools")
FUNCTION_LINES = 40
FILE_LINES = {"src": 400, "tools": 400, "tests": 600}
LEVELS = 3
EMPTY_WORDS = {"Manager", "Helper", "Helpers", "Util", "Utils", "Handler", "Base"}
EMPTY_ENDS = {"Data", "Info"}
EMPTY_MODULES = {word.lower() for word in EMPTY_WORDS | EMPTY_ENDS} - {"base"}
PROMISES = re.compile(r"\b(?:TO[D]O|FIX[M]E|HA[C]K|X{3})\b")
NESTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)


def test_functions_are_small() -> None:
    """No function has more than 40 lines of code (docstring, blanks and comments aside)."""
    too_long = [
        f"{place(path, node)} {node.name} has {lines} lines"
        for path in python_files(*EVERYWHERE)
        for node in nodes(path, *FUNCTIONS)
        if isinstance(node, FUNCTIONS) and (lines := _code_lines(path, node)) > FUNCTION_LINES
    ]
    expect_none(too_long)


def test_files_are_small() -> None:
    """No file has more than 400 lines, no test file more than 600."""
    expect_none(
        f"{place(path)} has {lines} lines"
        for folder, limit in FILE_LINES.items()
        for path in python_files(folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    )


def test_nothing_is_nested_deeply() -> None:
    """No function goes more than three levels deep in if, for, while, try and match."""
    expect_none(
        f"{place(path, node)} is on level {LEVELS + 1}"
        for path in python_files(*EVERYWHERE)
        for function in nodes(path, *FUNCTIONS)
        for node in _too_deep(function, 0)
    )


def test_names_say_something() -> None:
    """No class is a Manager, Helper, Util, Handler or Base, or ends in Data or Info; and no module either."""
    bad_classes = [
        f"{place(path, node)} {node.name}"
        for path in python_files("src", "tools")
        for node in nodes(path, ast.ClassDef)
        if isinstance(node, ast.ClassDef) and _empty_words(node.name) and not _is_table_root(path, node)
    ]
    bad_modules = [
        place(path) for path in python_files("src", "tools") if set(path.stem.strip("_").split("_")) & EMPTY_MODULES
    ]
    expect_none(bad_classes + bad_modules)


def test_modules_say_what_they_are_for() -> None:
    """Every module begins with a sentence."""
    expect_none(
        place(path)
        for path in python_files(*EVERYWHERE)
        if parsed(path).body and not _is_sentence(ast.get_docstring(parsed(path)))
    )


def test_public_functions_and_classes_are_described() -> None:
    """Every public function and class at the top of a module has a docstring."""
    expect_none(
        f"{place(path, node)} {node.name}"
        for path in python_files("src", "tools")
        if "versions" not in path.parts
        for node in parsed(path).body
        if isinstance(node, (*FUNCTIONS, ast.ClassDef))
        and not node.name.startswith("_")
        and not _is_overload(node)
        and ast.get_docstring(node) is None
    )


def test_errors_are_not_swallowed() -> None:
    """Nobody catches everything and says nothing."""
    silent = [
        place(path, node)
        for path in python_files("src", "tools")
        for node in nodes(path, ast.ExceptHandler)
        if isinstance(node, ast.ExceptHandler) and _catches_all(node.type) and _says_nothing(node.body)
    ]
    suppressed = [
        place(path, node)
        for path in python_files("src", "tools")
        for node in nodes(path, ast.Call)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("suppress")
        and any(map(_catches_all, node.args))
    ]
    expect_none(silent + suppressed)


def test_no_test_looks_away() -> None:
    """No test is skipped or expected to fail."""
    words = {"skip", "skipif", "xfail", "importorskip", "skipTest", "skipUnless"}
    expect_none(
        place(path, node)
        for path in python_files("tests")
        for node in nodes(path, ast.Attribute)
        if isinstance(node, ast.Attribute)
        and node.attr in words
        and re.match(r"(pytest|unittest|self)\b", ast.unparse(node.value))
    )


def test_nothing_is_put_off() -> None:
    """No comment promises work for later."""
    expect_none(
        f"{place(path)}:{number}"
        for path in python_files(*EVERYWHERE)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PROMISES.search(line)
    )


def _code_lines(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    last = function.end_lineno or function.lineno
    lines = path.read_text(encoding="utf-8").splitlines()
    left_out = set[int]()
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        left_out = set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    numbers = [number for number in range(function.lineno, last + 1) if number not in left_out]
    return sum(1 for number in numbers if (text := lines[number - 1].strip()) and not text.startswith("#"))


def _too_deep(node: ast.AST, level: int) -> Iterator[ast.AST]:
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, FUNCTIONS):
                continue
            is_elif = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If) and len(value) == 1
            deeper = level + (isinstance(child, NESTING) and not is_elif)
            if deeper > LEVELS and isinstance(child, NESTING):
                yield child
            else:
                yield from _too_deep(child, deeper)


def _empty_words(name: str) -> set[str]:
    words = re.findall(r"[A-Z][a-z]+", name)
    return set(words) & EMPTY_WORDS | set(words[-1:]) & EMPTY_ENDS


def _is_table_root(path: Path, node: ast.ClassDef) -> bool:
    return node.name == "Base" and "db" in path.parts


def _is_sentence(docstring: str | None) -> bool:
    first = (docstring or "").split("\n\n")[0].strip()
    return len(first.split()) >= 3 and first.endswith((".", ":"))


def _is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", []))


def _catches_all(node: ast.expr | None) -> bool:
    return node is None or ast.unparse(node) in ("Exception", "BaseException")


def _says_nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(item, (ast.Pass, ast.Continue, ast.Break)) or _is_constant(item) for item in body)


def _is_constant(item: ast.stmt) -> bool:
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
