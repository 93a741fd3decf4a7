"""What the demo claims, each checked as it happens, and the tables that close it."""

from dataclasses import dataclass, field
from typing import Any

import click

from dumont.cli import Column, show_table


class ClaimBroken(Exception):
    """Something was not as claimed; the demo ends with a non-zero exit."""


@dataclass
class Claims:
    """Checked claims, in order."""

    made: list[dict[str, Any]] = field(default_factory=list)

    def check(self, what: str, holds: bool, seen: str) -> None:
        """Note a claim with what was seen.

        Errors: ClaimBroken where it does not hold.
        """
        self.made.append({"claim": what, "holds": holds, "seen": seen})
        click.echo(f"  {'ok ' if holds else 'NOT'}  {what}: {seen}", err=True)
        if not holds:
            raise ClaimBroken(f"Not as claimed: {what} ({seen}).")


def usd(nano: int) -> str:
    """Show nano-dollars with six decimals."""
    return f"${nano / 1e9:.6f}"


def mib(size: int | None) -> str:
    """Show bytes in MiB."""
    return "?" if size is None else f"{size / (1 << 20):.1f} MiB"


def show_closing(report: dict[str, Any]) -> None:
    """Write the closing tables: machines, snapshots, money."""
    machines = [
        [m["machine_id"], m["place"], m["gpu"], m["why"], f"{m['seconds']:.0f} s", m["state"], usd(m["paid_nano"])]
        for m in report["machines"]
    ]
    click.echo("\nWhat ran where")
    names = ["MACHINE", "PLACE", "GPU", "WHY", "RENTED", "NOW", "PAID"]
    show_table([Column(name, figures=name in ("RENTED", "PAID")) for name in names], machines, empty="-")
    click.echo("\nWhat was saved")
    rows = [
        [s["id"][-8:], str(s["files"]), mib(s["bytes_total"]), mib(s["bytes_new"]), mib(s["bytes_stored"]), s["hashes"]]
        for s in report["snapshots"]
    ]
    names = ["SNAPSHOT", "FILES", "SIZE", "NEW", "STORED", "READ BACK"]
    show_table([Column(name, figures=name != "SNAPSHOT") for name in names], rows, empty="-")
    money = report["money"]
    click.echo("\nWhat was paid")
    show_table(
        [Column("WHAT"), Column("USD", figures=True)],
        [
            ["the marketplace's own bill, all machines of this demo", usd(money["billed_nano"])],
            ["what Dumont recorded", usd(money["recorded_nano"])],
            [f"left running for the same {money['seconds']:.0f} s", usd(money["left_running_nano"])],
        ],
        empty="-",
    )
    click.echo(
        f"\n{report['files_compared']} paths and {mib(report['bytes_compared'])} compared by SHA-256, all equal."
    )
