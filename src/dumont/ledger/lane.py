"""One connection for postings: opened when needed, and every answer an outcome or a fault."""

import asyncio
from collections.abc import Iterable, Sequence

import psycopg

from dumont.db import KEEPALIVE, Row, Wire, open_wire, psycopg_url
from dumont.ledger.faults import Unreached
from dumont.ledger.model import Outcome, Posting
from dumont.ledger.queries import (
    BATCH,
    BUSY,
    MANY,
    PLAIN,
    account_values,
    accounts_of,
    batch_values,
    is_plain,
    many_values,
    outcomes_of,
    plain_outcome,
    plain_values,
)

LOST = (psycopg.Error, OSError, TimeoutError)
"""What `Lane` raises."""

_SETTINGS = (
    "-c lock_timeout={lock} -c statement_timeout={statement} -c jit=off "
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
)
"""Plans are kept and rest on keys, as in the functions that say so themselves, which costs a tenth of a posting."""


class Lane:
    """A connection that posts what it is given, each call a transaction of its own in one round trip.

    Calls at once take turns; what one has to send is made ready while another is under way.
    """

    def __init__(
        self, url: str, *, lock_timeout_ms: int = 250, statement_timeout_ms: int = 5_000, silence_seconds: float = 8.0
    ) -> None:
        self._url = psycopg_url(url)
        self._options = _SETTINGS.format(lock=lock_timeout_ms, statement=statement_timeout_ms)
        self._silence = silence_seconds
        self._wire: Wire | None = None
        self._turn = asyncio.Lock()
        self._callers = 0

    async def post(self, postings: Sequence[Posting]) -> list[Outcome]:
        """Post a batch, whose keys must differ, and commit it.

        Errors: psycopg's, OSError and TimeoutError, for `faults.classify`; the next call has another connection.
        """
        if not all(map(is_plain, postings)):
            return outcomes_of(postings, await self._send(BATCH, batch_values(postings)))
        if len(postings) == 1:
            return [plain_outcome(postings[0], await self._send(PLAIN, plain_values(postings[0])))]
        return outcomes_of(postings, await self._send(MANY, many_values(postings)))

    async def busy(self, accounts: Iterable[str]) -> set[str]:
        """Return which of the accounts somebody has locked, without waiting for any; one that is not there is not.

        Errors: as for `post`.
        """
        return accounts_of(await self._send(BUSY, account_values(accounts)))

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _send(self, statement: bytes, values: Sequence[bytes | None]) -> Sequence[Row]:
        self._callers += 1
        try:
            async with self._turn:
                if self._wire is None or self._wire.has_ended():
                    await self.close()
                    self._wire = await self._open()
                rows = await self._wire.call(statement, values, seconds=self._silence)
            if self._callers > 1:
                await asyncio.sleep(0)  # What waits is sent before this answer is read.
            return rows
        finally:
            self._callers -= 1

    async def _open(self) -> Wire:
        try:
            return await open_wire(
                self._url,
                options=self._options,
                application_name="dumont-ledger",
                client_encoding="UTF8",
                **KEEPALIVE,
            )
        except (psycopg.Error, OSError) as error:
            raise Unreached(str(error)) from error
