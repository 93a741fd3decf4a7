"""Commands that say what an instance is called and whether it may be destroyed: label, protect, unprotect."""

from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_instance
from dumont.cli.session import sign_in
from dumont.cli.tables import show_json
from dumont.cli.words import text
from dumont.client import Instance


@click.command()
@o.name
@click.argument("label", required=False)
@click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help="A label of the instance; may be given again.")
@click.option("--unset", multiple=True, metavar="KEY", help="Take a label away; may be given again.")
@o.as_json
@ends_well
def label(name: str, label: str | None, given: tuple[str, ...], unset: tuple[str, ...], as_json: bool) -> None:
    """Call an instance LABEL, or give it labels; LABEL '' takes its name away. Without any, show them."""
    changes: dict[str, Any] = {} if label is None else {"label": label or None}
    if given or unset:
        changes["labels"] = {**o.pairs(given, "--set"), **dict.fromkeys(unset)}
    client = sign_in().client
    instance = find_instance(client, name)
    if changes:
        instance = client.change_instance(instance.id, **changes)
    _show(instance, as_json)


@click.command()
@o.name
@o.as_json
@ends_well
def protect(name: str, as_json: bool) -> None:
    """Let nobody destroy an instance until it is unprotected."""
    _protect(name, True, as_json)


@click.command()
@o.name
@o.as_json
@ends_well
def unprotect(name: str, as_json: bool) -> None:
    """Let an instance be destroyed again."""
    _protect(name, False, as_json)


def _protect(name: str, protected: bool, as_json: bool) -> None:
    client = sign_in().client
    instance = client.change_instance(find_instance(client, name).id, protected=protected)
    if instance.protected is not protected:
        raise CliError("The server did not take the change over. Look with `dumont show`.")
    _show(instance, as_json)


def _show(instance: Instance, as_json: bool) -> None:
    if as_json:
        show_json(instance.raw)
        return
    labels = " ".join(f"{text(key)}={text(value)}" for key, value in sorted((instance.labels or {}).items()))
    kept = ", protected" if instance.protected else ""
    print(f"{instance.id}: {text(instance.label)}{f' ({labels})' if labels else ''}{kept}")
