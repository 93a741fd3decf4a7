"""Vast's rows in our words: prices, addresses, states and places, and what is dropped as junk."""

import math
from datetime import datetime, timezone
from typing import Any

import pytest

from dumont.providers import Address, Machine, MachineState, Offer, country_of
from dumont.providers.vast.translate import account_from, machine_from, offer_from, offer_row

from .recorded import instance, offer


def _machine(**changes: Any) -> Machine:
    found = machine_from(instance(**changes))
    assert found is not None
    return found


def _offer(**changes: Any) -> Offer:
    found = offer_row(offer(**changes))
    assert found is not None
    return offer_from(found, provider="vast")


def test_offer_in_our_units() -> None:
    """Prices are nano-dollars, memory is of one GPU, and processor and memory are the offer's share."""
    found = _offer()
    assert (found.price_hour_nano, found.gpu_hour_nano, found.disk_hour_nano) == (350_833_330, 346_666_670, 4_166_670)
    assert (found.storage_gb_month_nano, found.min_bid_hour_nano) == (150_000_000, 200_000_000)
    assert (found.gpu_memory_mib, found.cpu_cores, found.cuda_version) == (24564, 32.0, "12.8")
    assert found.cpu_ram_gb == pytest.approx(64.401)
    assert (found.machine_id, found.country, found.verified) == ("22991", "US", True)
    assert found.available_until == datetime.fromtimestamp(1793776000, tz=timezone.utc)


@pytest.mark.parametrize(
    "junk",
    [
        {"dph_total": None},
        {"dph_total": math.nan},
        {"dph_total": math.inf},
        {"dph_total": -1},
        {"dph_total": 0},
        {"gpu_name": None},
        {"num_gpus": 0},
        {"num_gpus": None},
        {"gpu_ram": None},
        {"machine_id": None},
    ],
)
def test_junk_offers_are_dropped(junk: dict[str, Any]) -> None:
    """An offer without a usable price, GPU or machine is no offer."""
    assert offer_row(offer(**junk)) is None


def test_unknown_is_none_never_zero() -> None:
    """Missing and null fields stay unknown, and numbers may come as text."""
    names = ("cpu_cores", "cpu_cores_effective", "reliability", "inet_down", "disk_space", "end_date", "geolocation")
    found = _offer(**dict.fromkeys(names), dph_total="0.35", verification=None)
    assert found.price_hour_nano == 350_000_000
    unknown = (found.cpu_cores, found.reliability, found.inet_down_mbps, found.disk_gb, found.available_until)
    assert set(unknown) == {None}
    assert (found.country, found.verified) == (None, False)


def test_addresses_are_pairs_direct_first() -> None:
    """Host and port of one way stay together, and white space does not travel along."""
    machine = _machine()
    assert machine.addresses == (Address("203.0.113.42", 40122), Address("ssh4.vast.ai", 15512))
    assert (machine.workspace_root, machine.public_ip) == ("/workspace", "203.0.113.42")
    assert _machine(ports={}).addresses == (Address("ssh4.vast.ai", 15512),)
    assert _machine(ports=None, ssh_host=None).addresses == ()
    assert _machine(ssh_port=None, ports={"22/tcp": [{"HostPort": "x"}]}).addresses == ()
    assert _machine(workspace_root="/m/7/root/workspace").workspace_root == "/m/7/root/workspace"
    assert _machine(workspace_root="../etc").workspace_root == "/workspace"


def test_machine_prices_come_from_the_instance() -> None:
    """A stopped machine still tells what it costs when running, and its disk's own rate."""
    stopped = _machine(instance={"gpuCostPerHour": 0, "diskHour": 0.006, "totalHour": 0.006})
    assert (stopped.price_hour_nano, stopped.gpu_hour_nano, stopped.disk_hour_nano) == (
        350_833_330,
        346_666_670,
        6_000_000,
    )
    bare = _machine(search=None, instance=None)
    assert (bare.price_hour_nano, bare.disk_hour_nano) == (350_833_330, 4_166_670)
    unknown = _machine(search=None, instance=None, dph_total=None, dph_base=None, storage_total_cost=None)
    assert (unknown.price_hour_nano, unknown.gpu_hour_nano, unknown.disk_hour_nano) == (None, None, None)


S = MachineState


@pytest.mark.parametrize(
    ("actual", "intended", "current", "message", "state"),
    [
        ("running", "running", "running", "success", S.RUNNING),
        ("running", "stopped", "running", "success", S.STOPPING),
        (None, "running", "running", None, S.PROVISIONING),
        ("loading", "running", "running", "Pulling from library", S.PROVISIONING),
        ("created", "running", "running", "", S.PROVISIONING),
        ("created", "running", "running", "x: OCI runtime create failed: y", S.FAILED),
        ("loading", "running", "running", "Error response from daemon: manifest unknown", S.FAILED),
        ("exited", "stopped", "stopped", "", S.STOPPED),
        ("stopped", "stopped", "stopped", "", S.STOPPED),
        ("loading", "stopped", "running", "", S.STOPPING),
        ("exited", "running", "stopped", "state change queued.", S.WAITING_FOR_GPU),
        ("scheduling", "running", "stopped", "queued", S.WAITING_FOR_GPU),
        ("exited", "running", "stopped", "", S.PROVISIONING),
        ("exited", "running", "running", "", S.FAILED),
        ("rebooting", "running", "running", "", S.PROVISIONING),
        ("offline", "running", "running", "success", S.UNREACHABLE),
        ("unknown", "stopped", "stopped", "", S.UNREACHABLE),
        ("running", "stopped", "unloaded", "", S.STOPPING),
        ("hibernating", "running", "running", "", S.UNKNOWN),
        ("frozen", "frozen", "running", "", S.UNKNOWN),
        ("exited", None, None, "", S.UNKNOWN),
    ],
)
def test_states(actual: str | None, intended: str | None, current: str | None, message: str | None, state: S) -> None:
    """The four fields and the message fold into one word; new words become unknown and crash nothing."""
    machine = _machine(actual_status=actual, intended_status=intended, cur_state=current, status_msg=message)
    assert (machine.state, machine.raw_status) == (state, actual)


def test_running_needs_an_address() -> None:
    """A running machine without any way to it is still on its way."""
    assert _machine(ports=None, ssh_host=None).state is MachineState.PROVISIONING


@pytest.mark.parametrize(
    ("place", "country"),
    [
        ("Texas, US", "US"),
        (", US", "US"),
        ("US", "US"),
        ("Hong Kong, HK", "HK"),
        ("Yutakachō, Shinagawa District, Tokyo, JP", "JP"),
        ("California, United States", "US"),
        ("Texas, US, NA", "US"),
        ("Windhoek, NA", "NA"),
        ("Riyadh, SA", "SA"),
        (", CA", "CA"),
        ("Indiana", None),
        ("AUSTRALIA", "AU"),
        ("  sweden , se ", "SE"),
        ("Praha, Czech Republic", "CZ"),
        ("Nowhere, XX", None),
        ("", None),
        (None, None),
        (", ,", None),
    ],
)
def test_countries(place: str | None, country: str | None) -> None:
    """The country is read from the last parts alone, and an unknown place has none."""
    assert country_of(place) == country


def test_credit_or_balance() -> None:
    """Spendable money is the credit, or the balance where no credit is told, or unknown."""
    assert account_from({"email": "a@b", "credit": 23.41, "balance": 1}).credit_nano == 23_410_000_000
    assert account_from({"balance": -0.5}).credit_nano == -500_000_000
    assert account_from({}).credit_nano is None
