"""The commands that fill the wallet by Pix: topup makes a charge and waits for it; topups shows and changes charges."""

import base64
import sys
import time
from pathlib import Path

import click

from dumont.cli import options as o
from dumont.cli.amounts import given
from dumont.cli.exit import CliError, Interrupted, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.wallet import show_money
from dumont.cli.words import UNKNOWN, moment, now, span, text
from dumont.client import ApiUnreachable, Client, Topup

_LOOK_SECONDS = 1.0
_COLUMNS = (
    Column("TOP-UP"),
    Column("STATUS"),
    Column("AMOUNT", figures=True),
    Column("CREDIT", figures=True),
    Column("REFUNDED", figures=True),
    Column("MADE"),
)
_ENDS = {
    "expired": "Nobody paid in time. `dumont topup` makes a new charge.",
    "cancelled": "The charge was cancelled.",
}


@click.command()
@click.argument("amount", metavar="AMOUNT")
@click.option("--minutes", type=click.IntRange(5, 1440), help="How long the charge can be paid (30).")
@click.option("--save-qr", type=click.Path(path_type=Path), metavar="FILE", help="Write the QR picture (PNG) there.")
@click.option("--simulate", is_flag=True, help="Let the sandbox's payment service pay it.")
@o.no_wait
@o.as_json
@ends_well
def topup(amount: str, minutes: int | None, save_qr: Path | None, simulate: bool, no_wait: bool, as_json: bool) -> None:
    """Fill the wallet by Pix: AMOUNT in reais, as `100` or `R$ 1.234,56`. Waits until it is paid."""
    client = sign_in().client
    made = client.topups.make(given(amount), minutes=minutes)
    if save_qr is not None:
        _save(save_qr, made)
    if not as_json:
        _ask_to_pay(made, drawn=save_qr is None)
    if simulate:
        client.topups.simulate_payment(made.id)
    found = made if no_wait else _wait(client, made, quiet=as_json)
    if as_json:
        show_json(found.raw)
    elif found.status in ("paid", "refunded"):
        print(f"Paid: the wallet got {show_money(found.credit)}.")


@click.group(invoke_without_command=True)
@click.option("--status", type=click.Choice(["pending", "paid", "expired", "cancelled", "refunded"]))
@o.limit(20, 100)
@o.as_json
@click.pass_context
@ends_well
def topups(context: click.Context, status: str | None, limit: int, as_json: bool) -> None:
    """Show charges that fill the wallet, newest first."""
    if context.invoked_subcommand is not None:
        return
    found = [one for one, _ in zip(sign_in().client.topups.find(status=status), range(limit), strict=False)]
    if as_json:
        show_json({"topups": [one.raw for one in found], "count": len(found)})
        return
    show_table(_COLUMNS, (_row(one) for one in found), empty="No top-ups. `dumont topup 100` makes one.")


@topups.command("show")
@click.argument("topup_id", metavar="ID")
@o.as_json
@ends_well
def show_one(topup_id: str, as_json: bool) -> None:
    """Show one charge, with its code while it can be paid."""
    _show(sign_in().client.topups.show(topup_id), as_json=as_json)


@topups.command()
@click.argument("topup_id", metavar="ID")
@o.as_json
@ends_well
def cancel(topup_id: str, as_json: bool) -> None:
    """Take a charge back before it is paid."""
    _show(sign_in().client.topups.cancel(topup_id), as_json=as_json)


@topups.command()
@click.argument("topup_id", metavar="ID")
@click.argument("amount", metavar="[AMOUNT]", required=False)
@o.as_json
@ends_well
def refund(topup_id: str, amount: str | None, as_json: bool) -> None:
    """Send money back to who paid it: AMOUNT in reais, or all that remains. For the operator."""
    wanted = None if amount is None else given(amount)
    _show(sign_in().client.topups.refund(topup_id, wanted), as_json=as_json)


@topups.command("simulate-payment")
@click.argument("topup_id", metavar="ID")
@o.as_json
@ends_well
def simulate_payment(topup_id: str, as_json: bool) -> None:
    """Let the sandbox's payment service pay a charge. For the operator."""
    _show(sign_in().client.topups.simulate_payment(topup_id), as_json=as_json)


def _ask_to_pay(made: Topup, *, drawn: bool) -> None:
    """Print the code on stdout, for a pipe as well; what else helps a person goes to stderr."""
    until = f"until {moment(made.expires_at)}"
    print(f"Pay {show_money(made.amount)} by Pix {until}; the wallet gets {show_money(made.credit)}.", file=sys.stderr)
    if drawn and sys.stderr.isatty() and made.pix_copy_paste:
        import segno

        segno.make_qr(made.pix_copy_paste, error="m").terminal(out=sys.stderr, compact=True)
    print("Copy this into your bank's app (Pix copia e cola):", file=sys.stderr, flush=True)
    print(text(made.pix_copy_paste), flush=True)


def _save(path: Path, made: Topup) -> None:
    if made.qr_code_png_base64 is None:
        raise CliError(f"The server sent no picture of {made.id}; its code can be copied all the same.")
    try:
        path.write_bytes(base64.b64decode(made.qr_code_png_base64))
    except OSError as error:
        raise CliError(f"{path} cannot be written ({error.strerror}). The charge is {made.id}.") from error


def _wait(client: Client, made: Topup, *, quiet: bool) -> Topup:
    """Look again and again until the charge has ended.

    Errors: CliError when nobody paid; Interrupted on Ctrl-C (the charge stays).
    """
    live = sys.stderr.isatty() and not quiet
    found = made
    try:
        while found.status == "pending":
            if live and made.expires_at is not None:
                left = span((made.expires_at - now()).total_seconds())
                sys.stderr.write(f"\r\x1b[KWaiting for the payment: {left} left.")
                sys.stderr.flush()
            time.sleep(_LOOK_SECONDS)
            found = _looked(client, found)
    except KeyboardInterrupt:
        raise Interrupted(
            f"The charge can still be paid. `dumont topups show {made.id}` shows it, `dumont topups cancel {made.id}` "
            "takes it back."
        ) from None
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
    if found.status in _ENDS:
        raise CliError(_ENDS[found.status], code=f"topup-{found.status}")
    return found


def _looked(client: Client, known: Topup) -> Topup:
    """Read a charge; a server that is away for a while ends no waiting."""
    try:
        return client.topups.show(known.id)
    except ApiUnreachable:
        if known.expires_at is not None and now() > known.expires_at:
            raise
        return known


def _show(found: Topup, *, as_json: bool) -> None:
    if as_json:
        show_json(found.raw)
        return
    facts = [
        ("top-up", text(found.id)),
        ("status", text(found.status)),
        ("amount", show_money(found.amount)),
        ("credit", show_money(found.credit, 6)),
        ("refunded", show_money(found.refunded)),
        ("until", moment(found.expires_at)),
        ("paid", moment(found.paid_at)),
    ]
    show_facts([*facts, ("code", text(found.pix_copy_paste))] if found.status == "pending" else facts)


def _row(found: Topup) -> list[str]:
    refunded = show_money(found.refunded) if found.refunded is not None and found.refunded.amount else UNKNOWN
    credit, made = show_money(found.credit), moment(found.created_at)
    return [text(found.id), text(found.status), show_money(found.amount), credit, refunded, made]
