"""The command line as people run it: another process, its own home, a server that speaks the API."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.client.server import PASSWORD, Api, serving

from dumont.cli.app import app


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        return json.loads(self.err)


@dataclass
class Dumont:
    """Runs commands; `environ` is added to a bare environment."""

    home: Path
    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)

    def env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(self.cwd), "DUMONT_HOME": str(self.home), "TZ": "UTC", **self.environ}

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "dumont.cli", *args]

    def __call__(self, *args: str, stdin: str = "") -> Done:
        """Run a command in this process: the same code, without the cost of a start."""
        nothing = {name: None for name in os.environ if name.startswith("DUMONT_")}
        with chdir(self.cwd):
            done = CliRunner().invoke(app, args, input=stdin, env={**nothing, **self.env()})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def process(self, *args: str, stdin: str = "") -> Done:
        """Run a command as a process of its own."""
        done = subprocess.run(
            self.command(*args),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env(),
            cwd=self.cwd,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def write_profile(self, **members: Any) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "cli.json").write_text(json.dumps(members), encoding="utf-8")

    @property
    def profile(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "cli.json").read_text(encoding="utf-8"))
        return found


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as running:
        yield running


@pytest.fixture
def nobody(tmp_path: Path, api: Api) -> Dumont:
    """A person who has not signed in."""
    return Dumont(tmp_path / "home", tmp_path, {"DUMONT_URL": api.url})


@pytest.fixture
def dumont(nobody: Dumont, api: Api) -> Dumont:
    """A person with the profile that the server's first run writes: user and password, no token yet."""
    nobody.environ = {}
    nobody.write_profile(url=api.url, user="ana@x.org", password=PASSWORD)
    return nobody
