"""A worker that charges meters and is killed on the way: `mortal_meters.py intended|posted`."""

import asyncio
import os
import signal
import sys
from datetime import datetime
from typing import Any

from dumont.billing import Metering, meter_queries
from dumont.core import Clock
from dumont.db import Database
from dumont.ledger import Lane, Writer


class StandingClock(Clock):
    """A clock that stands at the moment that the environment names."""

    def now(self) -> datetime:
        """Return that moment."""
        return datetime.fromisoformat(os.environ["MORTAL_NOW"])


async def die(*arguments: Any) -> Any:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    """Charge what is due, and die in it."""
    url = os.environ["MORTAL_URL"]
    writer = Writer(Lane(url))
    if sys.argv[1] == "intended":
        writer.post_batch = die  # type: ignore[method-assign]
    else:
        meter_queries.charged = die
    await Metering(Database(url, pool_size=2), StandingClock(), writer).run()


asyncio.run(main())
