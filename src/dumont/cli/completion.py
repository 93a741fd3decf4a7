"""The command that prints a shell's completion script."""

import click
from click.shell_completion import get_completion_class

from dumont.cli.exit import CliError, ends_well

_VARIABLE = "_DUMONT_COMPLETE"
"""click asks the program for completions through this variable; its name follows from the program's."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@ends_well
def completion(shell: str) -> None:
    """Print what a shell needs to complete commands and options; see `docs/howto/command-line.md`."""
    kind = get_completion_class(shell)
    if kind is None:
        raise CliError(f"There is no completion for {shell}.")
    program = click.get_current_context().find_root().command
    print(kind(program, {}, "dumont", _VARIABLE).source())
