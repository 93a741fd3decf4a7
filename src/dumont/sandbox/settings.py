"""What a sandbox is started with, and the one error for a start that cannot be."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from dumont.core import Clock


class SandboxRefused(Exception):
    """The sandbox cannot start; the message is one sentence for a person."""


@dataclass(frozen=True)
class SandboxSettings:
    """Where the sandbox lives and how it behaves. Units: `start_seconds` in real seconds; port 0 is any free one."""

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
    max_machines: int = 50

    def check(self) -> None:
        """Refuse what would be unsafe.

        Errors: SandboxRefused for a host that is not loopback, and for root without `root_ok`.
        """
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
