"""The SSH ports of all machines: which are open, under which address and key, and whom they admit."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from dumont.sandbox.market import free_port
from dumont.sandbox.ssh import Door, SshDoor, open_door, same_key
from dumont.sandbox.store import Rental, Store

_OTHER_HOSTS = 200


class Doors:
    """Opens and closes them; `environment` and `noticed` come from whoever runs the machines."""

    def __init__(
        self,
        store: Store,
        host: str,
        environment: Callable[[Rental], dict[str, str]],
        noticed: Callable[[int, str], None],
    ) -> None:
        self._store = store
        self._host = host
        self._environment = environment
        self._noticed = noticed
        self._open: dict[int, SshDoor] = {}
        self._closed_until_told: set[int] = set()
        self._strangers: set[int] = set()

    def is_open(self, number: int) -> bool:
        """Tell whether the machine's port is open."""
        return number in self._open

    def address(self, rental: Rental) -> str:
        """Return the host under which a machine is reached."""
        return self._store.rental_hosts().get(rental.id, self._host)

    async def open(self, rental: Rental, folder: Path) -> None:
        """Open a machine's port, under another number where its own is taken; a bolted one stays closed.

        Errors: OSError when no port can be had.
        """
        if rental.id in self._closed_until_told or rental.id in self._open:
            return
        door = Door(
            number=rental.id,
            root=folder / "root",
            environment=lambda: self._environment_of_open(rental),
            admits=lambda line: self._admits(rental.id, line),
            noticed=lambda event: self._noticed(rental.id, event),
        )
        host, key = self.address(rental), folder / "host_key"
        try:
            self._open[rental.id] = await open_door(door, host, rental.port, key)
        except OSError:
            port = free_port(host, self._store.ports())
            self._store.update(rental.id, port=port)
            self._open[rental.id] = await open_door(door, host, port, key)

    async def close(self, number: int) -> None:
        """Close a machine's port and cut its connections."""
        door = self._open.pop(number, None)
        if door is not None:
            await door.close()

    async def close_all(self) -> None:
        """Close every port."""
        await asyncio.gather(*(self.close(number) for number in list(self._open)))

    def bolt(self, number: int, bolted: bool) -> None:
        """Keep a machine's port closed whoever opens it, or no longer."""
        (self._closed_until_told.add if bolted else self._closed_until_told.discard)(number)

    def estrange(self, number: int, strange: bool) -> None:
        """Let a machine know no key, or again those that it has."""
        (self._strangers.add if strange else self._strangers.discard)(number)

    async def move(self, rental: Rental, folder: Path, *, key: bool = False, address: bool = False) -> None:
        """Give a machine another host key or another address; a port that was open is open again afterwards."""
        was_open = rental.id in self._open
        await self.close(rental.id)
        if key:
            (folder / "host_key").unlink(missing_ok=True)
        if address:
            self.readdress(rental)
        changed = self._store.rental(rental.id)
        if was_open and changed is not None:
            await self.open(changed, folder)

    def readdress(self, rental: Rental) -> None:
        """Write another address for a machine: another port, and another loopback host where there are more."""
        host = self._host
        if host.startswith("127."):
            last = int(self.address(rental).rsplit(".", 1)[1])
            host = f"127.0.1.{last % _OTHER_HOSTS + 1}"
        self._store.set_rental_host(rental.id, host)
        self._store.update(rental.id, port=free_port(host, self._store.ports()))

    def drop(self, number: int) -> int:
        """Cut a machine's connections, the port stays open; return how many there were."""
        door = self._open.get(number)
        return door.drop() if door is not None else 0

    def guests(self, number: int) -> int:
        """Return how many connections a machine has."""
        door = self._open.get(number)
        return door.guests if door is not None else 0

    def carried(self, number: int) -> int:
        """Return the bytes that a machine's open connections have carried in both directions."""
        door = self._open.get(number)
        return door.carried() if door is not None else 0

    def _admits(self, number: int, line: str) -> bool:
        return number not in self._strangers and any(
            same_key(line, text) for _, text in self._store.rental_keys(number)
        )

    def _environment_of_open(self, rental: Rental) -> dict[str, str]:
        if rental.id not in self._open:
            raise OSError("the machine is going down")
        return self._environment(rental)
