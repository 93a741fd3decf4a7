"""Many machines watched at a marketplace that enforces its gaps: it need not refuse us, and looks stay fresh."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from tests.support.sandbox import SandboxProcess, start_in

from dumont.providers import Machine, ProviderError, ProviderUnreachable, RateLimited, VastProvider
from dumont.providers.vast.crowd import ENOUGH, Crowd

from .conftest import Plugin

MACHINES = 50
SECONDS = 5.0


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """A sandbox with fifty stopped machines that enforces the marketplace's gaps."""
    home = tmp_path_factory.mktemp("strict") / "sandbox"
    lenient = start_in(home)
    body = {"image": "ubuntu:22.04", "disk": 10, "target_state": "stopped"}
    made = 0
    while made < MACHINES:
        for offer in lenient.offers()[: MACHINES - made]:
            status, _ = lenient.call("PUT", f"/api/v0/asks/{offer['id']}/", body)
            made += status == 200
    lenient.stop()
    process = lenient.restart(rate_limits=True)
    yield process
    process.stop()
    process.end_leftovers()


async def test_fifty_watched_machines_within_the_gaps(strict: SandboxProcess) -> None:
    """Fifty loops look at one machine each, and one lists them all: less than one call in a hundred is refused."""
    numbers = [str(machine["instance_id"]) for machine in strict.control.state()["machines"]]
    assert len(numbers) == MACHINES
    provider = VastProvider("vast", strict.url, strict.key)
    looks = dict.fromkeys(numbers, 0)
    refused = 0
    until = time.monotonic() + SECONDS

    async def watch(number: str) -> None:
        nonlocal refused
        while time.monotonic() < until or (looks[number] < 2 and time.monotonic() < until + 60):
            try:
                machine = await provider.get(number)
                assert machine is not None and machine.id == number
                looks[number] += 1
            except RateLimited:
                refused += 1
            await asyncio.sleep(1.0)

    try:
        await asyncio.gather(*(watch(number) for number in numbers))
        assert sorted(machine.id for machine in await provider.list()) == sorted(numbers)
    finally:
        await provider.close()
    assert refused * 100 < sum(looks.values()), f"{refused} refused of {sum(looks.values())}"
    assert min(looks.values()) >= 2, "a machine was not looked at often enough"


def _machine(number: str) -> Machine:
    values = dict.fromkeys(name for name in Machine.__slots__)
    return Machine(**{**values, "id": number})  # type: ignore[arg-type]


class Market:
    """A listing that a test holds back, and single looks that it counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.singles: list[str] = []
        self.may_end = asyncio.Event()
        self.error: ProviderError | None = None
        self.listed = {str(number) for number in range(10)}

    async def list(self) -> list[Machine]:
        self.begun += 1
        listed = sorted(self.listed)
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return [_machine(number) for number in listed]

    def single(self, number: str) -> Callable[[], "asyncio.Future[Machine | None]"]:
        async def ask() -> Machine | None:
            self.singles.append(number)
            await self.may_end.wait()
            return _machine(number) if number in self.listed else None

        return lambda: asyncio.ensure_future(ask())


async def _looks(crowd: Crowd, market: Market, numbers: list[str]) -> "list[asyncio.Task[Machine | None]]":
    tasks = [asyncio.create_task(crowd.look(number, market.single(number))) for number in numbers]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_a_call_that_comes_too_soon_is_told(strict: SandboxProcess, plugin: Plugin) -> None:
    """A plug-in that does not keep the gaps learns how long to wait, and that nothing was carried out."""
    hasty = plugin(strict.url, strict.key)
    try:
        with pytest.raises(RateLimited) as refusal:
            for _ in range(5):
                await hasty.list()
    finally:
        await hasty.close()
    assert refusal.value.retry_after is not None and refusal.value.retry_after > 0


async def test_a_look_is_never_answered_by_an_earlier_listing() -> None:
    """Who looks while a listing is under way waits for the next one, and sees what came in between."""
    market = Market()
    crowd = Crowd(market.list)
    early = await _looks(crowd, market, ["0", "1", "2", "3"])
    assert (market.begun, market.singles) == (1, ["0", "1"][: ENOUGH - 1])
    market.listed.add("new")
    late = await _looks(crowd, market, ["new", "4"])
    market.may_end.set()
    assert [machine.id for machine in await asyncio.gather(*early, *late) if machine] == [
        "0",
        "1",
        "2",
        "3",
        "new",
        "4",
    ]
    assert market.begun == 2


async def test_a_listing_proves_no_absence() -> None:
    """A machine that the listing leaves out, and every machine when it fails, is asked for by its number."""
    market = Market()
    market.may_end.set()
    crowd = Crowd(market.list)
    found = await asyncio.gather(*await _looks(crowd, market, ["0", "1", "2", "gone"]))
    assert [machine and machine.id for machine in found] == ["0", "1", "2", None]
    assert "gone" in market.singles
    market.error = ProviderUnreachable("incomplete")
    market.singles.clear()
    found = await asyncio.gather(*await _looks(crowd, market, ["0", "1", "2", "3"]))
    assert [machine and machine.id for machine in found] == ["0", "1", "2", "3"]
    assert sorted(market.singles) == ["0", "1", "2", "3"]
