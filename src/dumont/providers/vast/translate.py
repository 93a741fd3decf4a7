"""Turn Vast's offers, instances, charges and account into ours; pure, and never stricter than it must be."""

import math
from datetime import datetime
from typing import Any, NamedTuple

from dumont.core import nanousd
from dumont.providers.contract import Account, Address, Charge, Machine, Offer
from dumont.providers.geolocation import country_of
from dumont.providers.vast.states import state_of
from dumont.providers.vast.values import Row, finite, inner, line, moment, money, number, text, whole

_CHARGE_KINDS = {"gpu": "gpu", "disk": "disk", "bwd": "bandwidth", "bwu": "bandwidth"}

_MOST_GPUS, _MOST_MIB, _MOST_NANO = 1024, 2**30, 10**15
"""Beyond these a number is junk: no machine has so many GPUs, no GPU such memory, no hour costs a million."""


class OfferRow(NamedTuple):
    """A usable row of a search with what tells it from others, the rest not yet translated."""

    offer_id: str
    machine_id: str
    gpu_name: str
    num_gpus: int
    gpu_memory_mib: int
    price_hour_nano: int
    row: Row

    @property
    def machine(self) -> tuple[str, int]:
        """What stays the same when the offer's number changes: the machine and its number of GPUs."""
        return self.machine_id, self.num_gpus


def offer_row(row: Row) -> OfferRow | None:
    """Return a row that is an offer, or None for junk: no id, no GPU, no memory, or no usable price."""
    offer_id, machine, name = line(row, "ask_contract_id", "id"), line(row, "machine_id"), line(row, "gpu_name")
    gpus, memory = whole(row, "num_gpus"), whole(row, "gpu_ram")
    total = money(row, "dph_total")
    if offer_id is None or machine is None or name is None or gpus is None or memory is None or total is None:
        return None
    if not (1 <= gpus <= _MOST_GPUS and 1 <= memory <= _MOST_MIB and 0 < total <= _MOST_NANO):
        return None
    return OfferRow(offer_id, machine, name, gpus, memory, total, row)


def offer_from(found: OfferRow, *, provider: str) -> Offer:
    """Return the offer that a row states."""
    row, total = found.row, found.price_hour_nano
    disk = money(row, "storage_total_cost")
    if disk is None:
        disk = money(inner(row, "search"), "diskHour")
    disk, gpu = _possible(disk), _possible(money(row, "dph_base"))
    return Offer(
        provider=provider,
        provider_offer_id=found.offer_id,
        machine_id=found.machine_id,
        gpu_name=found.gpu_name,
        num_gpus=found.num_gpus,
        gpu_memory_mib=found.gpu_memory_mib,
        price_hour_nano=total,
        gpu_hour_nano=gpu if gpu is not None else max(0, total - (disk or 0)),
        disk_hour_nano=disk if disk is not None else max(0, total - (gpu if gpu is not None else total)),
        machine_type="interruptible" if row.get("is_bid") is True else "on-demand",
        **_offer_hardware(row),
    )


def _offer_hardware(row: Row) -> dict[str, Any]:
    place = line(row, "geolocation")
    memory, share = _amount(row, "cpu_ram"), _amount(row, "gpu_frac")
    cores = _amount(row, "cpu_cores_effective") or _times(_amount(row, "cpu_cores"), share) or None
    return {
        "host_id": line(row, "host_id"),
        "cpu_cores": cores,
        "cpu_name": line(row, "cpu_name"),
        "cpu_ram_gb": _rounded(_times(_times(memory, share), 0.001)) or None,
        "disk_gb": _amount(row, "disk_space"),
        "inet_down_mbps": _amount(row, "inet_down"),
        "inet_up_mbps": _amount(row, "inet_up"),
        "storage_gb_month_nano": _possible(money(row, "storage_cost")),
        "inet_down_gb_nano": money(row, "inet_down_cost"),
        "inet_up_gb_nano": money(row, "inet_up_cost"),
        "min_bid_hour_nano": money(row, "min_bid"),
        "geolocation": place,
        "country": country_of(place),
        "reliability": _share(number(row, "reliability", "reliability2")),
        "verified": row.get("verification") == "verified",
        "static_ip": row.get("static_ip") is True,
        "cuda_version": line(row, "cuda_max_good") or _short(number(row, "cuda_max_good")),
        "driver_version": line(row, "driver_version"),
        "dlperf": _amount(row, "dlperf"),
        "tflops": _amount(row, "total_flops"),
        "available_until": moment(row, "end_date"),
    }


def machine_from(row: Row) -> Machine | None:
    """Return one machine, or None for a row without an id.

    Units: prices are taken from the instance itself, never from the offer it was rented by.
    """
    machine = text(row, "id")
    if machine is None:
        return None
    addresses = addresses_from(row)
    state, reason = state_of(row, reachable=bool(addresses))
    place = text(row, "geolocation")
    running, current = inner(row, "search"), inner(row, "instance")
    return Machine(
        id=machine,
        label=text(row, "label"),
        state=state,
        raw_status=text(row, "actual_status"),
        detail=reason,
        addresses=addresses,
        workspace_root=_workspace_root(row),
        gpu_name=text(row, "gpu_name"),
        num_gpus=whole(row, "num_gpus"),
        gpu_memory_mib=whole(row, "gpu_ram"),
        machine_id=text(row, "machine_id"),
        price_hour_nano=_either(money(running, "totalHour"), money(row, "dph_total")),
        gpu_hour_nano=_either(money(running, "gpuCostPerHour"), money(row, "dph_base")),
        disk_hour_nano=_either(money(current, "diskHour"), money(row, "storage_total_cost")),
        started_at=moment(row, "start_date"),
        public_ip=text(row, "public_ipaddr"),
        disk_gb=number(row, "disk_space"),
        geolocation=place,
        country=country_of(place) or country_of(text(row, "country_code")),
        interruptible=row.get("is_bid") is True,
        ports=ports_from(row),
    )


def ports_from(row: Row) -> dict[str, Address]:
    """Return the open ports but SSH's own, by their names inside the machine."""
    host, found = text(row, "public_ipaddr"), {}
    for name, mapped in inner(row, "ports").items():
        first = mapped[0] if isinstance(mapped, list) and mapped and isinstance(mapped[0], dict) else {}
        number = whole(first, "HostPort") or 0
        if host and name != "22/tcp" and 0 < number < 65_536:
            found[str(name)] = Address(host, number)
    return found


def addresses_from(row: Row) -> tuple[Address, ...]:
    """Return the ways to the SSH server: direct first, then the proxy; host and port are never mixed."""
    found: list[Address] = []
    mapped = inner(row, "ports").get("22/tcp")
    direct = text(row, "public_ipaddr")
    if direct and isinstance(mapped, list) and mapped and isinstance(mapped[0], dict):
        found.append(Address(direct, whole(mapped[0], "HostPort") or 0))
    proxy = text(row, "ssh_host")
    if proxy:
        found.append(Address(proxy, whole(row, "ssh_port") or 0))
    usable = [address for address in found if 0 < address.port < 65_536]
    return tuple(dict.fromkeys(usable))


def charges_from(row: Row, machine_id: str) -> list[Charge]:
    """Return the lines of one charge row that belong to a machine; a row without lines is one of kind other."""
    start, end = moment(row, "start"), moment(row, "end")
    if text(row, "source") != f"instance-{machine_id}" or start is None or end is None:
        return []
    items = row.get("items")
    rows: list[Row] = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    lines = [_charge(item, start, end) for item in (rows or [row])]
    return [line for line in lines if line is not None]


def _charge(row: Row, start: datetime, end: datetime) -> Charge | None:
    amount = finite(row.get("amount"))
    if amount is None:
        return None
    return Charge(
        kind=_CHARGE_KINDS.get(text(row, "type") or "", "other"),
        amount_nano=nanousd(str(row["amount"])),
        start=moment(row, "start") or start,
        end=moment(row, "end") or end,
        description=text(row, "description") or "",
    )


def account_from(row: Row) -> Account:
    """Return the account; spendable money is `credit`, and `balance` where that is missing."""
    credit = row.get("credit") if finite(row.get("credit")) is not None else row.get("balance")
    return Account(text(row, "email"), None if finite(credit) is None else nanousd(str(credit)))


def _workspace_root(row: Row) -> str:
    root = row.get("workspace_root")
    return root if isinstance(root, str) and root.startswith("/") else "/workspace"


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor


def _amount(row: Row, name: str) -> float | None:
    found = number(row, name)
    return None if found is None or found < 0 else found


def _share(value: float | None) -> float | None:
    return None if value is None or not 0 <= value <= 1 else value


def _possible(nano: int | None) -> int | None:
    return None if nano is None or nano > _MOST_NANO else nano


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _short(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:g}"


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first
