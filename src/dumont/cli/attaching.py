"""The command that lets this computer's SSH key into a machine that runs."""

import click

from dumont.cli import options as o
from dumont.cli.exit import ends_well
from dumont.cli.find import find_instance
from dumont.cli.keys import registered_key
from dumont.cli.progress import follow
from dumont.cli.session import sign_in
from dumont.cli.tables import show_json


@click.group()
def keys() -> None:
    """SSH keys: let yours into a machine."""


@keys.command()
@o.name
@o.as_json
@ends_well
def attach(name: str, as_json: bool) -> None:
    """Let this computer's SSH key into a running machine that somebody else of the team launched."""
    signed = sign_in()
    instance = find_instance(signed.client, name)
    key = registered_key(signed)
    follow(signed.client, signed.client.attach_ssh_key(instance.id, key.id), quiet=as_json)
    if as_json:
        show_json({"attached": True, "instance_id": instance.id, "fingerprint": key.fingerprint})
    else:
        print(f"The machine accepts your key {key.fingerprint} from now on: `dumont ssh {instance.id}`.")
