"""One offer and one instance in Vast's words, to be varied by tests; the values are made up from documented fields."""

from typing import Any


def offer(**changes: Any) -> dict[str, Any]:
    """A row of POST /bundles/; `id` also sets the ask number."""
    if "id" in changes:
        changes.setdefault("ask_contract_id", changes["id"])
    return {
        "id": 21458734,
        "ask_contract_id": 21458734,
        "machine_id": 22991,
        "host_id": 10457,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_frac": 0.25,
        "gpu_ram": 24564,
        "cuda_max_good": 12.8,
        "driver_version": "570.124.04",
        "total_flops": 82.6,
        "dlperf": 98.1,
        "cpu_name": "AMD EPYC 7452 32-Core Processor",
        "cpu_cores": 128,
        "cpu_cores_effective": 32.0,
        "cpu_ram": 257604,
        "disk_space": 412.6,
        "inet_up": 812.4,
        "inet_down": 905.7,
        "storage_cost": 0.15,
        "storage_total_cost": 0.00416667,
        "dph_base": 0.34666667,
        "dph_total": 0.35083333,
        "min_bid": 0.2,
        "is_bid": False,
        "reliability": 0.9958,
        "verification": "verified",
        "static_ip": True,
        "geolocation": "Texas, US",
        "end_date": 1793776000.0,
        **changes,
    }


def instance(**changes: Any) -> dict[str, Any]:
    """The inner object of GET /instances/{id}/ of a running machine."""
    return {
        "id": 31005512,
        "machine_id": 22991,
        "label": "dumont-01JQ8Z7C5T-a1",
        "actual_status": "running",
        "intended_status": "running",
        "cur_state": "running",
        "next_state": "running",
        "status_msg": "success, running vastai/base-image_cuda-12.8.1/ssh",
        "start_date": 1786003600.25,
        "duration": 7772400.0,
        "num_gpus": 1,
        "gpu_name": "RTX 4090",
        "gpu_ram": 24564,
        "disk_space": 20.0,
        "storage_total_cost": 0.00416667,
        "dph_base": 0.34666667,
        "dph_total": 0.35083333,
        "is_bid": False,
        "ssh_host": "ssh4.vast.ai",
        "ssh_port": 15512,
        "public_ipaddr": "203.0.113.42 \n",
        "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40122"}]},
        "geolocation": "Texas, US",
        "country_code": "US",
        "search": {"gpuCostPerHour": 0.34666667, "diskHour": 0.00416667, "totalHour": 0.35083333},
        "instance": {"gpuCostPerHour": 0.34666667, "diskHour": 0.00416667, "totalHour": 0.35083333},
        **changes,
    }
