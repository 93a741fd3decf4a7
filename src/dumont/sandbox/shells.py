"""The commands that run on machines: with which environment they start, and how all of them end."""

import asyncio

from dumont.sandbox import processes
from dumont.sandbox.folders import Folders
from dumont.sandbox.store import Rental


class Shells:
    """Starts and ends the processes of one sandbox's machines, which carry its marker."""

    def __init__(self, marker: str, folders: Folders) -> None:
        self._marker = marker
        self._folders = folders
        self._spawned: set[int] = set()

    def environment(self, rental: Rental) -> dict[str, str]:
        """Return the environment of a command that is started now."""
        self._spawned.add(rental.id)
        extra = {name: value for name, value in rental.env.items() if not name.startswith("-")}
        extra["CONTAINER_API_KEY"] = rental.api_key
        extra["CONTAINER_ID"] = str(rental.id)
        return processes.environment(rental.id, self._marker, self._folders.machine(rental.id), extra)

    async def run_onstart(self, rental: Rental) -> None:
        """Start what the rental wants started whenever its machine comes up; its output goes to the container log."""
        if not rental.onstart:
            return
        with self._folders.log_path(rental.id).open("ab") as log:
            await asyncio.create_subprocess_exec(
                "/bin/bash",
                "-c",
                rental.onstart,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folders.root(rental.id),
                env=self.environment(rental),
                start_new_session=True,
            )

    async def run_command(self, rental: Rental, words: list[str]) -> str:
        """Run ls, rm or du on a machine's files and return what it printed; paths are those of the machine.

        Errors: ValueError for a path outside the machine, OSError where it has no files.
        """
        argv = [words[0], *(self._folders.within(rental.id, word) for word in words[1:])]
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folders.root(rental.id),
            env=self.environment(rental),
        )
        return (await child.communicate())[0].decode(errors="replace")

    async def end(self, number: int, *, grace: float) -> None:
        """End the processes of a machine; where none was ever started there is nothing to look for."""
        if number in self._spawned:
            await asyncio.to_thread(processes.end, self._marker, number, grace=grace)
            self._spawned.discard(number)

    def end_all(self, *, grace: float) -> None:
        """End the processes of every machine, also those of a sandbox that ran here before."""
        processes.end(self._marker, grace=grace)
        self._spawned.clear()
