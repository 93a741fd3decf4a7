"""What the sandbox is made of, put together once and handed to both of its HTTP faces."""

import asyncio
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from dumont.sandbox.billing import MICRO
from dumont.sandbox.catalogue import Offer, fixed
from dumont.sandbox.clock import DrivenClock
from dumont.sandbox.documents import instance_document, lingering, offer_document, stored_columns
from dumont.sandbox.faults import Faults
from dumont.sandbox.folders import Folders
from dumont.sandbox.journal import Journal
from dumont.sandbox.listing import Row
from dumont.sandbox.machines import Fleet
from dumont.sandbox.market import Market
from dumont.sandbox.settings import SandboxSettings
from dumont.sandbox.store import Rental, Store
from dumont.sandbox.troubles import Troubles

_MEASURE_SECONDS = 5.0
_KEPT_RESULTS = 100
_CLOCK = "clock"


class Parts:
    """The organs of one sandbox, and the few answers that need several of them."""

    def __init__(self, settings: SandboxSettings, store: Store) -> None:
        self.clock = DrivenClock(settings.clock, store.meta(_CLOCK))
        if settings.clock.epoch:
            store.set_meta(_CLOCK, self.clock.state())
        self.settings = replace(settings, clock=self.clock)
        self.store = store
        self.journal = Journal(settings.home / "journal.jsonl", self.clock.seconds)
        self.faults = Faults(self.journal, self.clock.seconds, settings.seed)
        self.folders = Folders(settings.home)
        self.market = Market(self.settings, store)
        self.troubles = Troubles(self.faults, self.clock, store, self.folders)
        self.fleet = Fleet(self.settings, store, self.folders, self.market, self.troubles, self.journal, self.clock)
        self.troubles.fleet = self.fleet
        sample = fixed()[0]
        offer = Offer(0, sample, sample.slices()[0], sample.gpu_hour, sample.gpu_hour)
        self.offer_fields = frozenset(offer_document(offer, 0.0, gigabytes=8, bid=False))
        self._usage: dict[int, float] = {}
        self._measure_at: dict[int, float] = {}
        self._measuring: set[asyncio.Task[None]] = set()
        self._results: OrderedDict[str, str] = OrderedDict()
        self._veils: dict[int, tuple[float, dict[str, Any] | None]] = {}
        self._ghosts: dict[int, tuple[float, str]] = {}
        for rule in settings.faults:
            self.faults.add(rule)

    def now_s(self) -> float:
        """Return product time in seconds."""
        return self.market.now_us() / MICRO

    def beat(self) -> None:
        """Do what is due each second."""
        self.fleet.beat()
        self.journal.flush()

    def turn_clock(self, *, advance_s: float = 0.0, speed: float | None = None, pause: bool | None = None) -> None:
        """Turn the clock, and remember it for the next start."""
        self.clock.turn(advance_s=advance_s, speed=speed, pause=pause)
        self.store.set_meta(_CLOCK, self.clock.state())
        self.fleet.beat()

    async def begin_again(self, seed: int) -> None:
        """Forget machines, bills, keys, rules and the journal; the clock goes on."""
        await self.troubles.begin_again()
        await self.fleet.begin_again()
        self.market.begin_again()
        self.faults.begin_again(seed)
        self.journal.clear()
        self._veils.clear()
        self._ghosts.clear()

    def seen(self, number: int) -> dict[str, Any] | None:
        """Return what the marketplace shows of an instance, None where it shows none."""
        rental = self.store.rental(number)
        rows = [] if rental is None else self._rows([rental])
        return rows[0].document() if rows else None

    def listed(self) -> list[Row]:
        """Return what the marketplace shows of every instance, by number; call it and use it at one moment."""
        ghosts = [rental for number in list(self._ghosts) if (rental := self.store.rental(number)) is not None]
        rentals = {rental.id: rental for rental in (*self.store.rentals(), *ghosts)}
        return self._rows([rentals[at] for at in sorted(rentals)])

    def _rows(self, rentals: list[Rental]) -> list[Row]:
        """Return what is shown of those rentals that are shown; what they share is asked for once."""
        now, hosts = self.now_s(), self.store.rental_hosts()
        silent = self.store.dead_boxes() | self.store.cut_boxes()

        def truth(rental: Rental) -> dict[str, Any]:
            self._measure(rental.id)
            return instance_document(
                rental,
                now,
                offline=rental.box_id in silent,
                host=hosts.get(rental.id, self.settings.host),
                workspace=str(self.folders.workspace(rental.id)),
                disk_usage=self._usage.get(rental.id, -1),
                load=self.folders.load(rental.id),
            )

        def shown(rental: Rental) -> Row | None:
            if rental.destroyed_us is not None:
                until, actual = self._ghosts.get(rental.id, (0.0, ""))
                if now < until:
                    return _whole(lingering(truth(rental), actual))
                self._ghosts.pop(rental.id, None)
                return None
            until, before = self._veils.get(rental.id, (0.0, None))
            if now < until:
                return None if before is None else _whole(before)
            return Row(stored_columns(rental, offline=rental.box_id in silent), lambda: truth(rental))

        return [row for row in map(shown, rentals) if row is not None]

    def veil(self, rental: Rental, *, fresh: bool = False) -> None:
        """Let reads lag behind a change of this instance where a rule says so: they show it as it is now."""
        params = self.troubles.take("read_lag", rental, "create" if fresh else "change")
        if params is not None:
            shown = None if fresh else self.seen(rental.id)
            self._veils[rental.id] = (self.now_s() + float(params.get("s", 3)), shown)

    def haunt(self, number: int, seconds: float, shown: str) -> None:
        """Go on listing an instance for that much product time after it was destroyed."""
        self._ghosts[number] = (self.now_s() + seconds, "running" if shown == "running" else "exited")

    def keep_log(self, number: int, tail: int, wanted: str = "") -> str:
        """Put the last lines of a container log aside and return the word under which they can be fetched."""
        path = self.folders.log_path(number)
        lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
        lines = [line for line in lines if wanted in line]
        return self.keep_result("".join(lines[-tail:]) if tail > 0 else "")

    def keep_result(self, text: str) -> str:
        """Put a text aside and return the word under which it can be fetched."""
        token = secrets.token_urlsafe(24)
        self._results[token] = text
        while len(self._results) > _KEPT_RESULTS:
            self._results.popitem(last=False)
        return token

    def kept_result(self, token: str) -> str | None:
        """Return a text that was put aside, or None."""
        return self._results.get(token)

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


def _whole(document: dict[str, Any]) -> Row:
    return Row(document, lambda: document)
