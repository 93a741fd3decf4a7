"""A worker that looks into notices and is killed on the way: `mortal_till.py credited|committed`."""

import asyncio
import os
import signal
import sys
from typing import Any

from dumont.billing import TopupDesk, topups_turn, topups_workflows
from dumont.core import Clock
from dumont.db import Database
from dumont.payments import PixService


async def main() -> None:
    """Do one turn, and die in it."""
    database = Database(os.environ["MORTAL_URL"], pool_size=2)
    secrets = {"client_id": "a", "client_secret": os.environ["MORTAL_KEY"], "webhook_secret": ""}
    service = PixService(os.environ["MORTAL_PSP"], **secrets, key="k", receiver="r", city="c")
    end_notice = topups_workflows.queries.end_notice

    async def die(*arguments: Any) -> None:
        await end_notice(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.argv[1] == "credited":
        topups_workflows.queries.end_notice = die
    await topups_turn(database, TopupDesk(service, None, Clock()))
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main())
