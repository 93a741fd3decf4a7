"""The demo's acts: rent, fill, hibernate, wake on a host that dies, wake elsewhere, sleep again, give it all back."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from dumont.app.demo.claims import Claims
from dumont.app.demo.files import LISTING, make_workspace, pack
from dumont.cli import CliError, Signed, follow
from dumont.client import Client, Offer, Operation
from dumont.sandbox import LedgerLine, SandboxControl

SEED = 20261121


@dataclass
class Story:
    """One telling of the demo against a running product."""

    signed: Signed
    market: SandboxControl
    label: str
    quiet: bool
    nap_seconds: float
    claims: Claims = field(default_factory=Claims)
    instance_id: str = ""
    first_price_nano: int = 0
    began: float = 0.0

    @property
    def client(self) -> Client:
        """The public API, as any client sees it."""
        return self.signed.client

    def say(self, text: str) -> None:
        """Tell what happens next."""
        click.echo(f"\n{text}", err=True)

    def wait(self, operation_id: str | None) -> Operation:
        """Follow an operation to its end."""
        if operation_id is None:
            raise CliError("The server started no operation.", code="demo")
        return follow(self.client, operation_id, quiet=self.quiet)

    def tell(self) -> dict[str, Any]:
        """Run all acts and return the report."""
        offer = self.choose()
        self.rent(offer)
        before = self.fill()
        slept = self.hibernate(destroy=True)
        self.check_asleep()
        woken = self.wake_through_a_dead_host()
        after = self.listing()
        self.compare(before, after)
        again = self.hibernate(destroy=False)
        self.claims.check(
            "an unchanged workspace stores almost nothing new",
            int(again["bytes_new"] or 0) * 100 <= int(slept["bytes_new"] or 1),
            f"{again['bytes_new']} new bytes after {slept['bytes_new']}",
        )
        seconds = time.time() - self.began
        self.give_back()
        return self.report(seconds, before, woken)

    def choose(self) -> Offer:
        """Choose the cheapest offer that at least three machines can serve, so that two may be lost.

        Errors: CliError where the market is not the sandbox, or too small.
        """
        self.say("1. Looking at the market")
        offers = [offer for offer in self.client.iter_offers() if offer.price_hour is not None]
        if any(offer.provider != "sandbox" for offer in offers):
            raise CliError("The demo rents and breaks machines, so it runs on the sandbox only.", code="demo")
        kinds: dict[tuple[str | None, int | None], list[Offer]] = {}
        for offer in offers:
            kinds.setdefault((offer.gpu_name, offer.num_gpus), []).append(offer)
        enough = [same for same in kinds.values() if len({offer.raw["machine_id"] for offer in same}) >= 3]
        if not enough:
            raise CliError("Too few free machines in the sandbox for the demo. Destroy some instances.", code="demo")
        chosen = min(enough, key=lambda same: float(same[0].raw["price_hour"]["amount"]))[0]
        click.echo(f"  {len(offers)} offers; taking {chosen.num_gpus} x {chosen.gpu_name}", err=True)
        return chosen

    def rent(self, offer: Offer) -> None:
        """Rent the machine and see it running."""
        self.say("2. Renting it")
        instance = self.client.create_instance(offer.id, label=self.label)
        self.instance_id = instance.id
        self.wait(instance.operation_id)
        self.began = time.time()
        running = self.client.instance(instance.id)
        self.first_price_nano = round(float(running.raw["price_hour"]["amount"]) * 1e9)
        self.claims.check("one machine is rented and billed", len(self.billed()) == 1, f"{len(self.billed())} billed")

    def fill(self) -> dict[str, list[Any]]:
        """Copy a real workspace to the machine and take its hashes there."""
        self.say("3. Working on it: a model, a source tree, links, modes")
        with tempfile.TemporaryDirectory(prefix="dumont-demo-") as folder:
            tree = Path(folder) / "tree"
            tree.mkdir()
            size = make_workspace(tree, SEED)
            pack(tree, Path(folder) / "w.tar")
            self.cli("cp", str(Path(folder) / "w.tar"), f"{self.instance_id}:w.tar")
        self.cli("exec", self.instance_id, "--", "sh", "-c", "tar -xpf w.tar && rm w.tar")
        found = self.listing()
        copied = sum(row[2] for row in found.values() if row[0] != "link" and len(row) > 2)
        self.claims.check("the workspace is on the machine", copied == size, f"{len(found)} paths, {copied} bytes")
        return found

    def hibernate(self, *, destroy: bool) -> dict[str, Any]:
        """Put the instance to sleep and return the snapshot's document."""
        self.say(f"{'4' if destroy else '7'}. Hibernating ({'give the machine back' if destroy else 'keep its disk'})")
        instance = self.client.hibernate(self.instance_id, "destroy" if destroy else "keep")
        done = self.wait(instance.operation_id)
        snapshot = self.client.snapshot((done.result or {})["snapshot_id"]).raw
        read_back = snapshot["bytes_verified"]
        self.claims.check(
            "the snapshot was read back before anything was stopped",
            snapshot["status"] == "ready" and read_back is not None,
            f"{read_back} bytes",
        )
        return snapshot

    def check_asleep(self) -> None:
        """See that nothing is billed any more, and stay asleep for a while."""
        self.claims.check("nothing is billed while it sleeps", not self.billed(), f"{len(self.billed())} billed")
        paid = sum(line.total_nanousd for line in self.lines())
        time.sleep(self.nap_seconds)
        after = sum(line.total_nanousd for line in self.lines())
        self.claims.check(
            f"{self.nap_seconds:g} s of sleep cost nothing", after == paid, f"{after - paid} nano-dollars"
        )

    def wake_through_a_dead_host(self) -> dict[str, Any]:
        """Wake; the first machine's host dies under the restore, and the product goes elsewhere by itself."""
        self.say("5. Waking it. The first host will die in the middle of it")
        self.market.add_fault("host_offline", {"moment": "ssh_login", "after_s": 0.3})
        instance = self.client.wake(self.instance_id)
        done = self.wait(instance.operation_id)
        tried = [machine for machine in self.machines() if machine["operation_id"] == done.id]
        self.claims.check("the first host was lost and another one taken", len(tried) == 2, f"{len(tried)} machines")
        self.claims.check("exactly one machine is billed", len(self.billed()) == 1, f"{len(self.billed())} billed")
        self.market.restore_host(int(tried[0]["provider_machine_id"]))
        first = self.machines()[0]["machine_id"]
        self.claims.check(
            "it woke on another machine", tried[-1]["machine_id"] != first, f"{first} -> {tried[-1]['machine_id']}"
        )
        return done.result or {}

    def compare(self, before: dict[str, list[Any]], after: dict[str, list[Any]]) -> None:
        """Compare every path, type, mode, size, SHA-256 and time."""
        self.say("6. Comparing every byte")
        differing = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        self.claims.check(
            "every path, byte, mode, link and time is as before",
            not differing,
            f"{len(after)} paths" if not differing else f"differing: {sorted(differing)[:5]}",
        )

    def give_back(self) -> None:
        """Destroy the instance and see that nothing is left that costs."""
        self.say("8. Giving everything back")
        self.wait(self.client.destroy_instance(self.instance_id).operation_id)
        self.claims.check("no machine is left", not self.billed(), f"{len(self.billed())} billed")

    def cli(self, *words: str) -> str:
        """Run the command line as a user would.

        Errors: CliError with what it said.
        """
        done = subprocess.run(
            [sys.executable, "-m", "dumont.cli", *words], capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0:
            raise CliError(f"`dumont {' '.join(words[:2])}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def listing(self) -> dict[str, list[Any]]:
        """Hash the workspace on the machine, with the machine's own Python."""
        found: dict[str, list[Any]] = json.loads(self.cli("exec", self.instance_id, "--", "python3", "-c", LISTING))
        return found

    def machines(self) -> list[dict[str, Any]]:
        """Read every machine that the instance had."""
        return self.client.machines(self.instance_id)

    def lines(self) -> list[LedgerLine]:
        """Read the marketplace's own bill for this demo's machines."""
        labels = {machine["label"] for machine in self.machines()}
        return [line for line in self.market.ledger() if line.label in labels]

    def billed(self) -> list[LedgerLine]:
        """Read which of this demo's machines still cost something."""
        return [line for line in self.lines() if line.destroyed_at is None]

    def report(self, seconds: float, before: dict[str, list[Any]], woken: dict[str, Any]) -> dict[str, Any]:
        """Gather what the closing tables show, and check the money."""
        lines = {line.label: line for line in self.lines()}
        machines = self.machines()
        billed = sum(line.total_nanousd for line in lines.values())
        recorded = sum(round(float(m[kind]["amount"]) * 1e9) for m in machines for kind in ("cost_gpu", "cost_disk"))
        left_running = round(self.first_price_nano * seconds / 3600)
        changes = 2 * len(machines) + 2
        tolerance = round(changes * 2.0 * self.first_price_nano / 3600)
        self.claims.check(
            f"our record and the bill agree within {changes} state changes of 2 s",
            abs(billed - recorded) <= tolerance,
            f"{abs(billed - recorded)} of {tolerance} nano-dollars",
        )
        snapshots = [s.raw for s in self.client.iter_snapshots(instance_id=self.instance_id)]
        return {
            "instance_id": self.instance_id,
            "claims": self.claims.made,
            "machines": [_machine(machine, lines.get(machine["label"])) for machine in machines],
            "snapshots": [{**s, "hashes": f"{(s['bytes_verified'] or 0) >> 20} MiB"} for s in reversed(snapshots)],
            "restored": woken,
            "files_compared": len(before),
            "bytes_compared": sum(row[2] for row in before.values() if row[0] != "link" and len(row) > 2),
            "money": {
                "billed_nano": billed,
                "recorded_nano": recorded,
                "left_running_nano": left_running,
                "seconds": seconds,
            },
        }


def _machine(machine: dict[str, Any], line: LedgerLine | None) -> dict[str, Any]:
    ended = line.destroyed_at if line is not None else None
    return {
        "machine_id": machine["machine_id"],
        "place": machine["geolocation"] or "?",
        "gpu": f"{machine['num_gpus']} x {machine['gpu_name']}",
        "why": machine["reason"] or "-",
        "state": machine["state"],
        "seconds": (ended - line.created_at) if line is not None and ended is not None else 0.0,
        "paid_nano": line.total_nanousd if line is not None else 0,
        "label": machine["label"],
    }
