"""Commands that reach into a machine: ssh, exec, cp."""

import shlex
import sys
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli import ssh as over
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import show_json
from dumont.core import Act

_PASS_ON: dict[str, Any] = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""Everything after the instance belongs to the command on the machine."""


@click.command(context_settings=_PASS_ON)
@o.name
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND]")
@ends_well
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Open a shell in the workspace, or run a shell line on the machine."""
    words = _after_dashes(command)
    target = over.find_target(sign_in(), name)
    raise click.exceptions.Exit(_run(target, " ".join(words) if words else None, terminal=False))


@click.command("exec", context_settings=_PASS_ON)
@click.option("--tty", "-t", "terminal", is_flag=True, help="Give the program a terminal.")
@o.name
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND")
@ends_well
def execute(name: str, command: tuple[str, ...], terminal: bool) -> None:
    """Run one program in the workspace and end with its exit code."""
    words = _after_dashes(command)
    if not words:
        raise CliError("No command was given. Write `dumont exec ID -- COMMAND`.")
    target = over.find_target(sign_in(), name)
    raise click.exceptions.Exit(_run(target, over.in_workspace(target, shlex.join(words)), terminal=terminal))


@click.command()
@click.argument("source")
@click.argument("destination")
@o.as_json
@ends_well
def cp(source: str, destination: str, as_json: bool) -> None:
    """Copy files and folders to or from a machine.

    One of the two is ID:PATH on the machine; a relative PATH there counts from the workspace.
    """
    ends = [end for end in (over.split_remote(source), over.split_remote(destination)) if end is not None]
    if len(ends) != 1:
        raise CliError("One of the two must be on a machine, written ID:PATH (a local name with a colon: ./a:b).")
    target = over.find_target(sign_in(), ends[0][0])
    code = _copy(target, source, destination, quiet=as_json)
    if code == 0 and as_json:
        show_json({"copied": True, "source": source, "destination": destination, "instance_id": target.instance_id})
    if code != 0:
        act = Act.WAIT if code == over.NO_CONNECTION else Act.FIX
        hint = f" {over.unknown_key(target)}" if code == over.NO_CONNECTION else ""
        raise CliError(f"The copy failed (scp ended with {code}).{hint}", code="copy-failed", act=act)


def _after_dashes(command: tuple[str, ...]) -> list[str]:
    words = list(command)
    return words[1:] if words[:1] == ["--"] else words


def _run(target: over.Target, line: str | None, *, terminal: bool) -> int:
    if not over.have_ssh():
        from dumont.cli.ssh_python import run_remote

        return run_remote(target, line, terminal=terminal)
    code = over.run(over.ssh_command(target, line, terminal=terminal))
    if code == over.NO_CONNECTION:
        print(
            f"ssh ended with {code}. {over.unknown_key(target)} Otherwise the machine was not reached, or it is not "
            f"the one whose host key is pinned: `dumont show {target.instance_id}` tells how it is.",
            file=sys.stderr,
        )
    return code


def _copy(target: over.Target, source: str, destination: str, *, quiet: bool) -> int:
    if not over.have_scp():
        from dumont.cli.ssh_python import copy

        return copy(target, source, destination)
    command = over.scp_command(target, source, destination)
    return over.run([command[0], "-q", *command[1:]] if quiet else command)
