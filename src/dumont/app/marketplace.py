"""The sandbox marketplace as a child process: it lives and dies with us, its machines' folders stay."""

import fcntl
import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from dumont.app.home import StartError
from dumont.core import Settings
from dumont.sandbox import SandboxControl

START_SECONDS = 20.0
END_SECONDS = 15.0
HOST = "127.0.0.1"


@dataclass
class Marketplace:
    """A running sandbox. `control_token` opens its private endpoints for the demo and for tests."""

    process: subprocess.Popen[bytes]
    url: str
    key: str

    def stop(self) -> None:
        """End it the clean way: it sees its stdin close, stops the machines' processes and closes their bills."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def check_marketplace(settings: Settings) -> None:
    """Wait until a killed product's sandbox has put its machines away, and see that its port is free.

    Errors: StartError.
    """
    until = time.monotonic() + END_SECONDS
    while _runs(settings) and time.monotonic() < until:
        time.sleep(0.05)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, settings.sandbox_port))
        except OSError as error:
            raise StartError(
                f"Port {settings.sandbox_port} on {HOST}, which the sandbox marketplace needs, cannot be used "
                f"({error.strerror}). Stop what uses it, or set DUMONT_SANDBOX_PORT to another one."
            ) from error


def _runs(settings: Settings) -> bool:
    """Tell whether a sandbox holds the lock of this home."""
    try:
        with (settings.home / "sandbox" / "lock").open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def start_marketplace(settings: Settings, *, root_ok: bool) -> Marketplace:
    """Start the sandbox and wait until it answers.

    Errors: StartError with the sandbox's own sentence.
    """
    command = [sys.executable, "-m", "dumont.sandbox", "--watch-stdin"]
    command += ["--home", str(settings.home / "sandbox"), "--port", str(settings.sandbox_port)]
    command += ["--epoch", repr(settings.clock_epoch), "--speed", repr(settings.clock_speed)]
    command += ["--market", settings.sandbox_market, "--offers", str(settings.sandbox_offers)]
    command += ["--seed", str(settings.sandbox_seed)]
    if root_ok:
        command.append("--root-ok")
    log = (settings.home / "sandbox.log").open("ab")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    log.close()
    line = _first_line(process)
    if line is None:
        process.kill()
        process.wait()
        lines = (settings.home / "sandbox.log").read_text(errors="replace").strip().splitlines()
        raise StartError(f"The sandbox marketplace did not start: {lines[-1] if lines else 'it said nothing.'}")
    key = (settings.home / "sandbox" / "api.key").read_text().strip()
    return Marketplace(process, str(json.loads(line)["url"]), key)


def _first_line(process: "subprocess.Popen[bytes]") -> bytes | None:
    assert process.stdout is not None
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        readable, _, _ = select.select([process.stdout], [], [], 0.2)
        if readable:
            return process.stdout.readline() or None
        if process.poll() is not None:
            return None
    return None


def control(settings: Settings, url: str) -> SandboxControl:
    """Open the private endpoints of the installation's own sandbox."""
    token = (settings.home / "sandbox" / "control.token").read_text().strip()
    return SandboxControl(url, token)
