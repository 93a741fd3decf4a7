"""What befalls machines: asks the rules at each turn of a machine's life, and does what they say in its time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

from dumont.sandbox.clock import DrivenClock
from dumont.sandbox.faults import Event, Faults
from dumont.sandbox.folders import Folders
from dumont.sandbox.store import Rental, Store

if TYPE_CHECKING:
    from dumont.sandbox.machines import Fleet

_OCI = "Error: failed to create task for container: OCI runtime create failed: runc create failed"
_CLASH = "Error response from daemon: driver failed programming external connectivity: port is already allocated"
_FOR_EVER = float("inf")
_WATCH_SECONDS = 0.01
Params = dict[str, Any]


@dataclass(frozen=True)
class Loading:
    """How a machine comes up. Units: product seconds; `pull_s` None is for ever, 0 as long as the settings say."""

    null_s: float = 0.0
    pull_s: float | None = 0.0
    failure: str | None = None


class Troubles:
    """The rules of one sandbox, as its machines meet them. `inflict` does at once what a rule would do."""

    fleet: "Fleet"

    def __init__(self, faults: Faults, clock: DrivenClock, store: Store, folders: Folders) -> None:
        self._faults = faults
        self._clock = clock
        self._store = store
        self._folders = folders
        self._later: set[asyncio.Task[None]] = set()
        self._doomed: dict[int, Params] = {}
        self._clashes: dict[int, Params] = {}
        self._lag_until: dict[int, float] = {}
        self._queued_until: dict[int, float] = {}
        self._after_up: dict[str, Callable[[int, Params], Awaitable[None]]] = {
            "ssh_refused": self._refuse_ssh,
            "ssh_auth_refused": self._refuse_keys,
            "exits": self._exit,
            "host_key_change": self._change_key,
            "addr_change": self._change_address,
            "outside_change": self._change_outside,
        }
        self._at_once: dict[str, Callable[[int, Params], Awaitable[None]]] = {
            **self._after_up,
            "host_offline": self._go_offline,
            "ssh_drop": self._drop_ssh,
            "double_sold": self._clash,
            "remember": self._remember,
        }

    @property
    def events(self) -> list[str]:
        """What `inflict` can do."""
        return sorted(self._at_once)

    def entity(self, number: int) -> str:
        """Return the name under which draws and logs know a machine: the same in each run of a scenario."""
        return f"instance:{number - self._store.first_number()}"

    def take(self, fault: str, rental: Rental, op: str = "") -> Params | None:
        """Return the parameters of a rule that strikes this machine now, or None."""
        event = Event(
            entity=self.entity(rental.id),
            op=op,
            machine=str(rental.box_id),
            label=rental.label or "",
            instance=str(rental.id),
        )
        return self._faults.take(fault, event)

    async def inflict(self, number: int, fault: str, params: Params) -> None:
        """Let something befall a machine now.

        Errors: KeyError for what is not in `events`.
        """
        await self._at_once[fault](number, {"on": "any", **params})

    def at_create(self, rental: Rental) -> None:
        """Settle what is settled when a machine is rented."""
        if (params := self.take("host_offline", rental, "create")) is not None:
            self._doomed[rental.id] = params
        params = self.take("double_sold", rental, "create")
        if params is not None and params.get("loser", "us") == "us":
            self._clashes[rental.id] = params

    def races(self, rental: Rental) -> bool:
        """Tell whether the create's own start is lost, so that the machine sits there until it is started again."""
        return self.take("create_start_race", rental, "create") is not None

    def loading(self, rental: Rental) -> Loading:
        """Return how a machine comes up this time."""
        null = self.take("status_null", rental)
        clash = self._clashes.get(rental.id)
        if clash is not None and clash.get("shown", "created") == "created":
            del self._clashes[rental.id]
            return Loading(pull_s=float(clash.get("after_s", 40)), failure=_CLASH)
        failure = self.take("oci_fail", rental)
        stuck = self.take("stuck_loading", rental)
        slow = None if stuck is not None else self.take("slow_pull", rental)
        return Loading(
            null_s=0.0 if null is None else float(null.get("for_s", 20)),
            pull_s=None if stuck is not None else 0.0 if slow is None else float(slow.get("s", 5)),
            failure=None if failure is None else str(failure.get("text", _OCI)),
        )

    async def before_up(self, rental: Rental, folder: Path) -> None:
        """Change what changes between one life of a container and the next."""
        if (folder / "host_key").exists():
            if (self.take("host_key_change", rental, "restart")) is not None:
                (folder / "host_key").unlink()
            if (self.take("addr_change", rental, "restart")) is not None:
                self.fleet.doors.readdress(rental)
        refused = self.take("ssh_refused", rental)
        if refused is not None:
            self.fleet.doors.bolt(rental.id, True)
            self._after(float(refused.get("for_s", 5)), lambda: self._unbolt(rental.id))
        if self._doomed.get(rental.id, {}).get("data") == "old":
            await self._remember(rental.id, {})

    def at_up(self, rental: Rental) -> None:
        """Begin what happens to a machine that runs."""
        for fault in ("ssh_auth_refused", "exits", "host_key_change", "addr_change", "outside_change"):
            if (params := self.take(fault, rental, "up")) is not None:
                self._schedule(rental.id, self._after_up[fault], params)
        clash = self._clashes.pop(rental.id, None)
        if clash is not None:
            self._schedule(rental.id, self._clash, {"after_s": 40, **clash})

    def at_event(self, number: int, event: str) -> None:
        """Let a doomed host die when its moment has come, and connections be cut that shall be."""
        rental = self._store.rental(number)
        if rental is None:
            return
        doom = self._doomed.get(number)
        if doom is not None and event == doom.get("moment", "running"):
            del self._doomed[number]
            self._schedule(number, self._go_offline, doom)
        if event == "ssh_login" and (params := self.take("ssh_drop", rental)) is not None:
            self._schedule(number, self._drop_ssh, params)

    def at_stop(self, rental: Rental) -> None:
        """Settle how late a stop takes effect, and forget what the machine waited for."""
        self._queued_until.pop(rental.id, None)
        if (params := self.take("status_lag", rental, "stop")) is not None:
            self._lag_until[rental.id] = self._clock.seconds() + float(params.get("s", 20))

    def stops_at(self, number: int) -> float:
        """Return the moment of product time before which a stop has no effect."""
        return self._lag_until.get(number, 0.0)

    def forget_lag(self, number: int) -> None:
        """Let the next stop take effect at once."""
        self._lag_until.pop(number, None)

    def queued(self, rental: Rental) -> str | None:
        """Return the phase in which a start waits although the GPUs are free, or None."""
        params = self.take("start_queue", rental, "start")
        if params is None:
            return None
        seconds = float(params.get("for_s", _FOR_EVER))
        self._queued_until[rental.id] = self._clock.seconds() + seconds
        if seconds < _FOR_EVER:
            self._after(seconds, lambda: self._serve(rental.id))
        return "scheduling" if params.get("emit_scheduling") else "held"

    def after_destroy(self, rental: Rental) -> None:
        """Let a destroyed machine come back if a rule says so."""
        if (params := self.take("zombie", rental, "destroy")) is not None:

            async def rise(number: int, params: Params) -> None:
                self.fleet.raise_dead(number)

            self._schedule(rental.id, rise, {"after_s": 30, **params})

    async def begin_again(self) -> None:
        """Call off everything that is still to come."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        for kept in (self._doomed, self._clashes, self._lag_until, self._queued_until):
            kept.clear()

    def _schedule(self, number: int, action: Callable[[int, Params], Awaitable[None]], params: Params) -> None:
        seconds = float(params.get("after_s", 0))
        own = {name: value for name, value in params.items() if name != "after_s"}
        self._after(seconds, lambda: action(number, own))

    def _after(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        self._at(self._clock.seconds() + seconds, action)

    def _at(self, moment: float, action: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await self._clock.sleep_until(moment)
            await action()

        task = asyncio.create_task(run())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _serve(self, number: int) -> None:
        rental = self._store.rental(number)
        if rental is not None and rental.destroyed_us is None and self._queued_until.pop(number, None) is not None:
            self.fleet.serve_queued(rental)

    async def _refuse_ssh(self, number: int, params: Params) -> None:
        self.fleet.doors.bolt(number, True)
        await self.fleet.doors.close(number)
        self._after(float(params.get("for_s", 5)), lambda: self._unbolt(number))

    async def _unbolt(self, number: int) -> None:
        self.fleet.doors.bolt(number, False)
        rental = self._store.rental(number)
        if rental is not None and self.fleet.is_up(number):
            await self.fleet.doors.open(rental, self._folders.machine(number))

    async def _refuse_keys(self, number: int, params: Params) -> None:
        self.fleet.doors.estrange(number, True)

        async def know_again() -> None:
            self.fleet.doors.estrange(number, False)

        self._after(float(params.get("for_s", 5)), know_again)

    async def _drop_ssh(self, number: int, params: Params) -> None:
        if "after_bytes" in params:
            begun = self.fleet.doors.carried(number)
            doors, most = self.fleet.doors, params["after_bytes"]
            while doors.guests(number) and doors.carried(number) - begun < most:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_WATCH_SECONDS)
        self.fleet.doors.drop(number)

    async def _exit(self, number: int, params: Params) -> None:
        await self.fleet.end_container(number, str(params.get("text", "")))

    async def _clash(self, number: int, params: Params) -> None:
        await self.fleet.end_container(number, _CLASH, "failed" if params.get("shown") == "created" else "ended")

    async def _change_key(self, number: int, params: Params) -> None:
        await self._move(number, key=True)

    async def _change_address(self, number: int, params: Params) -> None:
        await self._move(number, address=True)

    async def _move(self, number: int, *, key: bool = False, address: bool = False) -> None:
        rental = self._store.rental(number)
        if rental is not None and self.fleet.is_up(number):
            await self.fleet.doors.move(rental, self._folders.machine(number), key=key, address=address)

    async def _change_outside(self, number: int, params: Params) -> None:
        rental, action = self._store.rental(number), params.get("action", "stop")
        if rental is None or rental.destroyed_us is not None:
            return
        if action == "relabel":
            self._store.update(number, label=params.get("label", "changed by a person"))
        elif action == "attach_key":
            text = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
            self._store.attach(number, self._store.add_key(text, "", account=False), text)
        else:
            (self.fleet.destroy if action == "destroy" else self.fleet.stop)(rental)

    async def _remember(self, number: int, params: Params) -> None:
        await asyncio.to_thread(self._folders.remember, number)

    async def _go_offline(self, number: int, params: Params) -> None:
        rental = self._store.rental(number)
        if rental is None:
            return
        data = params.get("data", "kept")
        if data == "old" and not self._folders.remembers(number):
            raise FileNotFoundError("Nothing of this machine was remembered; let `remember` befall it first.")
        back_at = self._clock.seconds() + float(params.get("for_s", 0))
        (self.fleet.cut_off if params.get("ssh") else self.fleet.pull_plug)(rental.box_id)
        if not params.get("ssh"):
            await self.fleet.settled(number)
            if data != "kept":
                await asyncio.to_thread(self._folders.lose if data == "lost" else self._folders.recall, number)
        if "for_s" in params:

            async def come_back() -> None:
                self.fleet.restore_power(rental.box_id)

            self._at(back_at, come_back)
