"""Starts a sandbox from the command line: `python -m dumont.sandbox --home DIR --port N`."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from dumont.core import Clock
from dumont.sandbox.scenario import with_scenario
from dumont.sandbox.server import run
from dumont.sandbox.settings import MARKETS, SandboxRefused, SandboxSettings


def main(arguments: list[str] | None = None) -> int:
    """Run a sandbox in the foreground; return 2 with one sentence on stderr when it cannot start."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        run(_settings(options))
    except SandboxRefused as refusal:
        print(refusal, file=sys.stderr)  # noqa: T201 - the command line's own voice
        return 2
    return 0


def _settings(options: argparse.Namespace) -> SandboxSettings:
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
        seed=options.seed,
        offers=options.offers,
        market=options.market,
        traces=tuple(_binding(path) for path in options.trace),
    )
    return settings if options.scenario is None else with_scenario(settings, options.scenario)


def _binding(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SandboxRefused(f"{path} cannot be read as the binding of a trace: {error}.") from error
    if not isinstance(document, dict):
        raise SandboxRefused(f"{path} must hold one JSON object, the binding of a trace.")
    return document


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
    parser.add_argument("--seed", type=int, default=1, help="what the market is made from")
    parser.add_argument("--offers", type=int, default=300, help="about how many offers; 0 for a small fixed catalogue")
    parser.add_argument("--market", default="slack", help=f"weather: {', '.join(MARKETS)}")
    parser.add_argument("--scenario", type=Path, metavar="FILE", help="JSON file with seed, clock, market and faults")
    parser.add_argument(
        "--trace", type=Path, action="append", default=[], metavar="FILE", help="JSON file with a trace's binding"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
