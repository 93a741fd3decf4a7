"""Paths as people write them: below `/workspace`, wherever that lies on a machine, and never out of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import StringConstraints

from dumont.http import Line
from dumont.snapshots.model import PathNotAllowed

if TYPE_CHECKING:
    from dumont.vault import Choice

ROOT = "/workspace"
"""What people call the workspace, wherever it lies on a machine."""
PathText = Annotated[Line, StringConstraints(min_length=1, max_length=1024)]
_OWN = ".dumont"


def workspace_path(text: str) -> str:
    """Return a path relative to the workspace, "." for all of it.

    Errors: PathNotAllowed for one that does not lie in the workspace.
    """
    path = text.removeprefix(ROOT) if text == ROOT or text.startswith(f"{ROOT}/") else text
    if text.startswith("/") and path == text:
        raise PathNotAllowed(f"Paths lie in the workspace: write {ROOT}/NAME, or NAME alone.")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PathNotAllowed("A path may not lead out of the workspace.")
    return "/".join(parts) or "."


def workspace_paths(texts: Sequence[str]) -> list[str]:
    """Return paths relative to the workspace, in order, each once; all of it swallows the others."""
    found = list(dict.fromkeys(workspace_path(text) for text in texts))
    return ["."] if "." in found else found


def choice_of(paths: Sequence[str], target_path: str = ROOT, *, replace: bool = False) -> "Choice":
    """Return what of a snapshot paths and patterns mean, and the folder they are to go to.

    Errors: PathNotAllowed.
    """
    from dumont.vault import Choice

    chosen = tuple(path for path in workspace_paths(paths) if path != ".")
    into = workspace_path(target_path)
    if into.startswith(_OWN):
        raise PathNotAllowed(f"Names that begin with {_OWN} are the product's own. Choose another folder.")
    return Choice(chosen, "" if into == "." else into, replace)
