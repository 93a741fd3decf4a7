"""Parts of a snapshot: what paths and patterns mean, and what a reader of the part still finds to be a sound tree."""

import random

import pytest

from dumont.vault import Choice, Entry, Kind, check_entries, choose, chosen_entries
from dumont.vault.errors import NotInSnapshot


def entry(path: str, kind: Kind = Kind.FILE, **more: int) -> Entry:
    return Entry(path.encode(), kind, 0o644, 0, 0, 0, **more)


TREE = [
    *(entry("a", Kind.FOLDER), entry("a/b", Kind.FOLDER), entry("a/b/deep.py", group=1), entry("a/b/x.txt")),
    *(entry("a/one.py"), entry("a/two.py", group=2), entry("lit[e]ral*"), entry("olá", group=2)),
    *(entry("z", Kind.FOLDER), entry("z/one.py", group=1)),
]
MEANT = {
    "a/one.py": ["a/one.py"],
    "a/b": ["a/b", "a/b/deep.py", "a/b/x.txt"],
    "a/*.py": ["a/one.py", "a/two.py"],
    "*/*.py": ["a/one.py", "a/two.py", "z/one.py"],
    "**/*.py": ["a/b/deep.py", "a/one.py", "a/two.py", "z/one.py"],
    "a/**": ["a/b", "a/b/deep.py", "a/b/x.txt", "a/one.py", "a/two.py"],
    "**/b/**/x.*": ["a/b/x.txt"],
    "?/[no]*": ["a/one.py", "z/one.py"],
    "ol?": ["olá"],
    "lit[e]ral*": ["lit[e]ral*"],
}


@pytest.mark.parametrize("pattern", MEANT)
def test_what_a_path_or_pattern_means(pattern: str) -> None:
    """`*` stays within a name, `**` does not; a name with such letters is meant before any pattern."""
    assert [one.path.decode() for one in chosen_entries(TREE, [pattern])] == MEANT[pattern]


def test_what_fits_nothing_is_named() -> None:
    with pytest.raises(NotInSnapshot) as failed:
        chosen_entries(TREE, ["a", "b", "*/three.py", "a/one.py/x"])
    assert failed.value.paths == ["b", "*/three.py", "a/one.py/x"]


@pytest.mark.parametrize("seed", range(8))
def test_every_part_is_a_sound_tree(seed: int) -> None:
    """Whatever is chosen, wherever it goes: the rules of manifests hold, and every place is in it."""
    draw = random.Random(seed)
    paths = tuple(draw.sample(sorted(MEANT), draw.randint(0, 3)))
    for into in ("", "new", "new/er/place"):
        for swap in (False, True):
            found = choose(TREE, Choice(paths, into, swap))
            check_entries(found.entries)
            known = {one.path for one in found.entries}
            assert known.issuperset(found.places)
            below = [p for p in found.places if any(p.startswith(q + b"/") for q in found.places)]
            assert not (swap and below), "what is replaced lies below nothing else that is"


def test_hard_links_within_a_part_stay_and_others_end() -> None:
    """Numbered as a scan of the part numbers them."""
    groups = {one.path: one.group for one in choose(TREE, Choice(("a",))).entries}
    assert set(groups.values()) == {0}
    groups = {
        one.path: one.group for one in choose([*TREE[:-1], TREE[-1].changed()], Choice(("a/two.py", "olá"))).entries
    }
    assert groups == {b"a": 0, b"a/two.py": 1, "olá".encode(): 1}


def test_everything_into_a_folder_is_that_folder() -> None:
    """Replaced as one; merged, each path for itself. With nothing to restore the folder comes all the same."""
    assert choose(TREE, Choice((), "in/to", True)).places == [b"in/to"]
    assert len(choose(TREE, Choice((), "in/to")).places) == len(TREE)
    assert choose([], Choice((), "in/to")).places == [b"in/to"]
    assert Choice((), "", True).whole and not Choice((), "", False).whole
