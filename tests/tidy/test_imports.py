"""The arrows of the house: down the tower, through the door, and in one order inside a slice."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import ROOT, SRC, expect_none, imported_modules, parsed, place, python_files, rooms

DIETS = {
    "core": set[str](),
    "vault": {"core"},
    "agent": {"core", "vault"},
    "client": {"core"},
    "cli": {"core", "client"},
    "sandbox": {"core"},
}
SLICE_ORDER = ("model", "queries", "service", "workflows", "api")


def test_rooms_import_only_lower_floors() -> None:
    """The tower in pyproject.toml holds, directly and through others, and every room has a floor in it."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rooms_are_entered_by_their_door() -> None:
    """Other rooms import `dumont.x`, never a file inside it; `core` is open."""
    expect_none(f"{where} imports {what}" for where, what in _side_doors())


def test_only_app_knows_the_sandbox() -> None:
    """The marketplace stand-in stays exchangeable: nothing but the entry point names it."""
    known = [
        place(path, node)
        for path in python_files("src/dumont")
        for node, module, names in imported_modules(path)
        if _room(module, names) == "sandbox" and path.relative_to(SRC).parts[0] not in ("app", "sandbox")
    ]
    expect_none(known)


def test_narrow_rooms_keep_their_diet() -> None:
    """Rooms that travel (to rented machines, into the quick CLI) import only what they may."""
    expect_none(
        f"{place(path, node)} imports dumont.{target}"
        for room, allowed in DIETS.items()
        for path in python_files(f"src/dumont/{room}")
        for node, module, names in imported_modules(path)
        if (target := _room(module, names)) is not None and target not in allowed | {room}
    )


def test_slices_keep_their_order() -> None:
    """Inside a room: model, queries, service, workflows, api; an earlier one never reaches a later one."""
    expect_none(sentence for room in rooms() for sentence in _upward(room))


def _room(module: str, names: tuple[str, ...]) -> str | None:
    parts = module.split(".")
    if parts[0] != "dumont":
        return None
    if len(parts) > 1:
        return parts[1]
    return next((name for name in names if name in rooms()), None)


def _side_doors() -> Iterator[tuple[str, str]]:
    for path in python_files("src/dumont"):
        own = path.relative_to(SRC).parts[0]
        for node, module, names in imported_modules(path):
            yield from ((place(path, node), what) for what in _past_the_door(own, module, names))


def _past_the_door(own: str, module: str, names: tuple[str, ...]) -> list[str]:
    parts = module.split(".")
    if parts[0] != "dumont" or len(parts) < 2 or parts[1] in (own, "core"):
        return []
    if len(parts) > 2:
        return [module]
    return [f"{module}.{name}" for name in names if _is_inner_file(parts[1], name)]


def _is_inner_file(room: str, name: str) -> bool:
    exists = (SRC / room / f"{name}.py").is_file() or (SRC / room / name).is_dir()
    return exists and name not in _exported(room)


def _exported(room: str) -> set[str]:
    for node in parsed(SRC / room / "__init__.py").body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def _upward(room: str) -> Iterator[str]:
    edges = {path.stem: _neighbours(room, path) for path in (SRC / room).glob("*.py") if path.stem != "__init__"}
    for rank, name in enumerate(SLICE_ORDER):
        for later in SLICE_ORDER[rank + 1 :]:
            if name in edges and later in _reachable(name, edges):
                yield f"dumont.{room}.{name} reaches dumont.{room}.{later}"


def _neighbours(room: str, path: Path) -> set[str]:
    found = set[str]()
    for _node, module, names in imported_modules(path):
        parts = module.split(".")
        if parts[:2] == ["dumont", room]:
            found |= {parts[2]} if len(parts) > 2 else set(names)
    return found


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen, waiting = set[str](), [start]
    while waiting:
        for name in edges.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen
