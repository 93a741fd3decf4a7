"""What a worker holds while it works on instances: the hands, the providers, the vault and the clock."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.agent import AgentLink
from dumont.core import Clock, Settings
from dumont.db import Database, set_team
from dumont.market import ProviderNotConfigured, Providers
from dumont.providers import Provider
from dumont.remote import SshIdentity
from dumont.snapshots import Vaults
from dumont.vault import Gate


@dataclass(frozen=True)
class Patience:
    """How long to wait for a provider and its machines. Units: real seconds.

    `absence_seconds` lies between the two looks that make an absence believable; `doubt_seconds` is how long a lost
    answer may still turn into a machine; `lost_seconds` is how long a host may be cut off before we go elsewhere.
    """

    poll_seconds: float = 3.0
    absence_seconds: float = 10.0
    doubt_seconds: float = 60.0
    lost_seconds: float = 60.0


@dataclass
class Held:
    """An open agent link that a workflow keeps between two steps, with what closes it."""

    link: AgentLink
    gate: Gate
    gate_url: str
    stack: AsyncExitStack


@dataclass
class World:
    """Everything outside the database that steps on instances need; one per worker process."""

    database: Database
    clock: Clock
    settings: Settings
    providers: Providers
    ssh: SshIdentity
    vaults: Vaults
    agent_cache: Path
    patience: dict[str, Patience] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    keys_known: dict[str, float] = field(default_factory=dict)
    """When each provider last had our SSH key, on the monotonic clock."""

    def provider(self, name: str) -> Provider:
        """Return a configured provider.

        Errors: ProviderNotConfigured.
        """
        found = self.providers.get(name)
        if found is None:
            raise ProviderNotConfigured(
                f"This installation has no key for the provider “{name}”. Set it and start again.",
                setting=f"DUMONT_{name.upper()}_KEY",
            )
        return found

    def patience_with(self, name: str) -> Patience:
        """Return how long to wait for this provider."""
        return self.patience.get(name, Patience())

    @asynccontextmanager
    async def session(self, team_id: str) -> AsyncIterator[AsyncSession]:
        """Open one short transaction that sees one team's rows."""
        async with self.database.begin() as session:
            await set_team(session, team_id)
            yield session
