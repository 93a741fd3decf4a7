"""The life of the machines: each is brought, step by step, from what it is to what its record wants.

One task at a time works on a machine; whoever changes a record calls `poke` and the task looks again.
"""

import asyncio
import logging
from dataclasses import replace

from dumont.sandbox.bids import QUEUED, WAITS
from dumont.sandbox.billing import MICRO, span_rates
from dumont.sandbox.clock import DrivenClock
from dumont.sandbox.doors import Doors
from dumont.sandbox.folders import Folders
from dumont.sandbox.journal import Journal
from dumont.sandbox.market import Market
from dumont.sandbox.nvidia import gpu_conf
from dumont.sandbox.settings import SandboxSettings
from dumont.sandbox.shells import Shells
from dumont.sandbox.store import Rental, Store
from dumont.sandbox.troubles import Loading, Troubles

_LOG = logging.getLogger("dumont.sandbox")
_FAILED = "Error response from daemon: the sandbox could not do this; see its log"
_STARTABLE = ("exited", *WAITS, "held", "scheduling", "raced", "ended")
_HELD = (*_STARTABLE, "failed")
"""Phases in which a machine's own task does nothing: a start ends all but the last, a stop or a destroy each."""
_PULL_STEPS = 8


class Fleet:
    """All machines of one sandbox."""

    def __init__(
        self,
        settings: SandboxSettings,
        store: Store,
        folders: Folders,
        market: Market,
        troubles: Troubles,
        journal: Journal,
        clock: DrivenClock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._folders = folders
        self._market = market
        self._troubles = troubles
        self._journal = journal
        self._clock = clock
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed: dict[int, asyncio.Event] = {}
        self._up: set[int] = set()
        self._reboots: set[int] = set()
        self._anew: set[int] = set()
        self._loads: dict[int, Loading] = {}
        self._endings: dict[int, tuple[str, str]] = {}
        self._closing = False
        self.shells = Shells(store.meta("marker") or "", folders)
        self.doors = Doors(store, settings.host, self.shells.environment, self._noticed)

    def recover(self) -> None:
        """Put the records straight after a stop or a crash, and set every machine going again.

        Guarantees: nothing of the time in between is billed, and no process of the time before is left.
        """
        self._store.close_spans(int(self._store.meta("heartbeat_us") or 0))
        self.shells.end_all(grace=0)
        alive = {rental.id for rental in self._store.rentals()}
        for number in self._folders.on_disk():
            if number not in alive:
                self._folders.remove(number)
        for rental in self._store.rentals():
            phase = rental.phase if rental.phase in _HELD else "loading"
            phase = "queued" if phase in ("held", "scheduling") else phase
            self._move(rental, phase, rental.status_msg)
            self.poke(rental.id)

    async def shut_down(self) -> None:
        """Stop every task, port and process, and stop the billing; records keep what each machine shall be again."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.doors.close_all()
        await asyncio.to_thread(self.shells.end_all, grace=0.3)
        now = self._market.now_us()
        self._store.close_spans(now)
        self._store.set_meta("heartbeat_us", str(now))

    async def begin_again(self) -> None:
        """End every machine for good, its record and its bill with it."""
        await self.shut_down()
        for number in self._folders.on_disk():
            await asyncio.to_thread(self._folders.remove, number)
        self._store.begin_again()
        self._tasks, self._changed, self._loads, self._endings = {}, {}, {}, {}
        for numbers in (self._up, self._reboots, self._anew):
            numbers.clear()
        self._closing = False

    def beat(self) -> None:
        """Record that billing is alive, serve queued starts, stop everything when the money is used up."""
        rentals = self._store.rentals()
        if not rentals:
            return
        self._store.set_meta("heartbeat_us", str(self._market.now_us()))
        broke = self._market.credit() <= 0
        self.arbitrate()
        for rental in rentals:
            if broke and rental.intended == "running":
                self.stop(rental)

    def serve_queued(self, rental: Rental) -> None:
        """Let a machine that was made to wait stand in the queue like any other, and serve it if it is its turn."""
        if rental.phase in ("held", "scheduling"):
            self._move(rental, "queued", rental.status_msg)
            self.arbitrate()

    def arbitrate(self) -> None:
        """Take GPUs from rentals that were outbid, at the moment of it, and give them to those whose turn it is."""
        verdict = self._market.judge()
        for number, at_s in verdict.outbid:
            self._turn(number, "outbid", round(at_s * MICRO))
        for number in verdict.start:
            self._turn(number, "loading", None)

    def _turn(self, number: int, phase: str, at_us: int | None) -> None:
        rental = self._store.rental(number)
        if rental is not None:
            self._move(rental, phase, "", at_us=at_us)
            self.poke(number)

    def poke(self, number: int) -> None:
        """Let the machine's task look at its record again."""
        if self._closing:
            return
        self._changed.setdefault(number, asyncio.Event()).set()
        task = self._tasks.get(number)
        if task is None or task.done():
            self._tasks[number] = asyncio.create_task(self._settle(number))

    async def settled(self, number: int) -> None:
        """Wait until the machine's task has nothing left to do."""
        task = self._tasks.get(number)
        if task is not None:
            await asyncio.wait([task])

    def is_up(self, number: int) -> bool:
        """Tell whether the machine is really running."""
        return number in self._up

    def begin(self, rental: Rental) -> None:
        """Set a machine going that was just rented."""
        if self._troubles.races(rental):
            self._move(rental, "raced", "")
        self._troubles.at_create(rental)
        self.poke(rental.id)
        self.arbitrate()

    def start(self, rental: Rental) -> bool:
        """Want a machine running; False when its GPUs are taken, or seem so, and it now waits for them."""
        self._troubles.forget_lag(rental.id)
        waiting = rental.phase in _STARTABLE
        word = self._troubles.queued(rental) if waiting else None
        free = not waiting or (word is None and self._market.is_free(rental))
        self._store.update(rental.id, intended="running")
        if waiting:
            self._move(rental, *(("loading", rental.status_msg) if free else (word or "queued", QUEUED)))
            self.arbitrate()
        self.poke(rental.id)
        return free

    def stop(self, rental: Rental) -> None:
        """Want a machine stopped."""
        self._troubles.at_stop(rental)
        self._store.update(rental.id, intended="stopped")
        if rental.phase in (*WAITS, "held", "scheduling"):
            self._move(rental, "exited", "")
        self.poke(rental.id)

    def reboot(self, rental: Rental, *, anew: bool = False) -> None:
        """Take a running machine down and up again; with `anew` only its workspace stays, the rest is as at first."""
        if rental.id in self._up:
            self._reboots.add(rental.id)
            (self._anew.add if anew else self._anew.discard)(rental.id)
            self.poke(rental.id)

    def change_rate(self, rental: Rental, gpu_rate: int) -> None:
        """Let the GPU part cost another rate from now on. Units: nano-dollars per hour."""
        self._store.update(rental.id, gpu_rate=gpu_rate)
        self.bill_again(rental.id)
        self.arbitrate()

    def destroy(self, rental: Rental) -> None:
        """Give a machine up for ever; billing ends here, the folder goes right after."""
        now = self._market.now_us()
        with self._store.transaction():
            self._store.update(rental.id, intended="stopped", destroyed_us=now)
            self._store.turn_span(rental.id, None, 0, 0, now)
        self._journal.write("state", self._troubles.entity(rental.id), state="destroyed")
        self.poke(rental.id)

    def raise_dead(self, number: int) -> None:
        """Bring a destroyed machine back: empty, and billed from now on."""
        rental = self._store.rental(number)
        if rental is None or rental.destroyed_us is None:
            return
        free = self._market.is_free(rental)
        self._store.update(number, destroyed_us=None, intended="running" if free else "stopped")
        self._move(rental, "loading" if free else "exited", "")
        self.poke(number)

    async def end_container(self, number: int, text: str, phase: str = "ended") -> None:
        """Let a container end by itself, or with `phase` failed never have begun."""
        rental = self._store.rental(number)
        if rental is not None and rental.destroyed_us is None and rental.intended == "running":
            self._endings[number] = (phase, text)
            self.poke(number)
            await self.settled(number)

    def pull_plug(self, box: int) -> None:
        """Take a box's power away: what runs on it is lost at once, nothing is billed, its files stay."""
        if not self._closing:
            self._store.set_dead(box, True)
            self._darken(box)

    def cut_off(self, box: int) -> None:
        """Let the marketplace hear nothing of a box that runs on: it shows offline and is not billed."""
        if not self._closing:
            self._store.set_cut(box, True)
            self._darken(box)

    def restore_power(self, box: int) -> None:
        """Give a box its power and its line back; what shall run on it starts again."""
        self._store.set_dead(box, False)
        self._store.set_cut(box, False)
        for rental in self._store.rentals():
            if rental.box_id == box:
                if rental.id not in self._up and rental.phase not in _HELD:
                    self._move(rental, "loading" if rental.intended == "running" else "exited", rental.status_msg)
                self.bill_again(rental.id)
                self.poke(rental.id)

    def bill_again(self, number: int) -> None:
        """Begin a new span at the rates of now."""
        rental = self._store.rental(number)
        if rental is not None:
            self._move(rental, rental.phase, rental.status_msg)

    def _darken(self, box: int) -> None:
        for rental in self._store.rentals():
            if rental.box_id == box:
                self._store.turn_span(rental.id, None, 0, 0, self._market.now_us())
                self._journal.write("state", self._troubles.entity(rental.id), state="offline")
                self.poke(rental.id)

    def _noticed(self, number: int, event: str) -> None:
        self._troubles.at_event(number, event)

    async def _settle(self, number: int) -> None:
        while True:
            self._changed[number].clear()
            rental = self._store.rental(number)
            if rental is None:
                return
            dark = rental.box_id in self._store.dead_boxes()
            try:
                again = await self._step(rental, dark)
            except (OSError, RuntimeError):
                _LOG.exception("machine %d could not go on", number)
                self._move(rental, rental.phase, _FAILED)
                return
            if not again and not self._changed[number].is_set():
                return

    async def _step(self, rental: Rental, dark: bool) -> bool:
        up = rental.id in self._up
        if rental.destroyed_us is not None:
            await self._take_down(rental.id, grace=0.2)
            await asyncio.to_thread(self._folders.remove, rental.id)
            return False
        if dark:
            await self._take_down(rental.id, grace=0)
            return False
        if up and rental.phase in WAITS:
            await self._take_down(rental.id, grace=0)
            return True
        if rental.id in self._endings:
            await self._take_down(rental.id, grace=0)
            self._move(rental, *self._endings.pop(rental.id))
            return True
        if up and (rental.intended == "stopped" or rental.id in self._reboots):
            return await self._lower(rental)
        if not up and rental.intended == "stopped" and rental.phase != "exited":
            self._loads.pop(rental.id, None)
            self._move(rental, "exited", "")
            return True
        if not up and rental.intended == "running" and rental.phase not in _HELD:
            await self._bring_up(rental)
            return True
        return False

    async def _lower(self, rental: Rental) -> bool:
        rebooting = rental.id in self._reboots and rental.intended == "running"
        self._reboots.discard(rental.id)
        if rebooting:
            self._move(rental, "recycling" if rental.id in self._anew else "rebooting", rental.status_msg)
        elif (until := self._troubles.stops_at(rental.id)) > self._clock.seconds():
            await self._disturbed(rental.id, until)
            return True
        await self._take_down(rental.id, grace=1.0)
        if not rebooting:
            self._move(rental, "exited", "")
        elif rental.id in self._anew:
            self._anew.discard(rental.id)
            await asyncio.to_thread(self._folders.renew, rental.id)
        return True

    async def _bring_up(self, rental: Rental) -> None:
        if rental.id not in self._loads:
            self._loads[rental.id] = self._troubles.loading(rental)
        load = self._loads[rental.id]
        if load.null_s and await self._disturbed(rental.id, self._clock.seconds() + load.null_s):
            return
        self._loads[rental.id] = load = replace(load, null_s=0)
        if rental.phase not in ("rebooting", "recycling"):
            self._move(rental, "loading", f"Pulling from {rental.image}")
        self._folders.make(rental.id, gpu_conf(rental))
        if await self._pulled(rental, load):
            return
        del self._loads[rental.id]
        if load.failure is not None:
            self._move(rental, "failed", load.failure)
            return
        folder = self._folders.machine(rental.id)
        await self._troubles.before_up(rental, folder)
        await self.doors.open(self._store.rental(rental.id) or rental, folder)
        self._up.add(rental.id)
        await self.shells.run_onstart(rental)
        now = self._store.rental(rental.id)
        wanted = now is not None and now.intended == "running" and now.phase not in WAITS
        if now is not None and wanted and rental.box_id not in self._store.dead_boxes():
            self._move(now, "running", f"success, running {rental.image}/ssh")
            self._noticed(rental.id, "running")
            self._troubles.at_up(now)

    async def _pulled(self, rental: Rental, load: Loading) -> bool:
        """Wait as long as the image takes; True as soon as the record changed meanwhile."""
        changed = self._changed[rental.id]
        if load.pull_s is None:
            await changed.wait()
        elif load.pull_s == 0:
            try:
                await asyncio.wait_for(changed.wait(), self._settings.start_seconds)
            except asyncio.TimeoutError:
                return False
        else:
            begun = self._clock.seconds()
            for step in range(_PULL_STEPS):
                bar = "=" * step + ">" + " " * (_PULL_STEPS - step)
                self._store.update(rental.id, status_msg=f"a1b2c3d4: Downloading [{bar}] {step * 6}MB/48MB")
                if await self._disturbed(rental.id, begun + load.pull_s * (step + 1) / _PULL_STEPS):
                    return True
        return changed.is_set()

    async def _disturbed(self, number: int, until: float) -> bool:
        """Wait until that moment of product time; True as soon as the record changed meanwhile."""
        nap = asyncio.create_task(self._clock.sleep_until(until))
        call = asyncio.create_task(self._changed[number].wait())
        try:
            await asyncio.wait({nap, call}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (nap, call):
                task.cancel()
        return self._changed[number].is_set()

    async def _take_down(self, number: int, *, grace: float) -> None:
        await self.doors.close(number)
        await self.shells.end(number, grace=grace)
        self._up.discard(number)

    def _move(self, rental: Rental, phase: str, message: str | None, *, at_us: int | None = None) -> None:
        now = self._store.rental(rental.id)
        if now is None or now.destroyed_us is not None:
            return
        dark = rental.box_id in self._store.dead_boxes() | self._store.cut_boxes()
        with self._store.transaction():
            self._store.update(rental.id, phase=phase, status_msg=message)
            state = None if dark else phase
            moment = self._market.now_us() if at_us is None else at_us
            self._store.turn_span(rental.id, state, *span_rates(now, phase), moment)
        if now.phase != phase:
            self._journal.write("state", self._troubles.entity(rental.id), state=phase)
