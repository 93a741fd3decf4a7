"""Commands that show instances: ps, show."""

import click

from dumont.cli import options as o
from dumont.cli.exit import ends_well
from dumont.cli.find import find_instance
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import amount, gpus, memory, moment, number, price, short, span, text
from dumont.client import Instance

_WATCH_SECONDS = 2.0
_COLUMNS = (
    Column("ID"),
    Column("LABEL"),
    Column("STATUS"),
    Column("GPU"),
    Column("PRICE", figures=True),
    Column("SPENT", figures=True),
    Column("PLACE"),
    Column("CREATED"),
)


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Show destroyed instances too.")
@click.option("--status", help="Only these states, with commas.")
@click.option("--label", help="Only those with this name.")
@click.option("--label-set", multiple=True, metavar="KEY=VALUE", help="Only those with this label; may be given again.")
@click.option("--gpu", "gpu_name", metavar="CARD", help="Only those with this card.")
@click.option("--provider", metavar="NAME", help="Only those at this provider.")
@click.option("--sort", metavar="FIELD", help="created_at, price_hour, label, status; -FIELD reverses.")
@click.option("--watch", "-w", is_flag=True, help="Show them again every two seconds until Ctrl-C.")
@o.as_json
@ends_well
def ps(everything: bool, label_set: tuple[str, ...], watch: bool, as_json: bool, **filters: str | None) -> None:
    """Show your instances."""
    client, labels = sign_in().client, o.pairs(label_set, "--label-set")

    def draw() -> None:
        found = client.iter_instances(labels=labels, include_destroyed=everything, **filters)
        rows = [row for row in found if everything or row.status != "destroyed"]
        if as_json:
            show_json({"instances": [row.raw for row in rows], "count": len(rows)})
        else:
            show_table(_COLUMNS, (_row(row) for row in rows), empty="No instances. Rent one with `dumont launch`.")

    if not watch:
        draw()
        return
    from dumont.cli.live import again_and_again

    again_and_again(draw, _WATCH_SECONDS)


@click.command()
@o.name
@o.as_json
@ends_well
def show(name: str, as_json: bool) -> None:
    """Show everything about one instance."""
    instance = find_instance(sign_in().client, name, include_destroyed=True)
    if as_json:
        show_json(instance.raw)
        return
    show_facts([(fact, value) for fact, value in _facts(instance) if value != "-"])


def _row(instance: Instance) -> list[str]:
    return [
        short(instance.id),
        text(instance.label),
        text(instance.status),
        gpus(instance.gpu_name, instance.num_gpus),
        price(instance.price_hour),
        amount(instance.cost_to_date),
        text(instance.geolocation or instance.country),
        moment(instance.created_at),
    ]


def _facts(instance: Instance) -> list[tuple[str, str]]:
    where = f"{text(instance.ssh_host)}:{instance.ssh_port}" if instance.ssh_host and instance.ssh_port else "-"
    return [
        ("id", text(instance.id)),
        ("label", text(instance.label)),
        ("labels", text(" ".join(f"{key}={value}" for key, value in sorted((instance.labels or {}).items())))),
        ("status", text(instance.status)),
        ("detail", text(instance.status_detail)),
        ("GPU", gpus(instance.gpu_name, instance.num_gpus)),
        ("GPU memory", memory(instance.gpu_memory_mib)),
        ("CPU cores", number(instance.cpu_cores)),
        ("disk", number(instance.disk_size_gb, " GB")),
        ("image", text(instance.image)),
        ("provider", text(instance.provider)),
        ("place", text(instance.geolocation or instance.country)),
        ("price", price(instance.price_hour)),
        ("disk alone", price(instance.paused_cost_hour)),
        ("spent", amount(instance.cost_to_date)),
        ("SSH", where),
        ("created", moment(instance.created_at)),
        ("started", moment(instance.started_at)),
        ("up for", span(instance.uptime_seconds)),
        ("paused", moment(instance.paused_at)),
        ("hibernated", moment(instance.hibernated_at)),
        ("destroyed", moment(instance.destroyed_at)),
        ("machine kept", text(instance.machine_kept if instance.status == "hibernated" else None)),
        ("snapshot", text(instance.last_snapshot_id)),
        ("protected", text(instance.protected)),
        ("operation", text(instance.operation_id)),
    ]
