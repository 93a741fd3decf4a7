"""How an instance is shown."""

import base64
import binascii
import hashlib
import shlex
from typing import Any

from dumont.core import money_document
from dumont.instances.model import Instance, Rental, Status


def instance_document(
    instance: Instance, rental: Rental | None, cost_nano: int | None, operation_id: str | None = None
) -> dict[str, Any]:
    """Show an instance with its machine, if it has one, and what it has cost so far."""
    return {
        "id": instance.id,
        "status": instance.status,
        "status_detail": instance.status_detail,
        "provider": instance.provider,
        "gpu_name": instance.gpu_name,
        "num_gpus": instance.num_gpus,
        "gpu_memory_mib": instance.gpu_memory_mib,
        "image": instance.image,
        "disk_size": instance.disk_gb,
        "disk_size_gb": instance.disk_gb,
        "env": instance.env,
        "label": instance.label,
        "protected": instance.protected,
        "price_hour": money_document(instance.price_hour_nano),
        "max_price_hour": None
        if instance.max_price_hour_nano is None
        else money_document(instance.max_price_hour_nano),
        "cost_to_date": money_document(cost_nano or 0),
        "workspace_id": instance.workspace_id,
        "last_snapshot_id": instance.last_snapshot_id,
        "operation_id": operation_id,
        "version": instance.version,
        "created_at": instance.created_at,
        "started_at": instance.started_at,
        "hibernated_at": instance.hibernated_at,
        "destroyed_at": instance.destroyed_at,
        **_machine_members(instance, rental),
    }


def _machine_members(instance: Instance, rental: Rental | None) -> dict[str, Any]:
    """Show the machine of an instance; an address only while it can be used."""
    names = ("provider_machine_id", "machine_id", "geolocation", "country", "workspace_root")
    address = rental.address if rental is not None and instance.status == Status.RUNNING else None
    return {
        **{name: getattr(rental, name, None) for name in names},
        "machine_kept": rental is not None and instance.status == Status.HIBERNATED,
        "ssh_host": address["host"] if address else None,
        "ssh_port": address["port"] if address else None,
    }


def machine_document(rental: Rental, costs: dict[str, int]) -> dict[str, Any]:
    """Show one machine that an instance had: where it was, when, and what it cost."""
    return {
        "id": rental.id,
        "provider": rental.provider,
        "provider_machine_id": rental.provider_machine_id,
        "machine_id": rental.machine_id,
        "label": rental.label,
        "state": rental.state,
        "gpu_name": rental.offer["gpu_name"],
        "num_gpus": rental.offer["num_gpus"],
        "geolocation": rental.geolocation or rental.offer["geolocation"],
        "price_hour": money_document(rental.offer["price_hour_nano"]),
        "cost_gpu": money_document(costs.get("gpu", 0)),
        "cost_disk": money_document(costs.get("disk", 0)),
        "operation_id": rental.operation_id,
        "rented_at": rental.rented_at,
        "released_at": rental.released_at,
        "reason": rental.reason,
    }


def ssh_document(rental: Rental) -> dict[str, Any]:
    """Show how to log in: address, the pinned host key whole, and the command with its own known_hosts left out."""
    address = rental.address or {}
    target = f"{address['user']}@{address['host']}"
    return {
        "host": address["host"],
        "port": address["port"],
        "user": address["user"],
        "command": shlex.join(["ssh", "-p", str(address["port"]), target]),
        "host_key": rental.host_key,
        "host_key_fingerprint": fingerprint(rental.host_key),
        "workspace_root": rental.workspace_root,
        "ready": True,
    }


def fingerprint(public_key: str | None) -> str | None:
    """Return OpenSSH's SHA256 fingerprint of a public key line; None where there is no readable key."""
    parts = (public_key or "").split()
    if len(parts) < 2:
        return None
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (ValueError, binascii.Error):
        return None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
