"""Starts a sandbox from the command line: `python -m dumont.sandbox --home DIR --port N`."""

import argparse
import logging
import sys
from pathlib import Path

from dumont.core import Clock
from dumont.sandbox.server import run
from dumont.sandbox.settings import SandboxRefused, SandboxSettings


def main(arguments: list[str] | None = None) -> int:
    """Run a sandbox in the foreground; return 2 with one sentence on stderr when it cannot start."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = SandboxSettings(
        home=options.home.absolute(),
        port=options.port,
        host=options.host,
        key=options.key,
        clock=Clock(options.epoch, options.speed),
        credit_usd=options.credit,
        start_seconds=options.start_seconds,
        root_ok=options.root_ok,
        watch_stdin=options.watch_stdin,
        rate_limits=options.rate_limits,
    )
    try:
        run(settings)
    except SandboxRefused as refusal:
        print(refusal, file=sys.stderr)  # noqa: T201 - the command line's own voice
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dumont.sandbox", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder for records and machines")
    parser.add_argument("--port", type=int, default=8767, help="port of the API; 0 for any free one")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--key", help="API key; by default one is made and kept in api.key")
    parser.add_argument("--epoch", type=float, default=0.0, help="epoch of product time, Unix seconds")
    parser.add_argument("--speed", type=float, default=1.0, help="product seconds per real second")
    parser.add_argument("--credit", default="500", help="dollars that the account starts with")
    parser.add_argument("--start-seconds", type=float, default=0.2, help="real seconds that a machine loads")
    parser.add_argument("--root-ok", action="store_true", help="allow to run as root")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when stdin ends")
    parser.add_argument("--rate-limits", action="store_true", help="enforce the documented call intervals")
    return parser


if __name__ == "__main__":
    sys.exit(main())
