"""Our hands on an instance's machine: a first login, and the agent's link with a way back to the store."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import structlog

from dumont.agent import AgentFailed, AgentLink, AgentLost, start_agent
from dumont.core import Problem
from dumont.instances.model import AgentUnfit, HostKeyMismatch, HostLost, Rental, SshUnreachable
from dumont.instances.world import Held, World
from dumont.providers import Address
from dumont.remote import HostKeyChanged, RemoteError, connect, first_reachable

log = structlog.get_logger()


async def knock(world: World, addresses: Sequence[Address], host_key: str | None) -> dict[str, Any] | None:
    """Log in once and return the address that worked and the host key; None while nobody answers.

    Errors: HostKeyMismatch where another key is pinned.
    """
    try:
        async with first_reachable(addresses, world.ssh, host_key=host_key) as hands:
            await hands.run("true", timeout=15)
            where = {"host": hands.address.host, "port": hands.address.port, "user": hands.address.user}
            return {"address": where, "host_key": hands.host_key}
    except HostKeyChanged as error:
        raise explain_remote(error) from error
    except RemoteError as error:
        log.info("machine does not answer on SSH yet", error=str(error))
        return None


def explain_remote(error: Exception) -> Problem:
    """Turn an error of SSH or of the agent into the problem that people see."""
    if isinstance(error, HostKeyChanged):
        return HostKeyMismatch("The machine shows another host key than before; nothing was sent to it.")
    if isinstance(error, AgentLost):
        return HostLost("The machine went silent in the middle of the work.")
    if isinstance(error, AgentFailed):
        return AgentUnfit(f"The agent cannot work on this machine: {error.detail}")
    return SshUnreachable(f"The machine does not answer on SSH: {error}")


async def hold_link(world: World, rental: Rental, workspace_id: str) -> Held:
    """Connect to a rental's machine, start the agent and open its way back to the workspace's store.

    The caller drops it. Errors: SshUnreachable, HostKeyMismatch, HostLost.
    """
    if rental.address is None or rental.workspace_root is None:
        raise SshUnreachable("The machine has no known address.")
    stack = AsyncExitStack()
    try:
        address = Address(**rental.address)
        hands = await stack.enter_async_context(connect(address, world.ssh, host_key=rental.host_key))
        wire = await start_agent(hands, cache=world.agent_cache)
        link = await AgentLink.open(wire, workspace_root=rental.workspace_root)
        stack.push_async_callback(link.close)
        gate = world.vaults.gate(workspace_id)
        local = await asyncio.to_thread(gate.start)
        stack.push_async_callback(asyncio.to_thread, gate.stop)
        port = await stack.enter_async_context(hands.forward_back("127.0.0.1", local))
    except (RemoteError, AgentFailed, AgentLost) as error:
        await stack.aclose()
        raise explain_remote(error) from error
    except BaseException:
        await stack.aclose()
        raise
    world.held[rental.id] = Held(link, gate, f"http://127.0.0.1:{port}", stack)
    return world.held[rental.id]


async def drop_link(world: World, rental_id: str) -> None:
    """Close a held link, if there is one; the agent then thaws whatever it froze."""
    held = world.held.pop(rental_id, None)
    if held is None:
        return
    try:
        await held.stack.aclose()
    except (RemoteError, OSError) as error:
        log.info("link did not close cleanly", rental_id=rental_id, error=str(error))
