"""What is written agrees with what is there: documents, locks, words, commands; nothing points at one machine."""

import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from tests.tidy.tree import ROOT, SRC, expect_none, place, python_files, rooms, text_files

from dumont.core import Settings

FOREIGN = re.compile(
    r"/wor[k]/|/opt/whee[l]s|/opt/py[p]i|\.pyen[v]/|"
    r"\bpypi[.]org|pythonhosted[.]org|registry[.]npmjs|deb[.]debian[.]org|crates[.]io|proxy[.]golang"
)
LOCKS = {"requirements.in": "requirements.lock", "requirements-test.in": "requirements-test.lock"}
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?:\s*;.*?)?\s*\\\n((?:\s+--hash=sha256:[0-9a-f]{64}\s*\\?\n?)+)", re.M)
FIXED_NAMES = {"database_url": "DATABASE_URL"}


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_nothing_points_at_one_machine() -> None:
    """No tracked file names a folder of the machine it was written on, or a package registry's host."""
    expect_none(
        f"{place(path)}:{number}: {found.group(0)}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if (found := FOREIGN.search(line))
    )


def test_nothing_reaches_outside_the_checkout() -> None:
    """The code, the tests and the scripts need no folder beside this one."""
    beside = re.compile(r"\.\./shar[e]d|parents\[\d\] / .shar[e]d")
    files = [*python_files("src", "tests", "tools"), ROOT / "run", ROOT / "test", ROOT / ".ci/run"]
    expect_none(place(path) for path in files if beside.search(path.read_text(encoding="utf-8")))


def test_locks_are_in_step() -> None:
    """Every name in an .in file is pinned with hashes in its lock; the test lock holds all of the run lock; no URLs."""
    for source, lock in LOCKS.items():
        text = _read(lock)
        pinned = {_canonical(name) for name, _version, _hashes in PINNED.findall(text)}
        assert "://" not in text, f"{lock} names an address"
        expect_none(f"{lock} does not pin {name}" for name in _named_in(source) if name not in pinned)
        entries = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
        assert len(entries) == len(PINNED.findall(text)), f"{lock} has an entry without version or hash"
    run, test = ({(n, v) for n, v, _ in PINNED.findall(_read(lock))} for lock in LOCKS.values())
    assert run <= test, f"not in the test lock: {run - test}"


def _named_in(source: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in _read(source).splitlines()]
    return [_canonical(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines if line and not line.startswith("-")]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_setting_is_documented() -> None:
    """docs/howto/settings.md has a row for each setting, with the default that the code has."""
    found = re.findall(r"^\| `([A-Z0-9_]+)` \| ([^|]+) \|", _read("docs/howto/settings.md"), re.M)
    rows = {name: default.strip().strip("`") for name, default in found}
    for setting in fields(Settings):
        variable = FIXED_NAMES.get(setting.name, f"DUMONT_{setting.name.upper()}")
        assert variable in rows, f"{variable} is not documented"
        if setting.default is not MISSING and setting.default is not None:
            shown = str(int(setting.default) if isinstance(setting.default, bool) else setting.default)
            assert rows[variable] == shown, f"{variable}: the default is {shown}"


def test_every_variable_in_the_code_is_documented() -> None:
    """Nothing reads a DUMONT_ variable that the documents are silent about."""
    documented = set(re.findall(r"`(DUMONT_[A-Z_]+)`", _read("docs/howto/settings.md")))
    expect_none(
        f"{place(path)} names {name}"
        for path in python_files("src")
        for name in re.findall(r"[\"'](DUMONT_[A-Z_]*[A-Z])[\"']", path.read_text(encoding="utf-8"))
        if name not in documented
    )


def test_every_room_is_in_the_vocabulary_and_on_the_map() -> None:
    """A room's name is a word of the house, and ARCHITECTURE.md shows its place."""
    words, architecture = _vocabulary(), _read("docs/ARCHITECTURE.md")
    expect_none(f"{room} is not in VOCABULARY.md" for room in rooms() if room not in words["Rooms"])
    expect_none(f"{room} is not in ARCHITECTURE.md" for room in rooms() if not re.search(rf"`{room}`", architecture))
    later = set(re.findall(r"`(\w+)`", architecture.partition("Not here yet:")[2].partition("\n\n")[0]))
    expect_none(f"{room} is here, and ARCHITECTURE.md says it is not" for room in rooms() if room in later)


def test_the_vocabulary_lives() -> None:
    """Each word of the house is said in the code, once in the list, in one line."""
    code = "\n".join(path.read_text(encoding="utf-8").lower() for path in python_files("src"))
    words = _vocabulary()
    expect_none(f"no code says {word!r}" for word in words["Words"] if not _is_said(word, code))
    for section, names in words.items():
        assert len(names) == len(set(names)), f"a word is twice in {section}"
        assert names == sorted(names, key=str.lower), f"{section} is not in alphabetical order"


def _vocabulary() -> dict[str, list[str]]:
    parts = re.split(r"^## (.+)$", _read("docs/VOCABULARY.md"), flags=re.M)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {title: re.findall(r"^\| ([^|]+?) \|", body, re.M)[1:] for title, body in pairs}


def _is_said(word: str, code: str) -> bool:
    pattern = r"[ _-]?".join(re.escape(part) for part in re.split("[ -]", word.lower()))
    return re.search(pattern, code) is not None


def test_the_commands_of_the_readme_exist() -> None:
    """Every `./script` and every `dumont command` in the README's blocks is there."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", _read("README.md"), re.M | re.S))
    for script in set(re.findall(r"^\s*\$? ?\./(\w+)", blocks, re.M)):
        assert (ROOT / script).stat().st_mode & 0o100, f"./{script} cannot be run"
    commands = set(re.findall(r"^\s*\$? ?(?:\.venv/bin/)?dumont (\w+)", blocks, re.M))
    assert commands
    program = "import sys; from dumont.app.main import main; sys.exit(main())"
    shown = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    expect_none(f"no command {name}" for name in commands if not re.search(rf"\b{name}\b", shown.stdout))


def test_decisions_are_numbered_and_whole() -> None:
    """Decisions are numbered without gaps and each says the context, the decision and what follows."""
    files = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]} "), place(path)
        for heading in ("## Context", "## Decision", "## What follows"):
            assert heading in text, f"{place(path)} lacks {heading!r}"


def test_links_in_the_documents_lead_somewhere() -> None:
    """Every relative link in a Markdown file points at a file that is there."""
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    expect_none(
        f"{place(path)}: {target}"
        for path in documents
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    )


def test_the_package_is_the_one_in_the_tree() -> None:
    """The tests import this checkout's own source."""
    import dumont

    assert Path(dumont.__file__ or "").parent == SRC
