"""The control plane's end of the conversation with an agent."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from dumont.agent.errors import AgentFailed, AgentLost
from dumont.agent.protocol import PROTOCOL, Message, Progress, data_messages, dump, join_data, load

_GIVE_UP_SECONDS = 5.0

OnProgress = Callable[[Progress], None]
OnAsk = Callable[[str, dict[str, Any]], Awaitable[Any]]


class WireLike(Protocol):
    """A duplex of lines, without their newlines; `receive` returns None at the end."""

    async def send(self, line: bytes) -> None:
        """Send one line."""

    async def receive(self) -> bytes | None:
        """Return the next line, None at the end."""

    async def close(self) -> None:
        """End the conversation."""


@dataclass(frozen=True)
class Hello:
    """What the agent says of itself and its machine; `recovered` tells what it did about an interrupted restore."""

    protocol: int
    python: str
    arch: str
    free_bytes: int
    recovered: str
    pid: int


@dataclass
class _Request:
    done: "asyncio.Future[tuple[dict[str, Any], bytes]]"
    on_progress: OnProgress | None
    on_ask: OnAsk | None
    parts: list[str] = field(default_factory=list)
    refusal: BaseException | None = None


class AgentLink:
    """Requests to one agent over one wire. Made by `open`; close it when done, which also thaws and ends the agent."""

    def __init__(self, wire: WireLike, workspace_root: str, silence_seconds: float) -> None:
        self.hello = Hello(0, "", "", 0, "none", 0)
        self.workspace_root = workspace_root
        self._wire = wire
        self._silence = silence_seconds
        self._number = 0
        self._requests: dict[int, _Request] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._lost: AgentLost | None = None
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, wire: WireLike, *, workspace_root: str, silence_seconds: float = 60.0) -> "AgentLink":
        """Greet the agent and tell it which folder is the workspace; an interrupted restore is settled first.

        Units: an agent that says nothing for `silence_seconds` counts as lost (it beats every ten seconds).
        Errors: AgentFailed, AgentLost; the wire is closed then.
        """
        link = cls(wire, workspace_root, silence_seconds)
        try:
            result, _ = await link.request("hello", {"protocol": PROTOCOL, "workspace_root": workspace_root})
            link.hello = Hello(**result)
        except BaseException:
            await link.close()
            raise
        return link

    async def freeze(self, before: str | None = None) -> int:
        """Run `before` in the workspace, then stop the user's processes; return how many are stopped.

        Guarantees: only processes of this machine; if the wire ends the agent continues them.
        Errors: AgentFailed `before_hibernate_failed`, `not_a_machine`; AgentLost.
        """
        result, _ = await self.request("freeze", {"before": before})
        return int(result["processes"])

    async def hold(self, seconds: float = 60.0) -> None:
        """Let what is frozen stay so for a while after this conversation ends: the machine is about to be stopped.

        Guarantees: a machine that is not stopped after all goes on by itself, at the latest then, or at the next hello.
        Errors: AgentFailed, AgentLost.
        """
        await self.request("hold", {"seconds": seconds})

    async def thaw(self, after: str | None = None) -> int:
        """Continue what was frozen, then run `after` in the workspace; return how many went on.

        Errors: AgentFailed `after_wake_failed`; AgentLost.
        """
        result, _ = await self.request("thaw", {"after": after})
        return int(result["processes"])

    async def close(self) -> None:
        """End the conversation; doing it twice is fine."""
        self._fail(AgentLost("The conversation with the agent was closed."))
        self._reader.cancel()
        for task in [*self._answering]:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self._wire.close()

    async def request(
        self,
        op: str,
        args: dict[str, Any],
        *,
        data: bytes = b"",
        on_progress: OnProgress | None = None,
        on_ask: OnAsk | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Ask for one operation and return its result and data.

        Guarantees: operations run one after the other. A cancelled one is given up by the agent too, which takes back
        what it had begun; this waits for that a moment.
        Errors: AgentFailed as the agent says; AgentLost; what `on_ask` raised, unchanged.
        """
        if self._lost is not None:
            raise self._lost
        self._number += 1
        number = self._number
        request = _Request(asyncio.get_running_loop().create_future(), on_progress, on_ask)
        self._requests[number] = request
        try:
            for part in data_messages(number, data):
                await self._send(part)
            await self._send({"id": number, "op": op, "args": args})
            return await asyncio.shield(request.done)
        except asyncio.CancelledError:
            await self._give_up(number, request)
            raise
        finally:
            self._requests.pop(number, None)
            if request.done.done() and not request.done.cancelled():
                request.done.exception()

    async def _give_up(self, number: int, request: _Request) -> None:
        with suppress(AgentLost):
            await self._send({"cancel": number})
            await asyncio.wait([request.done], timeout=_GIVE_UP_SECONDS)

    async def _send(self, message: Message) -> None:
        try:
            await self._wire.send(dump(message))
        except Exception as error:
            raise AgentLost(f"The wire to the agent has ended ({type(error).__name__}).") from error

    async def _read(self) -> None:
        try:
            while (line := await asyncio.wait_for(self._wire.receive(), self._silence)) is not None:
                self._sort(load(line))
                if self._lost is not None:  # closed: a line that came in that moment hides the cancellation
                    return
            self._fail(AgentLost("The wire to the agent has ended."))
        except asyncio.TimeoutError:
            self._fail(AgentLost(f"The agent said nothing for {self._silence:g} seconds."))
        except AgentFailed as error:
            self._fail(AgentLost(error.detail))
        except Exception as error:  # noqa: BLE001 - a wire may end in ways of its own; each means the same here
            self._fail(AgentLost(f"The wire to the agent has broken ({type(error).__name__}: {error})."))

    def _fail(self, lost: AgentLost) -> None:
        self._lost = self._lost or lost
        for request in self._requests.values():
            if not request.done.done():
                request.done.set_exception(self._lost)

    def _sort(self, message: Message) -> None:
        number = message.get("id")
        request = self._requests.get(number) if isinstance(number, int) else None
        if request is None or request.done.done():
            if "ask" in message:
                self._later(self._send({"answer": message["ask"], "error": "abandoned"}))
            return
        if "data" in message:
            request.parts.append(str(message["data"]))
        elif "progress" in message:
            self._report(request, message["progress"])
        elif "ask" in message:
            self._later(self._answer(request, message))
        else:
            self._settle(request, message)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._answering.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._answering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, AgentLost) else AgentLost(str(error)))

    def _report(self, request: _Request, progress: dict[str, Any]) -> None:
        try:
            if request.on_progress is not None:
                request.on_progress(Progress(**progress))
        except Exception as error:  # noqa: BLE001 - the caller's own failure ends the caller's request only
            request.done.set_exception(error)

    def _settle(self, request: _Request, message: Message) -> None:
        error = message.get("error")
        try:
            if error is None:
                request.done.set_result((dict(message["result"]), join_data(request.parts)))
            elif error.get("code") == "ask_failed" and request.refusal is not None:
                request.done.set_exception(request.refusal)
            else:
                request.done.set_exception(AgentFailed(str(error.get("code")), str(error.get("detail"))))
        except AgentFailed as failed:
            request.done.set_exception(failed)

    async def _answer(self, request: _Request, message: Message) -> None:
        answer: Message = {"answer": message["ask"]}
        try:
            if request.on_ask is None:
                raise AgentFailed("unexpected_ask", "The agent asked something that this request does not allow.")
            answer["value"] = await request.on_ask(str(message["what"]), dict(message.get("args", {})))
        except Exception as error:  # noqa: BLE001 - kept whole for the caller of the request
            request.refusal = error
            answer["error"] = type(error).__name__
        await self._send(answer)
