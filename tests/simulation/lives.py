"""Lives to be lost: a process that has imported everything and forks a worker and a marketplace as often as they die.

`lives.py DOCUMENT` ends, with both, when its standard input ends.
"""

import asyncio
import json
import os
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import asyncssh  # noqa: E402, F401 - imported once, before anything is forked, as all of the following
import dbos  # noqa: E402, F401
import httpcore  # noqa: E402, F401
from tests.simulation.sabotage import SABOTAGE  # noqa: E402
from tests.simulation.script import Fate  # noqa: E402
from tests.support.world import worker_world  # noqa: E402

import dumont.durable.takeover as takeover  # noqa: E402
import dumont.durable.worker as worker_room  # noqa: E402
import dumont.hibernation  # noqa: E402, F401 - its workflows are bound by the worker
from dumont.db import set_sweep  # noqa: E402
from dumont.durable import Retry, Run, Worker, raise_alarms  # noqa: E402
from dumont.instances import Patience, World, keep_watch  # noqa: E402
from dumont.providers.vast.client import VastClient  # noqa: E402
from dumont.sandbox.journal import Journal  # noqa: E402
from dumont.sandbox.server import run as run_sandbox  # noqa: E402
from dumont.sandbox.serving import Serving  # noqa: E402
from dumont.sandbox.settings import SandboxSettings  # noqa: E402

PATIENCE = Patience(poll_seconds=0.15, absence_seconds=0.15, doubt_seconds=0.9, lost_seconds=0.6)
ORDERS = ("create", "destroy", "start", "stop")
CALLS = ("create", "change", "destroy", "keys")


class MortalEngine(worker_room.StepRecord):
    """The product's engine, in a process that dies before or after a step if the script says so."""

    fate: Fate

    async def step(self, name: str, body: Callable[[], Awaitable[Any]]) -> Any:
        """Meet the boundary before the body, and after it before its outcome is recorded."""

        async def mortal() -> Any:
            self.fate.meet("step", _plain(name), "before")
            outcome = await body()
            self.fate.meet("step", _plain(name), "after")
            return outcome

        return await super().step(name, mortal)

    async def transaction(self, name: str, body: Callable[[Any], Awaitable[Any]]) -> Any:
        """Meet the boundary before the rows are written, and with the rows written and not committed."""

        async def mortal(session: Any) -> Any:
            self.fate.meet("step", _plain(name), "before")
            outcome = await body(session)
            await session.flush()
            self.fate.meet("step", _plain(name), "after")
            return outcome

        return await super().transaction(name, mortal)

    async def write(self, name: str, *arguments: Any) -> Any:
        """Meet the boundary before the statement, and when it is committed."""
        self.fate.meet("step", _plain(name), "before")
        outcome = await super().write(name, *arguments)
        self.fate.meet("step", _plain(name), "after")
        return outcome


def _plain(name: str) -> str:
    return name.partition(" (")[0]


def be_worker(given: dict[str, str]) -> None:
    """Work until death."""
    fate = Fate(Path(given["folder"]), "worker")
    MortalEngine.fate = fate
    worker_room.StepRecord = MortalEngine  # type: ignore[misc]
    takeover.APART_SECONDS, takeover.LOOK_SECONDS = 0.3, 0.35
    _mortal_calls(fate)
    _impatient_retries()
    if fate.script.broken is not None:
        SABOTAGE[fate.script.broken]()
    asyncio.run(_work(given))


def _impatient_retries() -> None:
    """Let steps be tried again sooner, and given up sooner where they are given up at all."""
    guard = Run._guard

    async def sooner(self: Run, name: str, body: Any, retry: Retry, checks_itself: bool) -> Any:
        seconds = retry.for_seconds if retry.for_seconds == float("inf") else min(retry.for_seconds, 15.0)
        retry = replace(retry, for_seconds=seconds, first_seconds=0.1, most_seconds=0.8)
        return await guard(self, name, body, retry, checks_itself)

    Run._guard = sooner  # type: ignore[method-assign]


def _mortal_calls(fate: Fate) -> None:
    """Let the worker die also before and after its orders to the provider."""
    ask = VastClient.ask

    async def mortal(self: VastClient, kind: str, *arguments: Any, **more: Any) -> Any:
        if kind not in CALLS:
            return await ask(self, kind, *arguments, **more)
        fate.meet("call", kind, "before")
        try:
            return await ask(self, kind, *arguments, **more)
        finally:
            fate.meet("call", kind, "after")

    VastClient.ask = mortal  # type: ignore[method-assign]


async def _work(given: dict[str, str]) -> None:
    world = worker_world(Path(given["home"]), given["worker_url"], given["sandbox_url"], given["sandbox_key"])
    world.settings = replace(world.settings, loss_seconds=0.8, sweep_seconds=1.0)
    world.patience["sandbox"] = PATIENCE
    worker = Worker(given["worker_url"], world, world.database, concurrency=8, poll_seconds=0.3)
    await worker.start()
    await asyncio.gather(keep_watch(world), _alarms(world))


async def _alarms(world: World) -> None:
    while True:
        begun = time.time()
        async with world.database.begin() as session:
            await set_sweep(session)
            await raise_alarms(session)
        MortalEngine.fate.tell(f"alarms\t{begun:.3f}")
        await asyncio.sleep(1.5)


def be_sandbox(given: dict[str, str]) -> None:
    """Be the marketplace until death; its state is in its home."""
    fate = Fate(Path(given["folder"]), "sandbox")
    _told_faults(fate)
    _mortal_orders(fate)
    script = fate.script
    settings = SandboxSettings(
        home=Path(given["sandbox_home"]),
        port=int(given["sandbox_port"]),
        key=given["sandbox_key"],
        start_seconds=0.05,
        root_ok=os.getuid() == 0,
        seed=script.seed,
        offers=0,
        market="still",
        faults=() if script.calm else tuple(script.rules),
    )
    run_sandbox(settings)


def _told_faults(fate: Fate) -> None:
    """Write every fault that strikes into the seed's log, which outlives the marketplace."""
    write = Journal.write

    def telling(self: Journal, kind: str, entity: str, **facts: Any) -> None:
        if kind == "decision" and facts["decision"] == "taken":
            fate.tell(f"fault\t{facts['fault']}\t{entity} {facts['op']}")
        write(self, kind, entity, **facts)

    Journal.write = telling  # type: ignore[method-assign]


def _mortal_orders(fate: Fate) -> None:
    """Let the marketplace die before it carries out an order, or after it and before the answer."""
    answer = Serving._answer

    async def mortal(self: Serving, request: Any, name: str, event: Any, work: Any) -> Any:
        if event.op not in ORDERS:
            return await answer(self, request, name, event, work)
        fate.meet("order", event.op, "before")
        reply = await answer(self, request, name, event, work)
        fate.meet("order", event.op, "after")
        return reply

    Serving._answer = mortal  # type: ignore[method-assign]


def main() -> None:
    """Fork a worker and a marketplace whenever there is none, until standard input ends."""
    given = json.loads(sys.argv[1])
    roles: dict[str, Callable[[dict[str, str]], None]] = {"sandbox": be_sandbox, "worker": be_worker}
    living: dict[str, int] = {}
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        for role, be in roles.items():
            if role in living and os.waitpid(living[role], os.WNOHANG)[0] == 0:
                continue
            if role in living:
                time.sleep(0.05)
            living[role] = _fork(role, be, given)
            (Path(given["folder"]) / f"{role}.pid").write_text(str(living[role]))
    for pid in living.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(role: str, be: Callable[[dict[str, str]], None], given: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    log = os.open(Path(given["folder"]) / f"{role}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        be(given)
    except BaseException as error:  # noqa: BLE001 - a life that ended by an error is written down and begun anew
        print(f"{role} ended: {error!r}", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
