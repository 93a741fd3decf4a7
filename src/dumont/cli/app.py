"""The commands and the headings under which `dumont --help` shows them."""

from dumont.cli.lazy import Entry, LazyGroup

_RENT, _WORK, _SLEEP = "Rent", "Work on a machine", "Sleep and wake"
_HISTORY, _MONEY, _ACCOUNT = "What happened", "Money", "Account"

COMMANDS = {
    "offers": Entry("dumont.cli.market:offers", _RENT),
    "launch": Entry("dumont.cli.launch:launch", _RENT),
    "ps": Entry("dumont.cli.instances:ps", _RENT),
    "show": Entry("dumont.cli.instances:show", _RENT),
    "label": Entry("dumont.cli.naming:label", _RENT),
    "protect": Entry("dumont.cli.naming:protect", _RENT),
    "unprotect": Entry("dumont.cli.naming:unprotect", _RENT),
    "destroy": Entry("dumont.cli.verbs:destroy", _RENT),
    "ssh": Entry("dumont.cli.reach:ssh", _WORK),
    "exec": Entry("dumont.cli.reach:execute", _WORK),
    "cp": Entry("dumont.cli.reach:cp", _WORK),
    "keys": Entry("dumont.cli.attaching:keys", _WORK),
    "logs": Entry("dumont.cli.logs:logs", _WORK),
    "reboot": Entry("dumont.cli.verbs:reboot", _WORK),
    "pause": Entry("dumont.cli.verbs:pause", _SLEEP),
    "resume": Entry("dumont.cli.verbs:resume", _SLEEP),
    "hibernate": Entry("dumont.cli.verbs:hibernate", _SLEEP),
    "wake": Entry("dumont.cli.verbs:wake", _SLEEP),
    "sync": Entry("dumont.cli.sync:sync", _HISTORY),
    "snapshots": Entry("dumont.cli.snapshots:snapshots", _HISTORY),
    "operations": Entry("dumont.cli.history:operations", _HISTORY),
    "cancel": Entry("dumont.cli.history:cancel", _HISTORY),
    "wallet": Entry("dumont.cli.wallet:wallet", _MONEY),
    "topup": Entry("dumont.cli.topup:topup", _MONEY),
    "topups": Entry("dumont.cli.topup:topups", _MONEY),
    "accounts": Entry("dumont.cli.accounts:accounts", _MONEY),
    "categories": Entry("dumont.cli.accounts:categories", _MONEY),
    "transactions": Entry("dumont.cli.transactions:transactions", _MONEY),
    "transfer": Entry("dumont.cli.transfers:transfer", _MONEY),
    "statement": Entry("dumont.cli.statement:statement", _MONEY),
    "insights": Entry("dumont.cli.insights:insights", _MONEY),
    "notifications": Entry("dumont.cli.notifications:notifications", _MONEY),
    "login": Entry("dumont.cli.account:login", _ACCOUNT),
    "logout": Entry("dumont.cli.account:logout", _ACCOUNT),
    "whoami": Entry("dumont.cli.account:whoami", _ACCOUNT),
    "completion": Entry("dumont.cli.completion:completion", _ACCOUNT),
}

app = LazyGroup(
    COMMANDS,
    name="dumont",
    help="Rent GPUs, work on them, and stop paying when they idle.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line on the arguments of this process."""
    app(prog_name="dumont")
