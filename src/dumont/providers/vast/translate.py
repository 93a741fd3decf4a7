"""Turn Vast's offers, instances, charges and account into ours; pure, and never stricter than it must be."""

import math
from datetime import datetime
from typing import Any

from dumont.core import nanousd
from dumont.providers.contract import Account, Address, Charge, Machine, Offer
from dumont.providers.geolocation import country_of
from dumont.providers.vast.states import state_of
from dumont.providers.vast.values import Row, finite, inner, moment, money, number, text, whole

_CHARGE_KINDS = {"gpu": "gpu", "disk": "disk", "bwd": "bandwidth", "bwu": "bandwidth"}


def offer_from(row: Row, *, provider: str) -> Offer | None:
    """Return one offer, or None for a junk row: no id, no GPU, no memory, or no usable price."""
    offer_id, machine, name = text(row, "ask_contract_id", "id"), text(row, "machine_id"), text(row, "gpu_name")
    gpus, memory = whole(row, "num_gpus"), whole(row, "gpu_ram")
    total = money(row, "dph_total")
    if offer_id is None or machine is None or name is None or gpus is None or memory is None or total is None:
        return None
    if gpus < 1 or memory < 1 or total <= 0:
        return None
    disk = money(row, "storage_total_cost")
    if disk is None:
        disk = money(inner(row, "search"), "diskHour")
    gpu = money(row, "dph_base")
    return Offer(
        provider=provider,
        provider_offer_id=offer_id,
        machine_id=machine,
        gpu_name=name,
        num_gpus=gpus,
        gpu_memory_mib=memory,
        price_hour_nano=total,
        gpu_hour_nano=gpu if gpu is not None else total - (disk or 0),
        disk_hour_nano=disk if disk is not None else max(0, total - (gpu if gpu is not None else total)),
        machine_type="interruptible" if row.get("is_bid") is True else "on-demand",
        **_offer_hardware(row),
    )


def _offer_hardware(row: Row) -> dict[str, Any]:
    place = text(row, "geolocation")
    memory, share = number(row, "cpu_ram"), number(row, "gpu_frac")
    cores = number(row, "cpu_cores_effective") or _times(number(row, "cpu_cores"), share)
    return {
        "host_id": text(row, "host_id"),
        "cpu_cores": cores,
        "cpu_name": text(row, "cpu_name"),
        "cpu_ram_gb": _times(_times(memory, share), 0.001),
        "disk_gb": number(row, "disk_space"),
        "inet_down_mbps": number(row, "inet_down"),
        "inet_up_mbps": number(row, "inet_up"),
        "storage_gb_month_nano": money(row, "storage_cost"),
        "min_bid_hour_nano": money(row, "min_bid"),
        "geolocation": place,
        "country": country_of(place),
        "reliability": number(row, "reliability", "reliability2"),
        "verified": row.get("verification") == "verified",
        "static_ip": row.get("static_ip") is True,
        "cuda_version": text(row, "cuda_max_good") or _short(number(row, "cuda_max_good")),
        "driver_version": text(row, "driver_version"),
        "dlperf": number(row, "dlperf"),
        "tflops": number(row, "total_flops"),
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
    )


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


def _short(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:g}"


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first
