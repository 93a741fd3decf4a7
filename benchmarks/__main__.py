"""`python -m benchmarks [NAME ...] [--json] [--quick]`: measure, and say what was measured."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from benchmarks import api, command, faults, fleet, instances, ledger, posts, start, vault, watch, work
from benchmarks.installation import Laboratory
from benchmarks.metrics import Metric, Report, load_note

Measure = Callable[[Laboratory, bool], Iterator[Metric]]
NAMES: dict[str, tuple[Measure, ...]] = {
    "start": (start.measure,),
    "api": (api.measure, command.measure, work.measure),
    "cli": (command.measure,),
    "work": (work.measure,),
    "instances": (instances.measure, fleet.measure, watch.measure),
    "fleet": (fleet.measure,),
    "watch": (watch.measure,),
    "ledger": (posts.measure, ledger.measure),
    "faults": (faults.measure,),
    "vault": (vault.measure,),
}
"""A name and what it measures; without a name, `start` and `api`."""


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for and return 0; an error that broke a benchmark passes through as a traceback."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; default: start api")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="a tiny form that shows that everything can be measured")
    parser.add_argument("--seed", type=int, help="faults: replay this seed alone, and say where its log is")
    parser.add_argument("--seeds", type=int, default=faults.SEEDS, metavar="N", help="faults: run N seeds")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="faults: begin with this seed")
    parser.add_argument("--short", action="store_true", help="faults: the short plans that ./test runs")
    parser.add_argument(
        "--megabytes", type=int, default=vault.MEGABYTES, metavar="N", help="vault: size of the workspace"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(NAMES)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that all is cleared away
    report = Report(sys.stdout, as_json=options.json)
    report.note(load_note())
    measures: dict[Measure, None] = dict.fromkeys(m for name in options.names or ["start", "api"] for m in NAMES[name])
    wish = faults.Wish(options.seed, options.seeds, options.short, options.first)
    wished: dict[Measure, Measure] = {
        faults.measure: partial(faults.measure, wish=wish),
        vault.measure: partial(vault.measure, megabytes=options.megabytes),
    }
    with Laboratory() as laboratory:
        for metric in chain.from_iterable(wished.get(m, m)(laboratory, options.quick) for m in measures):
            report.show(metric)
    report.note(load_note())
    return 0


if __name__ == "__main__":
    sys.exit(main())
