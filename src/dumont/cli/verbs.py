"""Commands that change an instance's life, from pause to destroy, and how each of them is waited for."""

import sys
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_instance, find_offer, find_snapshot
from dumont.cli.progress import follow
from dumont.cli.session import sign_in
from dumont.cli.tables import show_json
from dumont.cli.words import amount, gpus, number, price, short, size, text
from dumont.client import Client, Instance, Operation, read_money
from dumont.core import is_id


@click.command()
@o.name
@o.no_wait
@o.as_json
@ends_well
def pause(name: str, no_wait: bool, as_json: bool) -> None:
    """Stop a machine and keep its disk, which goes on costing. Nothing is saved; what runs on it ends."""
    client = sign_in().client
    instance = find_instance(client, name)
    settle(client, client.pause(instance.id), "is paused", no_wait=no_wait, as_json=as_json)


@click.command()
@o.name
@click.option("--wait", type=click.FloatRange(0, 1440), metavar="MINUTES", help="For a GPU that is taken (30).")
@o.no_wait
@o.as_json
@ends_well
def resume(name: str, wait: float | None, no_wait: bool, as_json: bool) -> None:
    """Start a paused machine again. Where its GPU is taken meanwhile, wait for it; else it stays paused."""
    client = sign_in().client
    instance = find_instance(client, name)
    begun = client.resume(instance.id, wait_minutes=wait)
    settle(client, begun, "is running", no_wait=no_wait, as_json=as_json)


@click.command()
@o.name
@o.no_wait
@o.as_json
@ends_well
def reboot(name: str, no_wait: bool, as_json: bool) -> None:
    """Let a machine go down and come up again with its disk."""
    client = sign_in().client
    instance = find_instance(client, name)
    settle(client, client.reboot(instance.id), "is running", no_wait=no_wait, as_json=as_json)


@click.command()
@o.name
@click.option("--keep", is_flag=True, help="Pause the machine and keep its disk (the default).")
@click.option("--destroy", "destroy_machine", is_flag=True, help="Give the machine back once verified.")
@o.no_wait
@o.as_json
@ends_well
def hibernate(name: str, keep: bool, destroy_machine: bool, no_wait: bool, as_json: bool) -> None:
    """Save the workspace, check the copy, then stop paying. Files are saved, running processes are not."""
    if keep and destroy_machine:
        raise CliError("--keep and --destroy exclude each other.")
    client = sign_in().client
    instance = find_instance(client, name)
    then = "destroy" if destroy_machine else "keep"
    if not as_json:
        print("Files of the workspace are saved; running processes are not.", file=sys.stderr)
    settle(client, client.hibernate(instance.id, then), "is hibernated", no_wait=no_wait, as_json=as_json)


@click.command()
@o.name
@click.option("--offer", metavar="OFFER", help="Wake on this offer.")
@click.option("--elsewhere", is_flag=True, help="Wake on another machine.")
@click.option("--accept-loss", is_flag=True, help="Give up files that only the kept machine has.")
@click.option("--snapshot", metavar="SNAPSHOT", help="From this snapshot, not from the last one.")
@o.max_price
@o.no_wait
@o.as_json
@ends_well
def wake(
    name: str,
    snapshot: str | None,
    offer: str | None,
    elsewhere: bool,
    accept_loss: bool,
    max_price: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Bring a hibernated instance back, with every file as it was."""
    client = sign_in().client
    instance = find_instance(client, name)
    offer_id = offer
    if offer is not None and not is_id(offer, "off"):
        offer_id = find_offer(client.iter_offers(limit=100), offer).id
    woken = client.wake(
        instance.id,
        offer_id=offer_id,
        elsewhere=elsewhere,
        accept_loss=accept_loss,
        max_price=max_price,
        snapshot_id=find_snapshot(client, snapshot).id if snapshot else None,
    )
    settle(client, woken, "is running", no_wait=no_wait, as_json=as_json)


@click.command()
@o.name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also while its workspace is being saved.")
@o.no_wait
@o.as_json
@ends_well
def destroy(name: str, yes: bool, force: bool, no_wait: bool, as_json: bool) -> None:
    """Destroy a machine and its disk for good. Snapshots stay."""
    client = sign_in().client
    instance = find_instance(client, name)
    if not yes and not as_json and sys.stdin.isatty():
        _ask_before_destroying(instance)
    gone = client.destroy_instance(instance.id, force=force)
    settle(client, gone, "is destroyed", no_wait=no_wait, as_json=as_json)


def settle(client: Client, instance: Instance, outcome: str, *, no_wait: bool, as_json: bool) -> None:
    """Wait for the work that a verb began and show the instance as it then is.

    With `as_json` the document is the Instance with the finished operation under `operation`.
    """
    operation: Operation | None = None
    if instance.operation_id is not None and not no_wait:
        operation = follow(client, instance.operation_id, quiet=as_json)
        instance = client.instance(instance.id, include_destroyed=True)
    if as_json:
        show_json({**instance.raw, "operation": operation.raw if operation else None})
        return
    if no_wait and instance.operation_id is not None:
        print(f"{_called(instance)} is {text(instance.status)}. Operation {instance.operation_id} goes on:")
        print(f"  dumont operations {instance.operation_id} --follow")
        return
    print(f"{_called(instance)} {outcome}.{_afterwards(instance)}")
    result = (operation.result or {}) if operation is not None else {}
    if instance.status == "hibernated" and (saved := _saved(result)):
        print(saved)
    unlike = result.get("differing")
    if unlike:
        print(f"The kept disk was left as it is; unlike the snapshot are: {', '.join(text(name) for name in unlike)}.")


def _saved(result: dict[str, Any]) -> str:
    """Say what a save stored, from the operation's result."""
    total, stored, files = (result.get(name) for name in ("bytes_total", "bytes_stored", "files"))
    if total is None or files is None:
        return ""
    new = f", {size(stored)} of it new in the storage" if stored else ", none of it new"
    month = read_money(result.get("cost_month"))
    cost = f" Keeping that costs {amount(month)} a month." if month is not None else ""
    return f"Saved {size(total)} in {number(files)} files{new}.{cost}"


def _price_of_keeping(instance: Instance) -> str:
    """Say what a machine that only keeps its disk costs; a snapshot costs its place in the storage and no more."""
    return f", its disk for {price(instance.paused_cost_hour)}" if instance.paused_cost_hour else ""


def _called(instance: Instance) -> str:
    label = f" ({text(instance.label)})" if instance.label else ""
    return f"{instance.id}{label}"


def _afterwards(instance: Instance) -> str:
    name = text(instance.label) if instance.label else short(instance.id)
    if instance.status == "running":
        card = gpus(instance.gpu_name, instance.num_gpus)
        return f" {card} at {price(instance.price_hour)}. Go there with `dumont ssh {name}`."
    if instance.status == "paused":
        kept = f" Its disk costs {price(instance.paused_cost_hour)}." if instance.paused_cost_hour else ""
        return f"{kept} Start it again with `dumont resume {name}`."
    if instance.status == "hibernated":
        kept = "" if instance.machine_kept is None else " The machine was given back."
        kept = f" The machine is kept{_price_of_keeping(instance)}." if instance.machine_kept else kept
        return f"{kept} Bring it back with `dumont wake {name}`."
    if instance.status == "destroyed" and instance.cost_to_date is not None:
        return f" It cost {amount(instance.cost_to_date)} in all."
    return ""


def _ask_before_destroying(instance: Instance) -> None:
    saved = "The newest snapshot stays." if instance.last_snapshot_id else "It has no snapshot: its files will be lost."
    sys.stderr.write(f"Destroy {_called(instance)}? {saved} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes", "s", "sim"):
        raise CliError("Nothing was destroyed.", code="declined")
