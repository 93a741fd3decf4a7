"""What the sandbox is made of, put together once and handed to both of its HTTP faces."""

import asyncio
import math
import secrets
import time
from collections import OrderedDict

from dumont.sandbox.billing import MICRO
from dumont.sandbox.catalogue import Offer, fixed
from dumont.sandbox.documents import instance_document, offer_document
from dumont.sandbox.faults import Faults
from dumont.sandbox.folders import Folders
from dumont.sandbox.machines import Fleet
from dumont.sandbox.market import Market
from dumont.sandbox.settings import SandboxSettings
from dumont.sandbox.store import Rental, Store

_MEASURE_SECONDS = 5.0
_KEPT_LOGS = 100


class Parts:
    """The organs of one sandbox, and the few answers that need several of them."""

    def __init__(self, settings: SandboxSettings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.faults = Faults()
        self.folders = Folders(settings.home)
        self.market = Market(settings, store, self.faults)
        self.fleet = Fleet(settings, store, self.folders, self.market, self.faults)
        sample = fixed()[0]
        offer = Offer(0, sample, sample.slices()[0], sample.gpu_hour, sample.gpu_hour)
        self.offer_fields = frozenset(offer_document(offer, 0.0, gigabytes=8, bid=False))
        self._usage: dict[int, float] = {}
        self._measure_at: dict[int, float] = {}
        self._measuring: set[asyncio.Task[None]] = set()
        self._logs: OrderedDict[str, str] = OrderedDict()

    def now_s(self) -> float:
        """Return product time in seconds."""
        return self.market.now_us() / MICRO

    def instance(self, rental: Rental) -> dict[str, object]:
        """Return the document of a living instance."""
        self._measure(rental.id)
        return instance_document(
            rental,
            self.now_s(),
            offline=rental.box_id in self.store.dead_boxes(),
            host=self.settings.host,
            workspace=str(self.folders.workspace(rental.id)),
            disk_usage=self._usage.get(rental.id, -1),
            load=self.folders.load(rental.id),
        )

    def keep_log(self, number: int, tail: int) -> str:
        """Put the last lines of a container log aside and return the word under which they can be fetched."""
        path = self.folders.log_path(number)
        lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
        token = secrets.token_urlsafe(24)
        self._logs[token] = "".join(lines[-tail:]) if tail > 0 else ""
        while len(self._logs) > _KEPT_LOGS:
            self._logs.popitem(last=False)
        return token

    def kept_log(self, token: str) -> str | None:
        """Return a log that was put aside, or None."""
        return self._logs.get(token)

    def _measure(self, number: int) -> None:
        """Count a machine's files again in the background when the last count is old."""
        if time.monotonic() < self._measure_at.get(number, 0.0):
            return
        self._measure_at[number] = math.inf

        async def count() -> None:
            begun = time.monotonic()
            self._usage[number] = await asyncio.to_thread(self.folders.usage, number)
            # Large workspaces are counted more rarely, so that counting never takes more than a few per cent.
            taken = time.monotonic() - begun
            self._measure_at[number] = time.monotonic() + max(_MEASURE_SECONDS, 50 * taken)

        task = asyncio.create_task(count())
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)
