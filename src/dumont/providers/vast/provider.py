"""Vast.ai as a provider of ours: calls its client, translates, and holds no opinion."""

import builtins
import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from dumont.providers.contract import (
    Account,
    BadCredentials,
    Capabilities,
    Charge,
    Machine,
    MachineAbsent,
    Offer,
    OfferQuery,
    ProviderError,
    ProviderRefused,
    ProviderUnreachable,
    RateLimited,
    RentRequest,
)
from dumont.providers.vast.client import VastClient
from dumont.providers.vast.crowd import Crowd
from dumont.providers.vast.keys import public_keys_in, same_key
from dumont.providers.vast.rent import rent_once
from dumont.providers.vast.results import fetch
from dumont.providers.vast.search import search
from dumont.providers.vast.translate import account_from, charges_from, machine_from
from dumont.providers.vast.values import Row, text


class VastProvider:
    """The marketplace Vast.ai, or a server that speaks its API.

    Units: `doubt_delays` are seconds after an unanswered order at which the label is looked for.
    Guarantees: see Provider. `enforce_gaps` keeps Vast's minimum gaps within this process; a local server needs none.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str,
        *,
        doubt_delays: Sequence[float] = (2, 5, 15, 30, 60),
        enforce_gaps: bool = True,
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(
            stop_keeps_disk=True,
            interruptible=True,
            attach_key_to_running=True,
            states_charges=True,
            whole_market=not enforce_gaps,
        )
        self._base_url = base_url
        self._doubt_delays = tuple(doubt_delays)
        self._client = VastClient(base_url, api_key, enforce_gaps=enforce_gaps)
        self._crowd = Crowd(self.list) if enforce_gaps else None

    async def offers(self, query: OfferQuery) -> builtins.list[Offer]:
        """Search the market, cheapest first; pages by price where more fit than one reply holds."""
        return await search(self._client, query, provider=self.name)

    async def rent(self, request: RentRequest) -> str:
        """Rent one machine per label; see Provider."""
        return await rent_once(self._client, self, request, self._doubt_delays)

    async def find_by_label(self, label: str) -> builtins.list[Machine]:
        """List the machines with exactly this label, oldest first; complete or ProviderUnreachable."""
        return [machine for machine in await self._listed(label) if machine.label == label]

    async def list(self) -> builtins.list[Machine]:
        """List all machines of the account, oldest first; complete or ProviderUnreachable."""
        return await self._listed(None)

    async def _listed(self, label: str | None) -> builtins.list[Machine]:
        try:
            rows = await self._client.instances(label=label)
        except (BadCredentials, RateLimited, ProviderUnreachable):
            raise
        except ProviderError as error:
            raise ProviderUnreachable(f"No listing: {error.detail}", code=error.code) from error
        machines = [machine_from(row) for row in rows]
        if None in machines:
            raise ProviderUnreachable("Vast.ai's listing holds a row without an id; what exists is unknown.")
        return sorted((m for m in machines if m is not None), key=lambda m: (len(m.id), m.id))

    async def get(self, machine_id: str) -> Machine | None:
        """Read one machine; `None` = absent in a call that worked. Many looks at once share one listing."""
        if self._crowd is None:
            return await self._single(machine_id)
        return await self._crowd.look(machine_id, partial(self._single, machine_id))

    async def _single(self, machine_id: str) -> Machine | None:
        try:
            reply = await self._client.ask("get", "GET", self._path(machine_id), params={"owner": "me"})
        except MachineAbsent:
            return None
        if not isinstance(reply, dict) or "instances" not in reply:
            raise ProviderUnreachable("Vast.ai's answer does not speak of the machine; its state is unknown.")
        row = reply["instances"]
        machine = machine_from(row) if isinstance(row, dict) else None
        if row is not None and (machine is None or machine.id != machine_id):
            raise ProviderUnreachable("Vast.ai's answer is about something else; the machine's state is unknown.")
        return machine

    async def stop(self, machine_id: str) -> None:
        """Ask for a stop that keeps the disk."""
        await self._client.ask("change", "PUT", self._path(machine_id), body={"state": "stopped"})

    async def start(self, machine_id: str) -> None:
        """Ask for a start; NoCapacity leaves it queued."""
        await self._client.ask("change", "PUT", self._path(machine_id), body={"state": "running"})

    async def cancel_start(self, machine_id: str) -> None:
        """Take a queued start back, by asking for a stop."""
        await self.stop(machine_id)

    async def destroy(self, machine_id: str) -> None:
        """Ask for destruction; fine when it is gone already."""
        try:
            await self._client.ask("destroy", "DELETE", self._path(machine_id), body={})
        except MachineAbsent:
            return

    async def reboot(self, machine_id: str) -> None:
        """Ask a running machine to go down and come up again."""
        await self._client.ask("change", "PUT", f"/api/v0/instances/reboot/{self._number(machine_id)}/", body={})

    async def logs(self, machine_id: str, *, tail: int) -> builtins.list[str]:
        """Read the last lines of the container; Vast writes them somewhere else, where they are then fetched."""
        path = f"/api/v0/instances/request_logs/{self._number(machine_id)}/"
        reply = await self._client.ask("change", "PUT", path, body={"tail": str(tail)})
        url = text(reply, "result_url") if isinstance(reply, dict) else None
        if url is None:
            raise ProviderUnreachable("Vast.ai did not say where the logs will be.")
        return (await fetch(url, base_url=self._base_url)).splitlines()[-tail:]

    async def ensure_key(self, public_key: str) -> None:
        """Make the account know an SSH key; compares type and body, not the comment."""
        try:
            known = await self._client.ask("keys", "GET", "/api/v0/ssh/")
        except ProviderRefused as refusal:
            if refusal.code not in ("404", "not_found", "no_such_key"):
                raise
            known = []
        if not same_key(public_key, public_keys_in(known)):
            await self._client.ask("keys", "POST", "/api/v0/ssh/", body={"ssh_key": public_key})

    async def attach_key(self, machine_id: str, public_key: str) -> None:
        """Make one machine accept an SSH key; a refusal counts as done when the key is there."""
        path = f"{self._path(machine_id)}ssh/"
        try:
            await self._client.ask("keys", "POST", path, body={"ssh_key": public_key})
        except MachineAbsent:
            raise
        except ProviderRefused:
            attached = await self._client.ask("keys", "GET", path)
            if not same_key(public_key, public_keys_in(attached)):
                raise

    async def charges(self, machine_id: str, start: datetime, end: datetime) -> builtins.list[Charge]:
        """Read Vast's own charges that overlap a span, oldest first; complete or ProviderUnreachable.

        Units: Vast states three decimals of a dollar, so a line may be off by half a thousandth.
        """
        span = {"day": {"gte": int(start.timestamp()), "lte": int(end.timestamp())}, "type": {"in": ["instance"]}}
        params = {"select_filters": json.dumps(span), "limit": "500", "latest_first": "false", "format": "table"}
        rows: builtins.list[Row] = await self._client.pages(
            "charges", "/api/v0/charges/", rows="results", total="total", params=params
        )
        lines = [line for row in rows for line in charges_from(row, machine_id)]
        return sorted((c for c in lines if c.start < end and c.end > start), key=lambda c: (c.start, c.kind))

    async def account(self) -> Account:
        """Read the account behind the key."""
        reply: Any = await self._client.ask("account", "GET", "/api/v0/users/current/")
        if not isinstance(reply, dict):
            raise ProviderUnreachable("Vast.ai's answer does not speak of the account.")
        return account_from(reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _path(self, machine_id: str) -> str:
        return f"/api/v0/instances/{self._number(machine_id)}/"

    def _number(self, machine_id: str) -> str:
        if not machine_id.isdecimal():
            raise MachineAbsent("The machine's number is not one of Vast.ai's.")
        return machine_id
