"""Make what tests share importable, and load the plugins that exist."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

_PLUGINS = ("postgres", "checklist", "sandbox")
pytest_plugins = [f"tests.support.{name}" for name in _PLUGINS if (_ROOT / "tests/support" / f"{name}.py").is_file()]
