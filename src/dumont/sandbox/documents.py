"""Vast.ai's JSON shapes of offers, instances and the account, made from our own records.

Source: docs.vast.ai, OpenAPI of 2026-08; the rule total = base + storage x GB / 720.
"""

from typing import Any

from dumont.sandbox.billing import BILLED_GPU, MICRO
from dumont.sandbox.catalogue import Offer, country_of
from dumont.sandbox.store import Rental

_DAY = 86_400
_STATES = {
    "created": (None, "running", "running"),
    "loading": ("loading", "running", "running"),
    "running": ("running", "running", "running"),
    "rebooting": ("rebooting", "running", "running"),
    "recycling": ("recycling", "running", "running"),
    "failed": ("created", "running", "running"),
    "ended": ("exited", "running", "running"),
    "raced": ("exited", "stopped", "running"),
    "queued": ("exited", "stopped", "running"),
    "outbid": ("exited", "stopped", "stopped"),
    "held": ("exited", "stopped", "running"),
    "scheduling": ("scheduling", "stopped", "running"),
    "exited": ("exited", "stopped", "stopped"),
}
"""Phase to (actual_status, cur_state, next_state)."""


def dollars(nano: int) -> float:
    """Show nano-dollars as the marketplace does, a float in dollars."""
    return nano / 1e9


def prices(gpu_rate: int, disk_rate: int, *, gpu_on: bool) -> dict[str, float]:
    """Return the price block; without `gpu_on` the GPU part is zero."""
    gpu, disk = dollars(gpu_rate) if gpu_on else 0.0, dollars(disk_rate)
    total = dollars((gpu_rate if gpu_on else 0) + disk_rate)
    return {
        "gpuCostPerHour": gpu,
        "diskHour": disk,
        "totalHour": total,
        "discountTotalHour": 0.0,
        "discountedTotalPerHour": total,
    }


_DRIVERS = {12.2: "535.183.01", 12.4: "550.127.05", 12.6: "560.35.03", 12.8: "570.124.04", 13.0: "580.65.06"}
_COMMON: dict[str, Any] = {
    "bundled_results": None,
    "gpu_arch": "nvidia",
    "gpu_lanes": 16,
    "gpu_max_temp": 89.0,
    "gpu_display_active": False,
    "cpu_name": "AMD EPYC 7452 32-Core Processor",
    "cpu_arch": "amd64",
    "cpu_ghz": 2.35,
    "has_avx": 1,
    "disk_name": "SAMSUNG MZQL23T8",
    "pci_gen": 4.0,
    "pcie_bw": 24.8,
    "mobo_name": "ROME2D32GM-2T",
    "os_version": "22.04",
    "credit_discount_max": 0.4,
    "discount_rate": 0.0,
    "geolocode": 2_130_706_433,
    "vms_enabled": False,
    "is_vm_deverified": False,
    "resource_type": "gpu",
    "cluster_id": None,
    "time_remaining": "",
    "time_remaining_isbid": "",
    "logo": "",
    "webpage": None,
    "hostname": None,
    "platform_fee": None,
}
_INSTANCE_COMMON: dict[str, Any] = {
    "uptime_mins": None,
    "vmem_usage": None,
    "cpu_util": None,
    "mem_usage": None,
    "mem_limit": None,
    "disk_util": -1,
    "image_args": [],
    "template_id": None,
    "template_hash_id": None,
    "template_name": None,
    "ssh_idx": "1",
    "local_ipaddrs": "127.0.0.1 \n",
    "jupyter_token": "",
    "credit_balance": None,
    "credit_discount": None,
    "volume_info": [],
    "host_run_time": None,
    "client_run_time": None,
}


def hardware(offer: Offer, now_s: float) -> dict[str, Any]:
    """Return what offers and instances both say about the computer; an instance keeps it from its creation."""
    box = offer.box
    return {
        **_COMMON,
        **_computer(offer),
        "machine_id": box.id,
        "host_id": box.host,
        "bundle_id": 880_000_000 + box.id,
        "inet_up": box.up,
        "inet_down": box.down,
        "storage_cost": dollars(box.storage_month),
        "min_bid": dollars(offer.min_bid),
        "reliability2": box.reliability,
        "reliability_mult": round(box.reliability - 0.02, 4),
        "expected_reliability": round(box.reliability - 0.001, 4),
        "disk_bw": box.disk_bw,
        "inet_up_cost": box.up_cost,
        "inet_down_cost": box.down_cost,
        "internet_up_cost_per_tb": box.up_cost * 1024,
        "internet_down_cost_per_tb": box.down_cost * 1024,
        "verification": box.verification or ("verified" if box.verified else "unverified"),
        "vericode": int(box.verified),
        "hosting_type": int(box.datacenter),
        "static_ip": box.datacenter if box.static_ip is None else box.static_ip,
        "direct_port_count": (250 if box.datacenter else 62) if box.open_ports is None else box.open_ports,
        "geolocation": box.place,
        "external": None if "external" in box.oddities else False,
        "end_date": now_s // _DAY * _DAY + box.days_left * _DAY,
    }


def _computer(offer: Offer) -> dict[str, Any]:
    box, model, count = offer.box, offer.box.model, len(offer.gpus)
    cores = box.cores * box.gpus
    return {
        "gpu_name": model.name,
        "num_gpus": count,
        "gpu_frac": count / box.gpus,
        "gpu_ram": model.ram_mb,
        "gpu_mem_bw": model.bandwidth,
        "gpu_max_power": float(model.watts),
        "compute_cap": model.capability,
        "cuda_max_good": box.cuda,
        "driver_version": _DRIVERS[box.cuda],
        "driver_vers": _driver_number(_DRIVERS[box.cuda]),
        "total_flops": round(model.tflops * count, 1),
        "dlperf": round(model.dlperf * count, 1),
        # Some hosts really report no core count, and some no memory.
        "cpu_cores": None if "cores" in box.oddities else cores,
        "cpu_cores_effective": cores * count / box.gpus,
        "cpu_ram": 0 if "ram" in box.oddities else box.ram_mb * box.gpus,
        "bw_nvlink": 300.0 if box.datacenter and box.gpus > 1 else 0.0,
    }


def _driver_number(text: str) -> int:
    parts = [int(part) for part in text.split(".")]
    return parts[0] * 1_000_000 + parts[1] * 1000 + parts[2]


def offer_document(offer: Offer, now_s: float, *, gigabytes: float, bid: bool) -> dict[str, Any]:
    """Return one row of a search: the price holds for that much disk and that kind of rental."""
    base = offer.min_bid if bid else offer.gpu_rate
    disk = offer.box.disk_rate(gigabytes)
    total = dollars(base + disk)
    shared = hardware(offer, now_s)
    return {
        **shared,
        "id": offer.id,
        "ask_contract_id": offer.id,
        "gpu_total_ram": shared["gpu_ram"] * len(offer.gpus),
        "disk_space": offer.box.disk_of(offer.gpus),
        "dph_base": dollars(base),
        "dph_total": total,
        "discounted_dph_total": total,
        "discounted_hourly": 0.0,
        "storage_total_cost": dollars(disk),
        "vram_costperhour": dollars(base) / (shared["gpu_ram"] * len(offer.gpus)),
        "dlperf_per_dphtotal": round(shared["dlperf"] / total, 1),
        "flops_per_dphtotal": round(shared["total_flops"] / total, 1),
        "score": round(shared["dlperf"] / total * offer.box.reliability, 1),
        "is_bid": bid,
        "reliability": offer.box.reliability,
        # A space at the end is what some hosts really send.
        "public_ipaddr": f"203.0.113.{offer.box.id % 250}" + (" " if "address" in offer.box.oddities else ""),
        "rentable": True,
        "rented": False,
        "start_date": shared["end_date"] - (offer.box.days_left + 30) * _DAY,
        "duration": shared["end_date"] - now_s,
        "avail_vol_ask_id": None,
        "avail_vol_dph": None,
        "avail_vol_size": None,
        "rn": 1,
        "search": prices(base, disk, gpu_on=True),
        "instance": prices(base, disk, gpu_on=False),
    }


def statuses(rental: Rental, *, offline: bool) -> dict[str, Any]:
    """Return the state words of an instance."""
    actual, current, following = _STATES[rental.phase]
    if rental.phase == "running" and rental.intended == "stopped":
        following = "stopped"
    return {
        "actual_status": "offline" if offline else actual,
        "intended_status": "stopped" if rental.phase == "outbid" else rental.intended,
        "cur_state": current,
        "next_state": following,
        "status_msg": rental.status_msg,
    }


def stored_columns(rental: Rental, *, offline: bool) -> dict[str, Any]:
    """Return what the list of instances filters and sorts by, with the values of the `instance_document`."""
    named = {name: rental.hardware[name] for name in ("gpu_name", "verification", "machine_id")}
    own = {"id": rental.id, "label": rental.label, "start_date": rental.created_us / MICRO}
    return {**named, **own, **statuses(rental, offline=offline)}


def instance_document(
    rental: Rental, now_s: float, *, offline: bool, host: str, workspace: str, disk_usage: float, load: float | None
) -> dict[str, Any]:
    """Return an instance; addresses are there only while it runs. Units: `disk_usage` GB, -1 for unknown."""
    shared = rental.hardware
    up = rental.phase == "running" and not offline
    return {
        **shared,
        **_INSTANCE_COMMON,
        **statuses(rental, offline=offline),
        **_addresses(rental.port if up else None, host),
        **_costs(rental),
        "id": rental.id,
        "label": rental.label,
        "start_date": rental.created_us / MICRO,
        "duration": shared["end_date"] - now_s,
        "gpu_totalram": shared["gpu_ram"] * shared["num_gpus"],
        "gpu_util": load if up else 0.0,
        "gpu_temp": 34.0 + 0.4 * (load or 0.0),
        "disk_space": rental.disk_gb,
        "disk_usage": disk_usage,
        "image_uuid": rental.image,
        "image_runtype": rental.runtype,
        "onstart": rental.onstart,
        "extra_env": [[name, value] for name, value in rental.env.items()],
        "country_code": country_of(shared["geolocation"]),
        "workspace_root": workspace,
    }


def lingering(document: dict[str, Any], actual: str) -> dict[str, Any]:
    """Return a destroyed instance as it is still listed for a while: nothing of it is billed any more."""
    released = {"actual_status": actual, "intended_status": "stopped", "cur_state": "unloaded"}
    shown = {**document, **released, "next_state": "unloaded", "status_msg": ""}
    shown.pop("ports", None)
    return shown


def _costs(rental: Rental) -> dict[str, Any]:
    on = rental.phase in BILLED_GPU
    return {
        "storage_total_cost": dollars(rental.disk_rate),
        "dph_base": dollars(rental.gpu_rate),
        "dph_total": dollars(rental.gpu_rate + rental.disk_rate),
        "is_bid": rental.is_bid,
        "search": prices(rental.gpu_rate, rental.disk_rate, gpu_on=True),
        "instance": prices(rental.gpu_rate, rental.disk_rate, gpu_on=on),
    }


def _addresses(port: int | None, host: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "ssh_host": None if port is None else host,
        "ssh_port": port,
        "public_ipaddr": None if port is None else host,
        "direct_port_start": -1 if port is None else port,
        "direct_port_end": -1 if port is None else port,
        "machine_dir_ssh_port": port,
    }
    if port is not None:
        shown["ports"] = {"22/tcp": [{"HostIp": host, "HostPort": str(port)}]}
    return shown
