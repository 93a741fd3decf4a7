"""The commands and the groups in which `dumont --help` shows them."""

import typer

from dumont.cli import account, history, instances, market, reach, verbs

_ACCOUNT = "Account"
_RENT = "Rent"
_WORK = "Work on a machine"
_SLEEP = "Sleep and wake"
_HISTORY = "What happened"

app = typer.Typer(
    name="dumont",
    help="Rent GPUs, work on them, and stop paying when they idle.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(rich_help_panel=_RENT)(market.offers)
app.command(rich_help_panel=_RENT)(market.launch)
app.command(rich_help_panel=_RENT)(instances.ps)
app.command(rich_help_panel=_RENT)(instances.show)
app.command(rich_help_panel=_RENT)(verbs.destroy)
app.command(rich_help_panel=_WORK, context_settings=reach.PASS_ON)(reach.ssh)
app.command("exec", rich_help_panel=_WORK, context_settings=reach.PASS_ON)(reach.execute)
app.command(rich_help_panel=_WORK)(reach.cp)
app.command(rich_help_panel=_SLEEP)(verbs.hibernate)
app.command(rich_help_panel=_SLEEP)(verbs.wake)
app.command(rich_help_panel=_HISTORY)(history.snapshots)
app.command(rich_help_panel=_HISTORY)(history.operations)
app.command(rich_help_panel=_HISTORY)(history.cancel)
app.command(rich_help_panel=_ACCOUNT)(account.login)
app.command(rich_help_panel=_ACCOUNT)(account.logout)
app.command(rich_help_panel=_ACCOUNT)(account.whoami)


def main() -> None:
    """Run the command line on the arguments of this process."""
    app()
