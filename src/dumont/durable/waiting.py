"""Reads of a workflow that wait while the database is away, instead of failing what was begun."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from dumont.db import DatabaseUnavailable

log = structlog.get_logger()
Read = TypeVar("Read")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0


async def patiently(about: str, read: Callable[[], Awaitable[Read]]) -> Read:
    """Return what a read gives; while the database is away it is made again, after pauses that grow to 3 seconds.

    For every read of a workflow outside of its steps: an error there would be taken for the workflow's own end.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return await read()
        except DatabaseUnavailable as error:
            log.info("a workflow waits for the database", about=about, error=repr(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
