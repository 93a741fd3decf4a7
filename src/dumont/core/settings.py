"""Settings: everything that the environment may decide, read once at the start.

Values come from `DUMONT_*` variables (and `DATABASE_URL`), then from the env file, then from the defaults here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dumont.core.clock import Clock


class SettingsError(Exception):
    """A setting cannot be used; the message names it and says what would be accepted."""


@dataclass(frozen=True)
class Settings:
    """What the environment decided. Units are in the names; `None` means "not set"."""

    home: Path
    env_file: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8766
    sandbox_port: int = 8767
    sandbox_url: str | None = None
    sandbox_key: str | None = None
    sandbox_market: str = "slack"
    sandbox_offers: int = 300
    sandbox_seed: int = 1
    database_url: str | None = None
    database_app_url: str | None = None
    database_worker_url: str | None = None
    secret_key: str | None = None
    vast_url: str | None = None
    vast_key: str | None = None
    provider: str = "sandbox"
    store: str | None = None
    store_gb_month_usd: float | None = None
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_key_id: str | None = None
    s3_secret: str | None = None
    clock_epoch: float = 0.0
    clock_speed: float = 1.0
    poll_seconds: float = 0.2
    start_timeout_minutes: float = 10.0
    loss_seconds: float = 8.0
    sweep_seconds: float = 60.0
    charge_seconds: float = 10.0
    access_token_seconds: int = 3600
    refresh_token_seconds: int = 2_592_000
    trusted_proxies: str | None = None
    public_url: str | None = None
    pix_url: str | None = None
    pix_client_id: str | None = None
    pix_client_secret: str | None = None
    pix_webhook_secret: str | None = None
    pix_key: str | None = None
    pix_receiver: str = "DUMONT CLOUD"
    pix_city: str = "SAO PAULO"
    fx_brl_per_usd: str | None = None
    fx_date: str | None = None
    limits_url: str | None = None
    limit_open_requests_minute: int = 300
    limit_token_requests_minute: int = 600
    limit_token_requests_at_once: int = 100
    limit_registrations_hour: int = 30
    limit_sign_in_failures: int = 5
    limit_sign_in_failures_address: int = 100
    limit_sign_in_minutes: float = 15.0
    worker_concurrency: int = 200
    log_level: str = "info"

    @property
    def clock(self) -> Clock:
        """The product's clock."""
        return Clock(self.clock_epoch, self.clock_speed)


_VARIABLES = {field.name: f"DUMONT_{field.name.upper()}" for field in fields(Settings)}
_VARIABLES["database_url"] = "DATABASE_URL"
_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "sandbox_port": (0, 65535),
    "sandbox_offers": (0, 5000),
    "sandbox_seed": (0, 1_000_000_000),
    "clock_speed": (0.001, 100_000),
    "poll_seconds": (0.01, 60),
    "start_timeout_minutes": (0.05, 60),
    "loss_seconds": (0.05, 600),
    "sweep_seconds": (0.05, 3600),
    "charge_seconds": (0.05, 3600),
    "access_token_seconds": (1, 86_400),
    "refresh_token_seconds": (1, 31_536_000),
    "limit_open_requests_minute": (0, 1_000_000),
    "limit_token_requests_minute": (0, 1_000_000),
    "limit_token_requests_at_once": (0, 1_000_000),
    "limit_registrations_hour": (0, 1_000_000),
    "limit_sign_in_failures": (0, 1_000_000),
    "limit_sign_in_failures_address": (0, 1_000_000),
    "limit_sign_in_minutes": (0.02, 1440),
    "worker_concurrency": (1, 2000),
}


def load_settings(environ: Mapping[str, str] | None = None, *, env_file: Path | None = None) -> Settings:
    """Read the settings from the environment and the env file.

    The file is `env_file`, else `DUMONT_ENV_FILE`, else `.env` in the working folder where that exists.
    Errors: SettingsError for an unreadable file, an unknown `DUMONT_*` name in it, or a value out of bounds.
    """
    env = dict(os.environ if environ is None else environ)
    path = env_file or (Path(env["DUMONT_ENV_FILE"]) if env.get("DUMONT_ENV_FILE") else None)
    chosen = path or (Path(".env") if Path(".env").is_file() else None)
    merged = {**(_read_env_file(chosen) if chosen else {}), **{k: v for k, v in env.items() if v != ""}}
    values: dict[str, Any] = {
        name: _parse(name, variable, merged[variable])
        for name, variable in _VARIABLES.items()
        if name not in ("home", "env_file") and variable in merged
    }
    return Settings(home=_home(merged), env_file=chosen, **values)


def _home(env: Mapping[str, str]) -> Path:
    if env.get("DUMONT_HOME"):
        return Path(env["DUMONT_HOME"]).expanduser().absolute()
    data = env.get("XDG_DATA_HOME") or str(Path(env.get("HOME") or str(Path.home())) / ".local" / "share")
    return Path(data) / "dumont"


def _read_env_file(path: Path) -> dict[str, str]:
    from dotenv.parser import parse_stream

    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The settings file {path} cannot be read ({error}). Mend it, or point DUMONT_ENV_FILE elsewhere."
        ) from error
    for binding in bindings:
        if binding.error:
            raise SettingsError(f"Line {binding.original.line} of {path} is not NAME=value. Mend it and start again.")
    found = {b.key: b.value for b in bindings if b.key is not None and b.value is not None}
    known = {*_VARIABLES.values(), "DUMONT_ENV_FILE"}
    unknown = [name for name in found if name.startswith("DUMONT_") and name not in known]
    if unknown:
        names = ", ".join(sorted(known))
        raise SettingsError(f"{path} sets {unknown[0]}, which is not a setting. Known are: {names}.")
    return found


def _parse(name: str, variable: str, text: str) -> Any:
    kind = next(str(field.type) for field in fields(Settings) if field.name == name)
    try:
        value: Any = text
        if kind == "<class 'int'>" or kind == "int":
            value = int(text)
        elif kind == "<class 'float'>" or kind == "float":
            value = float(text)
        elif kind == "<class 'bool'>" or kind == "bool":
            value = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{variable} is {text!r}, which is not a value of the right kind ({kind}).") from error
    low, high = _BOUNDS.get(name, (float("-inf"), float("inf")))
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise SettingsError(f"{variable} is {text}; it must be between {low:g} and {high:g}.")
    return value
