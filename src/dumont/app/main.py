"""The entry point: the command line, with the commands that start and prove the product."""

from dataclasses import replace

from dumont.cli import COMMANDS, Entry, LazyGroup

_HERE = "Run it here"

app = LazyGroup(
    {
        "up": Entry("dumont.app.up:up", _HERE),
        "serve": Entry("dumont.app.up:serve", _HERE),
        "migrate": Entry("dumont.app.up:migrate_command", _HERE),
        "doctor": Entry("dumont.app.doctor:doctor", _HERE),
        "demo": Entry("dumont.app.demo:demo", _HERE),
        "backup": Entry("dumont.app.backup:backup", _HERE),
        "restore-backup": Entry("dumont.app.backup:restore_command", _HERE),
        "ledger": Entry("dumont.app.ledger:ledger", _HERE),
        "sandbox": Entry("dumont.app.sandbox:sandbox", _HERE),
        **COMMANDS,
        "snapshots": replace(COMMANDS["snapshots"], place="dumont.app.exporting:snapshots"),
    },
    name="dumont",
    help="Rent GPUs, work on them, and stop paying when they idle.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line on the arguments of this process."""
    app(prog_name="dumont")


if __name__ == "__main__":
    main()
