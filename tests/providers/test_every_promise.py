"""What a plug-in promises besides the plain way: each error where it belongs, each capability as it behaves."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests.support.sandbox import SandboxProcess

from dumont.providers import (
    Machine,
    MachineAbsent,
    MachineState,
    NoCapacity,
    OfferQuery,
    Provider,
    ProviderError,
    ProviderUnreachable,
)

from .test_every_provider import order, reaches, until

ABSENT = "999999999"


async def _stopped(provider: Provider) -> str:
    machine = await provider.rent(await order(provider))
    await reaches(provider, machine, MachineState.RUNNING)
    await provider.stop(machine)
    await reaches(provider, machine, MachineState.STOPPED)
    return machine


async def test_no_capacity_leaves_a_start_that_can_be_taken_back(provider: Provider, sandbox: SandboxProcess) -> None:
    """A start whose GPU is taken is told as such and waits; taken back, it never runs when the GPU is free again."""
    wish = await order(provider)
    machine = await provider.rent(wish)
    await reaches(provider, machine, MachineState.RUNNING)
    await provider.stop(machine)
    await reaches(provider, machine, MachineState.STOPPED)
    query = OfferQuery(machine_id=wish.offer.machine_id, num_gpus=wish.offer.num_gpus)
    rival = await provider.rent(await order(provider, offer=(await provider.offers(query))[0]))
    await reaches(provider, rival, MachineState.RUNNING)
    with pytest.raises(NoCapacity):
        await provider.start(machine)
    waiting = await provider.get(machine)
    assert waiting is not None and waiting.state is MachineState.WAITING_FOR_GPU
    for _ in range(2):
        await provider.cancel_start(machine)
    await reaches(provider, machine, MachineState.STOPPED)
    await provider.destroy(rival)
    await until(lambda: _free_again(provider, query))
    assert (await reaches(provider, machine, MachineState.STOPPED)).addresses == ()
    assert sandbox.control.line(int(machine)).running is False


async def _free_again(provider: Provider, query: OfferQuery) -> bool:
    return bool(await provider.offers(query))


async def test_every_change_of_a_machine_that_is_not_there(provider: Provider, identity_of_nobody: str) -> None:
    """Absence is told by every change but the last: to destroy what is gone is no error."""
    for change in (provider.stop, provider.start, provider.cancel_start):
        with pytest.raises(MachineAbsent):
            await change(ABSENT)
    with pytest.raises(MachineAbsent):
        await provider.attach_key(ABSENT, identity_of_nobody)
    for _ in range(2):
        await provider.destroy(ABSENT)


async def test_every_change_may_be_repeated(provider: Provider, sandbox: SandboxProcess) -> None:
    """Stop and start, asked twice, lead where they led once, and cost nothing twice."""
    machine = await provider.rent(await order(provider))
    await reaches(provider, machine, MachineState.RUNNING)
    await provider.start(machine)
    assert (await reaches(provider, machine, MachineState.RUNNING)).addresses
    for _ in range(2):
        await provider.stop(machine)
    await reaches(provider, machine, MachineState.STOPPED)
    for _ in range(2):
        await provider.start(machine)
    await reaches(provider, machine, MachineState.RUNNING)
    assert [m["instance_id"] for m in sandbox.control.state()["machines"]] == [int(machine)]


async def test_a_change_that_a_gateway_lost_is_unknown(provider: Provider, sandbox: SandboxProcess) -> None:
    """An error of a gateway is never read as done, refused or absent, whichever call it met."""
    machine = await provider.rent(await order(provider))
    await reaches(provider, machine, MachineState.RUNNING)
    for change in (provider.stop, provider.start, provider.cancel_start, provider.destroy, provider.get):
        sandbox.control.add_fault("http_error", {"status": 504})
        with pytest.raises(ProviderUnreachable) as unknown:
            await change(machine)
        assert not unknown.value.not_sent
    sandbox.control.add_fault("http_error", {"status": 502}, times=2)
    for ask in (provider.account, lambda: provider.find_by_label("x")):
        with pytest.raises(ProviderUnreachable):
            await ask()
    assert (await reaches(provider, machine, MachineState.RUNNING)).id == machine


async def test_errors_are_ours_and_tell_nothing_secret(provider: Provider, sandbox: SandboxProcess) -> None:
    """Whatever goes wrong is a ProviderError with words for a person, and without the key."""
    for status in (500, 502, 503):
        sandbox.control.add_fault("http_error", {"status": status})
        with pytest.raises(ProviderError) as error:
            await provider.list()
        assert error.value.detail and sandbox.key not in error.value.detail + repr(error.value)


async def test_stop_keeps_the_disk_where_it_is_said(provider: Provider, sandbox: SandboxProcess) -> None:
    """`stop_keeps_disk`: what was written is there after stop and start."""
    assert provider.capabilities.stop_keeps_disk
    machine = await provider.rent(await order(provider))
    up = await reaches(provider, machine, MachineState.RUNNING)
    note = Path(up.workspace_root) / "note"
    note.write_text("kept")
    await provider.stop(machine)
    down = await reaches(provider, machine, MachineState.STOPPED)
    assert down.disk_hour_nano, "a disk that is kept has a price"
    await provider.start(machine)
    await reaches(provider, machine, MachineState.RUNNING)
    assert note.read_text() == "kept"


async def test_interruptible_offers_where_it_is_said(provider: Provider) -> None:
    """`interruptible`: there are offers of the kind, and a machine rented from one says that it is one."""
    found = await provider.offers(OfferQuery(machine_type="interruptible", limit=1))
    assert bool(found) is provider.capabilities.interruptible
    bid = await provider.rent(await order(provider, offer=found[0]))
    plain = await provider.rent(await order(provider))
    seen = {machine.id: machine.interruptible for machine in await provider.list()}
    assert seen == {bid: True, plain: False}


async def test_charges_are_stated_where_it_is_said(provider: Provider) -> None:
    """`states_charges`: a machine that ran has lines of charges, in whole nano-dollars, with a beginning and an end."""
    machine = await _stopped(provider)
    day, now = timedelta(days=1), datetime.now(timezone.utc)
    lines = await provider.charges(machine, now - day, now + day)
    assert bool(lines) is provider.capabilities.states_charges
    for line in lines:
        assert isinstance(line.amount_nano, int) and line.start <= line.end


async def test_one_machine_reads_alike_everywhere(provider: Provider) -> None:
    """By number, by label and in the listing: the same machine with the same facts."""
    wish = await order(provider)
    machine = await provider.rent(wish)
    up = await reaches(provider, machine, MachineState.RUNNING)

    def facts(seen: Machine) -> tuple[object, ...]:
        return seen.id, seen.label, seen.state, seen.addresses, seen.price_hour_nano, seen.interruptible

    assert [facts(found) for found in await provider.find_by_label(wish.label)] == [facts(up)]
    assert [facts(found) for found in await provider.list()] == [facts(up)]


@pytest.fixture
def identity_of_nobody() -> str:
    """A public key that nobody has."""
    return "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7ZzR2m9yqkR6ZbVZ8sI1tEbK2Zk9S5f4WmX0y1aB2c nobody"
