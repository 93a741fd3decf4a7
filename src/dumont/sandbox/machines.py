"""The life of the machines: each is brought, step by step, from what it is to what its record wants.

One task at a time works on a machine; whoever changes a record calls `poke` and the task looks again.
"""

import asyncio
import logging
from typing import Any

from dumont.sandbox import processes
from dumont.sandbox.bids import WAITS
from dumont.sandbox.billing import MICRO, span_rates
from dumont.sandbox.faults import Faults
from dumont.sandbox.folders import Folders
from dumont.sandbox.market import Market, free_port
from dumont.sandbox.nvidia import gpu_conf
from dumont.sandbox.settings import SandboxSettings
from dumont.sandbox.ssh import Door, SshDoor, open_door, same_key
from dumont.sandbox.store import Rental, Store

_LOG = logging.getLogger("dumont.sandbox")
_FAILED = "Error response from daemon: the sandbox could not do this; see its log"


class Fleet:
    """All machines of one sandbox."""

    def __init__(
        self, settings: SandboxSettings, store: Store, folders: Folders, market: Market, faults: Faults
    ) -> None:
        self._settings = settings
        self._store = store
        self._folders = folders
        self._market = market
        self._faults = faults
        self._marker = store.meta("marker") or ""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed: dict[int, asyncio.Event] = {}
        self._up: set[int] = set()
        self._doors: dict[int, SshDoor] = {}
        self._reboots: set[int] = set()
        self._stuck: set[int] = set()
        self._doomed: dict[int, dict[str, Any]] = {}
        self._later: set[asyncio.Task[None]] = set()
        self._closing = False

    def recover(self) -> None:
        """Put the records straight after a stop or a crash, and set every machine going again.

        Guarantees: nothing of the time in between is billed, and no process of the time before is left.
        """
        self._store.close_spans(int(self._store.meta("heartbeat_us") or 0))
        processes.end(self._marker, grace=0)
        alive = {rental.id for rental in self._store.rentals()}
        for number in self._folders.on_disk():
            if number not in alive:
                self._folders.remove(number)
        for rental in self._store.rentals():
            phase = rental.phase if rental.phase in ("exited", *WAITS) else "loading"
            self._move(rental, phase, rental.status_msg)
            self.poke(rental.id)

    async def shut_down(self) -> None:
        """Stop every task, port and process, and stop the billing; records keep what each machine shall be again."""
        self._closing = True
        for task in [*self._tasks.values(), *self._later]:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *self._later, return_exceptions=True)
        for number in list(self._doors):
            await self._close_door(number)
        await asyncio.to_thread(processes.end, self._marker, grace=0.3)
        now = self._market.now_us()
        self._store.close_spans(now)
        self._store.set_meta("heartbeat_us", str(now))

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
                self._store.update(rental.id, intended="stopped")
                self.poke(rental.id)

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

    def start(self, rental: Rental) -> bool:
        """Want a machine running; False when its GPUs are taken and it now waits for them."""
        waiting = rental.phase in ("exited", *WAITS)
        free = not waiting or self._market.is_free(rental)
        self._store.update(rental.id, intended="running")
        if waiting:
            self._move(rental, "loading" if free else "queued", rental.status_msg)
            self.arbitrate()
        self.poke(rental.id)
        return free

    def stop(self, rental: Rental) -> None:
        """Want a machine stopped."""
        self._store.update(rental.id, intended="stopped")
        if rental.phase in WAITS:
            self._move(rental, "exited", "")
        self.poke(rental.id)

    def reboot(self, rental: Rental) -> None:
        """Take a running machine down and up again."""
        if rental.id in self._up:
            self._reboots.add(rental.id)
            self.poke(rental.id)

    def change_rate(self, rental: Rental, gpu_rate: int) -> None:
        """Let the GPU part cost another rate from now on. Units: nano-dollars per hour."""
        self._store.update(rental.id, gpu_rate=gpu_rate)
        changed = self._store.rental(rental.id)
        if changed is not None:
            self._move(changed, changed.phase, changed.status_msg)
            self.arbitrate()

    def destroy(self, rental: Rental) -> None:
        """Give a machine up for ever; billing ends here, the folder goes right after."""
        now = self._market.now_us()
        with self._store.transaction():
            self._store.update(rental.id, intended="stopped", destroyed_us=now)
            self._store.turn_span(rental.id, None, 0, 0, now)
        self.poke(rental.id)

    def pull_plug(self, box: int) -> None:
        """Take a box's power away: what runs on it is lost at once, nothing is billed, its files stay."""
        if self._closing:
            return
        self._store.set_dead(box, True)
        for rental in self._store.rentals():
            if rental.box_id == box:
                self._store.turn_span(rental.id, None, 0, 0, self._market.now_us())
                self.poke(rental.id)

    def restore_power(self, box: int) -> None:
        """Give a box its power back; what shall run on it starts again."""
        self._store.set_dead(box, False)
        for rental in self._store.rentals():
            if rental.box_id == box:
                wanted = rental.phase if rental.phase in WAITS else "loading"
                phase = wanted if rental.intended == "running" else "exited"
                self._move(rental, phase, rental.status_msg)
                self.poke(rental.id)

    def doom(self, number: int, params: dict[str, Any]) -> None:
        """Let the host of a machine die at the moment that `params` describes."""
        self._doomed[number] = params

    async def refuse_ssh(self, number: int, seconds: float) -> None:
        """Close a machine's port for that many real seconds while it goes on running."""
        await self._close_door(number)
        self._soon(seconds, number)

    def _noticed(self, number: int, event: str) -> None:
        params = self._doomed.get(number)
        if params is not None and event == params.get("when", "ssh_exec"):
            del self._doomed[number]
            rental = self._store.rental(number)
            if rental is not None:
                delay = float(params.get("after_s", 0))
                asyncio.get_running_loop().call_later(delay, self.pull_plug, rental.box_id)

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
        if up and (rental.intended == "stopped" or rental.id in self._reboots):
            return await self._lower(rental)
        if not up and rental.intended == "stopped" and rental.phase != "exited":
            self._stuck.discard(rental.id)
            self._move(rental, "exited", "")
            return True
        if not up and rental.intended == "running" and rental.phase not in WAITS:
            await self._bring_up(rental)
            return True
        return False

    async def _lower(self, rental: Rental) -> bool:
        rebooting = rental.id in self._reboots and rental.intended == "running"
        self._reboots.discard(rental.id)
        if rebooting:
            self._move(rental, "rebooting", rental.status_msg)
        await self._take_down(rental.id, grace=1.0)
        if not rebooting:
            self._move(rental, "exited", "")
        return True

    async def _bring_up(self, rental: Rental) -> None:
        if rental.phase != "rebooting":
            self._move(rental, "loading", f"Pulling from {rental.image}")
        self._folders.make(rental.id, gpu_conf(rental))
        if await self._disturbed(rental.id, self._loading_seconds(rental.id)):
            return
        closed_for = self._faults.take("ssh_refused", lambda p: p.get("instance") in (None, rental.id))
        if closed_for:
            self._soon(float(closed_for.params.get("for_s", 5)), rental.id)
        else:
            await self._open_door(rental)
        self._up.add(rental.id)
        await self._run_onstart(rental)
        now = self._store.rental(rental.id)
        if now is not None and now.phase not in WAITS and rental.box_id not in self._store.dead_boxes():
            self._move(now, "running", f"success, running {rental.image}/ssh")
            self._noticed(rental.id, "running")

    def _loading_seconds(self, number: int) -> float | None:
        if number in self._stuck or self._faults.take("stuck_loading"):
            self._stuck.add(number)
            return None
        slow = self._faults.take("slow_loading")
        return float(slow.params.get("s", 5)) if slow else self._settings.start_seconds

    async def _disturbed(self, number: int, seconds: float | None) -> bool:
        """Wait that long, for ever with None; True as soon as the record changed meanwhile."""
        try:
            await asyncio.wait_for(self._changed[number].wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _open_door(self, rental: Rental) -> None:
        door = Door(
            number=rental.id,
            root=self._folders.root(rental.id),
            environment=lambda: self._environment_of_open(rental),
            admits=lambda line: any(same_key(line, text) for _, text in self._store.rental_keys(rental.id)),
            noticed=lambda event: self._noticed(rental.id, event),
        )
        host_key = self._folders.machine(rental.id) / "host_key"
        try:
            self._doors[rental.id] = await open_door(door, self._settings.host, rental.port, host_key)
        except OSError:
            port = free_port(self._settings.host, {r.port for r in self._store.rentals()})
            self._store.update(rental.id, port=port)
            self._doors[rental.id] = await open_door(door, self._settings.host, port, host_key)

    async def _close_door(self, number: int) -> None:
        door = self._doors.pop(number, None)
        if door is not None:
            await door.close()

    def _soon(self, seconds: float, number: int) -> None:
        async def reopen() -> None:
            await asyncio.sleep(seconds)
            rental = self._store.rental(number)
            if rental is not None and number in self._up and number not in self._doors:
                await self._open_door(rental)

        task = asyncio.create_task(reopen())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _take_down(self, number: int, *, grace: float) -> None:
        await self._close_door(number)
        await asyncio.to_thread(processes.end, self._marker, number, grace=grace)
        self._up.discard(number)

    async def _run_onstart(self, rental: Rental) -> None:
        if not rental.onstart:
            return
        with self._folders.log_path(rental.id).open("ab") as log:
            await asyncio.create_subprocess_exec(
                "/bin/bash",
                "-c",
                rental.onstart,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folders.root(rental.id),
                env=self._environment(rental),
                start_new_session=True,
            )

    def _environment_of_open(self, rental: Rental) -> dict[str, str]:
        if rental.id not in self._doors:
            raise OSError("the machine is going down")
        return self._environment(rental)

    def _environment(self, rental: Rental) -> dict[str, str]:
        extra = {name: value for name, value in rental.env.items() if not name.startswith("-")}
        extra["CONTAINER_API_KEY"] = rental.api_key
        extra["CONTAINER_ID"] = str(rental.id)
        return processes.environment(rental.id, self._marker, self._folders.machine(rental.id), extra)

    def _move(self, rental: Rental, phase: str, message: str | None, *, at_us: int | None = None) -> None:
        now = self._store.rental(rental.id)
        if now is None or now.destroyed_us is not None:
            return
        dark = rental.box_id in self._store.dead_boxes()
        with self._store.transaction():
            self._store.update(rental.id, phase=phase, status_msg=message)
            state = None if dark else phase
            moment = self._market.now_us() if at_us is None else at_us
            self._store.turn_span(rental.id, state, *span_rates(rental, phase), moment)
