"""What every provider must do, judged by the effects at the marketplace and on the machines themselves."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess

from dumont.core import new_id
from dumont.providers import (
    BadCredentials,
    Machine,
    MachineAbsent,
    MachineState,
    Offer,
    OfferGone,
    OfferQuery,
    Provider,
    ProviderRefused,
    ProviderUnreachable,
    RentRequest,
)
from dumont.remote import LoginRefused, SshIdentity, first_reachable

from .conftest import Plugin


async def order(provider: Provider, **changes: Any) -> RentRequest:
    offer = changes.pop("offer", None) or (await provider.offers(OfferQuery(limit=1)))[0]
    label = f"dumont-{new_id('req')[-12:]}-a1"
    return RentRequest(label=label, offer=offer, image="ubuntu:22.04", disk_gb=20, env={}, onstart=None, **changes)


async def until(probe: Callable[[], Awaitable[Any]], *, seconds: float = 60) -> Any:
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := await probe()):
        assert asyncio.get_running_loop().time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.03)
    return found


async def reaches(provider: Provider, machine_id: str, state: MachineState) -> Machine:
    async def there() -> Machine | None:
        machine = await provider.get(machine_id)
        return machine if machine is not None and machine.state is state else None

    found: Machine = await until(there)
    return found


def _labels(sandbox: SandboxProcess) -> list[str]:
    return [machine["label"] for machine in sandbox.control.state()["machines"]]


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        (OfferQuery(gpu_name="RTX_4090"), lambda o: o.gpu_name == "RTX 4090"),
        (OfferQuery(num_gpus=2), lambda o: o.num_gpus == 2),
        (OfferQuery(min_gpu_ram_gb=40), lambda o: o.gpu_memory_mib >= 40_000),
        (OfferQuery(max_price_hour_nano=400_000_000), lambda o: o.price_hour_nano <= 400_000_000),
        (OfferQuery(min_reliability=0.998), lambda o: o.reliability >= 0.998),
        (OfferQuery(verified_only=True), lambda o: o.verified),
        (OfferQuery(countries=("us", "FR")), lambda o: o.country in ("US", "FR")),
        (OfferQuery(min_disk_gb=1000), lambda o: o.disk_gb >= 1000),
        (OfferQuery(machine_type="bid"), lambda o: o.machine_type == "interruptible" and o.min_bid_hour_nano),
    ],
)
async def test_each_filter_is_kept(provider: Provider, query: OfferQuery, holds: Callable[[Offer], bool]) -> None:
    """Each wish keeps exactly the offers that fulfil it, cheapest first."""
    everything = await provider.offers(OfferQuery(disk_gb=query.disk_gb, machine_type=query.machine_type))
    found = await provider.offers(query)
    wanted = {offer.provider_offer_id for offer in everything if holds(offer)}
    assert {offer.provider_offer_id for offer in found} == wanted and wanted
    assert [o.price_hour_nano for o in found] == sorted(o.price_hour_nano for o in found)


async def test_prices_hold_the_asked_disk(provider: Provider) -> None:
    """More disk costs more, and the parts add up to the total within the rounding of each."""
    small = {o.machine_id: o for o in await provider.offers(OfferQuery(disk_gb=10, num_gpus=1))}
    large = {o.machine_id: o for o in await provider.offers(OfferQuery(disk_gb=100, num_gpus=1))}
    both = small.keys() & large.keys()
    assert both
    for machine in both:
        assert large[machine].disk_hour_nano == pytest.approx(10 * small[machine].disk_hour_nano, abs=20)
        for offer in (small[machine], large[machine]):
            assert abs(offer.price_hour_nano - offer.gpu_hour_nano - offer.disk_hour_nano) <= 2


async def test_life_of_a_machine(provider: Provider, sandbox: SandboxProcess) -> None:
    """Rented, running, stopped, started and destroyed: each step is seen at the marketplace and in its bill."""
    wish = await order(provider)
    machine = await provider.rent(wish)
    up = await reaches(provider, machine, MachineState.RUNNING)
    assert (up.label, up.gpu_name, up.machine_id) == (wish.label, wish.offer.gpu_name, wish.offer.machine_id)
    assert up.price_hour_nano == wish.offer.price_hour_nano
    assert up.addresses and up.workspace_root.startswith("/") and up.started_at is not None

    await provider.stop(machine)
    down = await reaches(provider, machine, MachineState.STOPPED)
    assert down.addresses == ()
    assert sandbox.control.line(int(machine)).running is False

    await provider.start(machine)
    assert (await reaches(provider, machine, MachineState.RUNNING)).addresses

    await provider.destroy(machine)
    await until(lambda: _absent(provider, machine))
    assert sandbox.control.line(int(machine)).destroyed_at is not None
    await provider.destroy(machine)
    with pytest.raises(MachineAbsent):
        await provider.stop(machine)


async def _absent(provider: Provider, machine: str) -> bool:
    return await provider.get(machine) is None


async def test_same_label_rents_once(provider: Provider, sandbox: SandboxProcess) -> None:
    """Asking twice under one label gives the same machine, and there is only one."""
    wish = await order(provider)
    assert await provider.rent(wish) == await provider.rent(wish)
    assert _labels(sandbox) == [wish.label]
    assert [m.label for m in await provider.find_by_label(wish.label)] == [wish.label]
    assert await provider.find_by_label(wish.label + "x") == []


async def test_lost_reply_still_rents_one(provider: Provider, sandbox: SandboxProcess) -> None:
    """An order that was carried out but never answered is found by its label instead of being given again."""
    wish = await order(provider)
    sandbox.control.add_fault("accept_then_drop", {"ops": ["create"]})
    machine = await provider.rent(wish)
    assert sandbox.control.faults() == []
    assert [(m["instance_id"], m["label"]) for m in sandbox.control.state()["machines"]] == [(int(machine), wish.label)]


async def test_failed_gateway_at_an_order_rents_none(provider: Provider, sandbox: SandboxProcess) -> None:
    """A gateway error that carried nothing out stays in doubt, and a later attempt under the same label rents one."""
    wish = await order(provider)
    sandbox.control.add_fault("http_error", {"ops": ["create"], "status": 502})
    with pytest.raises(ProviderUnreachable):
        await provider.rent(wish)
    assert _labels(sandbox) == []
    await provider.rent(wish)
    assert _labels(sandbox) == [wish.label]


async def test_sold_offer_is_gone(provider: Provider, sandbox: SandboxProcess) -> None:
    """An offer that somebody else took is told apart from other refusals, and nothing is rented."""
    wish = await order(provider)
    sandbox.control.add_fault("sold_between")
    with pytest.raises(OfferGone):
        await provider.rent(wish)
    assert _labels(sandbox) == []


async def test_refused_order_leaves_no_machine(provider: Provider, sandbox: SandboxProcess) -> None:
    """A bid that is too low is refused, and the stopped machine that it leaves behind is destroyed."""
    offer = (await provider.offers(OfferQuery(machine_type="bid", limit=1)))[0]
    low = {name: getattr(offer, name) for name in offer.__slots__} | {"min_bid_hour_nano": 2_000_000}
    with pytest.raises(ProviderRefused):
        await provider.rent(await order(provider, offer=Offer(**low)))
    assert _labels(sandbox) == []
    assert [line.destroyed_at is not None for line in sandbox.control.ledger()][-1]


async def test_failure_is_never_absence(provider: Provider, sandbox: SandboxProcess) -> None:
    """Gateway errors and incomplete answers raise; only an answer that worked says None or lists nothing."""
    machine = await provider.rent(await order(provider))
    sandbox.control.add_fault("http_error", {"status": 500}, times=3)
    for ask in (lambda: provider.get(machine), provider.list, lambda: provider.offers(OfferQuery())):
        with pytest.raises(ProviderUnreachable):
            await ask()
    assert (await provider.get(machine)) is not None
    assert await provider.get("999999999") is None
    assert await provider.get("not-a-number") is None


async def test_empty_listing_does_not_hide_a_machine(provider: Provider, sandbox: SandboxProcess) -> None:
    """A listing that lies once is contradicted by the single read, which is why absence is believed only twice."""
    machine = await provider.rent(await order(provider))
    sandbox.control.add_fault("empty_list_200")
    assert await provider.list() == []
    assert [m.id for m in await provider.list()] == [machine]
    assert await provider.get(machine) is not None


async def test_unanswered_stop_start_destroy_may_be_repeated(provider: Provider, sandbox: SandboxProcess) -> None:
    """Each change whose reply was lost raises as unknown, and repeating it leads to the wanted state."""
    machine = await provider.rent(await order(provider))
    await reaches(provider, machine, MachineState.RUNNING)
    for name in ("stop", "start", "destroy"):
        sandbox.control.add_fault("accept_then_drop", {"ops": [name]})
    for change, state in ((provider.stop, MachineState.STOPPED), (provider.start, MachineState.RUNNING)):
        with pytest.raises(ProviderUnreachable):
            await change(machine)
        await change(machine)
        await reaches(provider, machine, state)
    with pytest.raises(ProviderUnreachable):
        await provider.destroy(machine)
    await provider.destroy(machine)
    await until(lambda: _absent(provider, machine))


async def test_dead_host_is_unreachable_not_gone(provider: Provider, sandbox: SandboxProcess) -> None:
    """A machine whose host lost its power is listed as unreachable."""
    machine = await provider.rent(await order(provider))
    await reaches(provider, machine, MachineState.RUNNING)
    sandbox.control.kill_host(int(machine))
    await reaches(provider, machine, MachineState.UNREACHABLE)


async def test_listing_holds_every_machine(provider: Provider, sandbox: SandboxProcess) -> None:
    """All machines of the account are listed, once each, also those that somebody made without a label."""
    made = [await provider.rent(await order(provider)) for _ in range(2)]
    foreign = str(sandbox.rent())
    listed = await provider.list()
    assert sorted(machine.id for machine in listed) == sorted([*made, foreign])
    assert next(machine.label for machine in listed if machine.id == foreign) is None


async def test_wrong_key_is_told(sandbox: SandboxProcess, plugin: Plugin) -> None:
    """A key that the provider does not know is bad credentials, for reading as for renting."""
    stranger = plugin(sandbox.url, "wrong")
    try:
        with pytest.raises(BadCredentials):
            await stranger.account()
        with pytest.raises(BadCredentials):
            await stranger.list()
    finally:
        await stranger.close()


async def test_account_tells_credit(provider: Provider) -> None:
    """The account behind the key is told with what it can spend."""
    account = await provider.account()
    assert account.email and account.credit_nano and account.credit_nano > 0


async def test_attached_key_opens_the_machine(provider: Provider, sandbox: SandboxProcess, identity_of: Any) -> None:
    """Only after its key is attached can somebody log in; attaching again changes nothing."""
    stranger: SshIdentity = identity_of("stranger")
    machine = await provider.rent(await order(provider))
    up = await reaches(provider, machine, MachineState.RUNNING)
    with pytest.raises(LoginRefused):
        async with first_reachable(up.addresses, stranger, host_key=None):
            pass
    for _ in range(2):
        await provider.attach_key(machine, stranger.public_key)
    async with first_reachable(up.addresses, stranger, host_key=None) as hands:
        assert (await hands.run(f"test -d {up.workspace_root} && echo here", timeout=60)).stdout == "here\n"


async def test_account_key_opens_later_machines(provider: Provider, sandbox: SandboxProcess, identity_of: Any) -> None:
    """A key of the account opens machines rented afterwards, and is stored once however often it is ensured."""
    ours: SshIdentity = identity_of("ours")
    for comment in ("", "-again"):
        await provider.ensure_key(ours.public_key + comment)
    keys = [row["key"].split()[1] for row in sandbox.call("GET", "/api/v0/ssh/")[1]]
    assert keys.count(ours.public_key.split()[1]) == 1
    machine = await provider.rent(await order(provider))
    up = await reaches(provider, machine, MachineState.RUNNING)
    async with first_reachable(up.addresses, ours, host_key=None) as hands:
        assert (await hands.run("echo in", timeout=60)).stdout == "in\n"


async def test_charges_are_the_providers_own(provider: Provider, sandbox: SandboxProcess) -> None:
    """The charges of a machine are its own alone and agree with the marketplace's ledger to its three decimals."""
    machine, other = await provider.rent(await order(provider)), await provider.rent(await order(provider))
    await reaches(provider, machine, MachineState.RUNNING)
    await provider.destroy(machine)
    now = datetime.now(timezone.utc)
    lines = await provider.charges(machine, now - timedelta(days=1), now + timedelta(days=1))
    ledger = sandbox.control.line(int(machine))
    assert {line.kind for line in lines} <= {"gpu", "disk", "bandwidth"} and lines
    assert abs(sum(line.amount_nano for line in lines) - ledger.total_nanousd) <= 500_000 * len(lines)
    assert await provider.charges(machine, now - timedelta(days=9), now - timedelta(days=8)) == []
    assert other != machine


@pytest.fixture
def identity_of() -> Callable[[str], SshIdentity]:
    return SshIdentity.generate
