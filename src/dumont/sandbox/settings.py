"""What a sandbox is started with, and the one error for a start that cannot be."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dumont.core import Clock

MARKETS = ("slack", "busy", "still")


class SandboxRefused(Exception):
    """The sandbox cannot start; the message is one sentence for a person."""


@dataclass(frozen=True)
class SandboxSettings:
    """Where the sandbox lives and how it behaves.

    `offers` is about how many the market shows, 0 the small fixed catalogue; `market` is its weather: still, slack or
    busy; `traces` are bindings of traces. Units: `start_seconds` in real seconds; port 0 is any free one.
    """

    home: Path
    port: int = 8767
    host: str = "127.0.0.1"
    key: str | None = None
    clock: Clock = field(default_factory=Clock)
    credit_usd: str = "500"
    start_seconds: float = 0.2
    root_ok: bool = False
    watch_stdin: bool = False
    rate_limits: bool = False
    max_machines: int = 300
    seed: int = 1
    offers: int = 300
    market: str = "slack"
    traces: tuple[dict[str, Any], ...] = ()
    faults: tuple[dict[str, Any], ...] = ()

    def check(self) -> None:
        """Refuse what would be unsafe or is unknown.

        Errors: SandboxRefused for a host that is not loopback, for root without `root_ok`, and for unknown weather.
        """
        if self.market not in MARKETS:
            raise SandboxRefused(f"There is no market called {self.market}; choose one of {', '.join(MARKETS)}.")
        if not _is_loopback(self.host):
            raise SandboxRefused(f"The sandbox listens on loopback only; {self.host} is not a loopback address.")
        if os.getuid() == 0 and not self.root_ok:
            raise SandboxRefused(
                "The sandbox does not run as root, because its machines run real commands; pass --root-ok to allow it."
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
