"""Rent exactly one machine per label, though Vast has no idempotency key and may carry out what it never answered."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from dumont.core import NANO
from dumont.providers.contract import (
    Machine,
    MachineAbsent,
    MachineState,
    OfferGone,
    Provider,
    ProviderError,
    ProviderRefused,
    ProviderUnreachable,
    RentRequest,
)
from dumont.providers.vast.client import VastClient
from dumont.providers.vast.values import text

_log = logging.getLogger(__name__)


async def rent_once(client: VastClient, provider: Provider, request: RentRequest, delays: Sequence[float]) -> str:
    """Look by label, ask once, and after doubt look by label again; return the machine's id.

    Units: `delays` are the moments of the looks, in seconds after the doubt began.
    Errors: ProviderUnreachable while a machine may exist; a refusal is raised after the machine that it names, if
    any, was destroyed.
    """
    existing = await provider.find_by_label(request.label)
    if existing:
        return await _keep_one(provider, existing)
    try:
        reply = await client.ask("create", "PUT", f"/api/v0/asks/{_offer_number(request)}/", body=create_body(request))
        rented = text(reply, "new_contract") if isinstance(reply, dict) else None
        if rented is not None:
            return rented
    except ProviderUnreachable as doubt:
        await _destroy_named(provider, doubt)
        if doubt.not_sent or doubt.machine_id is not None:
            raise
    except ProviderError as refusal:
        await _destroy_named(provider, refusal)
        raise
    return await _look_again(provider, request.label, delays)


def create_body(request: RentRequest) -> dict[str, Any]:
    """Return the body of PUT /asks: on-demand without a price, interruptible with the bid, or its lowest winning one.

    Source: ports are asked for as names of the environment, in the words of `docker run`.
    """
    bid = (
        (request.bid_hour_nano or request.offer.min_bid_hour_nano)
        if request.offer.machine_type == "interruptible"
        else None
    )
    body: dict[str, Any] = {
        "client_id": "me",
        "image": request.image,
        "disk": request.disk_gb,
        "label": request.label,
        "price": None if bid is None else bid / NANO,
        "runtype": "ssh_direc ssh_proxy",
        "env": {**request.env, **{f"-p {port}:{port}": "1" for port in request.ports}},
        "cancel_unavail": True,
        "target_state": "running",
    }
    return body if request.onstart is None else {**body, "onstart": request.onstart}


def _offer_number(request: RentRequest) -> str:
    if not request.offer.provider_offer_id.isdecimal():
        raise OfferGone("The offer's number is not one of Vast.ai's.")
    if request.offer.machine_type == "interruptible" and request.offer.min_bid_hour_nano is None:
        raise ProviderRefused("The offer is interruptible but names no lowest bid.")
    return request.offer.provider_offer_id


async def _destroy_named(provider: Provider, error: ProviderError) -> None:
    """Destroy the machine that an error body names: a bid that is too low leaves a stopped one, which bills."""
    if error.machine_id is None:
        return
    try:
        await provider.destroy(error.machine_id)
    except ProviderError as second:
        raise ProviderUnreachable(
            f"{error.detail} A machine ({error.machine_id}) was made in spite of it and could not be destroyed yet.",
            code=error.code,
            machine_id=error.machine_id,
        ) from second


async def _look_again(provider: Provider, label: str, delays: Sequence[float]) -> str:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for delay in delays:
        await asyncio.sleep(max(0.0, began + delay - loop.time()))
        try:
            found = await provider.find_by_label(label)
        except ProviderError as error:
            _log.info("could not look for a machine by its label: %s", error.detail)
            continue
        if found:
            return await _keep_one(provider, found)
    raise ProviderUnreachable("The order got no answer and no machine with its label is listed; one may still appear.")


async def _keep_one(provider: Provider, machines: Sequence[Machine]) -> str:
    """Keep the first that runs, else the oldest; destroy the others, which this label asked for once only."""
    kept = next((machine for machine in machines if machine.state is MachineState.RUNNING), machines[0])
    for machine in machines:
        if machine.id == kept.id:
            continue
        try:
            await provider.destroy(machine.id)
        except MachineAbsent:
            continue
    return kept.id
