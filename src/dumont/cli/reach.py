"""Commands that reach into a machine: ssh, exec, cp."""

import shlex
import shutil
import sys
from typing import Annotated

import typer

from dumont.cli import options as o
from dumont.cli import ssh as over
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import show_json

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""Everything after the instance belongs to the command on the machine."""


@ends_well
def ssh(
    name: o.Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND]", help="Shell line to run.")] = None,
) -> None:
    """Open a shell in the workspace, or run a shell line on the machine."""
    words = _after_dashes(command)
    target = over.find_target(sign_in(), name)
    raise typer.Exit(_run(target, " ".join(words) if words else None, terminal=False))


@ends_well
def execute(
    name: o.Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="Program and arguments.")] = None,
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="Give the program a terminal.")] = False,
) -> None:
    """Run one program in the workspace and end with its exit code."""
    words = _after_dashes(command)
    if not words:
        raise CliError("No command was given. Write `dumont exec ID -- COMMAND`.")
    target = over.find_target(sign_in(), name)
    raise typer.Exit(_run(target, over.in_workspace(target, shlex.join(words)), terminal=terminal))


@ends_well
def cp(
    source: Annotated[str, typer.Argument(help="File or folder: PATH here, or ID:PATH on a machine.")],
    destination: Annotated[str, typer.Argument(help="PATH here, or ID:PATH; relative ones count from the workspace.")],
    as_json: o.AsJson = False,
) -> None:
    """Copy files and folders to or from a machine."""
    ends = [end for end in (over.split_remote(source), over.split_remote(destination)) if end is not None]
    if len(ends) != 1:
        raise CliError("One of the two must be on a machine, written ID:PATH (a local name with a colon: ./a:b).")
    target = over.find_target(sign_in(), ends[0][0])
    code = _copy(target, source, destination, quiet=as_json)
    if code == 0 and as_json:
        show_json({"copied": True, "source": source, "destination": destination, "instance_id": target.instance_id})
    if code != 0:
        raise CliError(f"The copy failed (scp ended with {code}).", code="copy-failed")


def _after_dashes(command: list[str] | None) -> list[str]:
    words = list(command or [])
    return words[1:] if words[:1] == ["--"] else words


def _run(target: over.Target, line: str | None, *, terminal: bool) -> int:
    if shutil.which("ssh") is None:
        from dumont.cli.ssh_python import run_remote

        return run_remote(target, line, terminal=terminal)
    code = over.run(over.ssh_command(target, line, terminal=terminal))
    if code == over.NO_CONNECTION:
        print(
            f"ssh ended with {code}: the machine was not reached, or it is not the one whose key is pinned. "
            f"`dumont show {target.instance_id}` tells how it is.",
            file=sys.stderr,
        )
    return code


def _copy(target: over.Target, source: str, destination: str, *, quiet: bool) -> int:
    if shutil.which("scp") is None or shutil.which("ssh") is None:
        from dumont.cli.ssh_python import copy

        return copy(target, source, destination)
    command = over.scp_command(target, source, destination)
    return over.run([command[0], "-q", *command[1:]] if quiet else command)
