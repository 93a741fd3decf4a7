"""The machine's end: read requests from standard input, work, answer on standard output.

What saves and restores is loaded once the greeting was answered, while the control plane thinks of what to ask.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from dumont.agent.errors import AgentFailed
from dumont.agent.exchange import recover
from dumont.agent.freeze import Freezer
from dumont.agent.keeping import keep_memory
from dumont.agent.protocol import BEAT_SECONDS, PROTOCOL, Message, Progress, data_messages, dump, join_data, load

if TYPE_CHECKING:
    from dumont.agent.seen import Seen

_PROGRESS_SECONDS = 0.2
_HOOK_SECONDS = 120.0
_HOLD_SECONDS = 300.0

Result = tuple[dict[str, Any], bytes]


class Session:
    """One conversation with the control plane; ends with the wire."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.root: bytes | None = None
        self.freezer = Freezer(os.environ, os.path.expanduser("~/.dumont/agent/frozen.json"))
        self.seen: dict[str, Seen] = {}
        self._source = source
        self._sink = sink
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        self._asked = 0
        self._answers: dict[int, queue.SimpleQueue[Message]] = {}
        self._parts: dict[int, list[str]] = {}
        self._given_up: set[int] = set()
        self._asking_for: dict[int, int] = {}
        self._work: queue.SimpleQueue[tuple[Message, bytes]] = queue.SimpleQueue()

    def run(self) -> None:
        """Serve until the wire ends; then thaw what was frozen."""
        self.freezer.thaw_left()
        threading.Thread(target=self._serve, name="work", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        for line in self._source:
            if line.strip():
                self._sort(load(line))
        self.end()

    def end(self) -> None:
        """Thaw, after a hold where one was asked for, and leave: whatever was under way is safe to cut."""
        time.sleep(self.freezer.hold_left)
        self.freezer.thaw()
        os._exit(0)

    def emit(self, message: Message) -> None:
        """Send one message; a broken wire ends the session."""
        try:
            with self._writing:
                self._sink.write(dump(message) + b"\n")
                self._sink.flush()
        except (OSError, ValueError):
            self.end()

    def ask(self, number: int, what: str, **args: Any) -> Any:
        """Ask the control plane something and wait for the answer.

        Errors: AgentFailed `ask_failed`.
        """
        answer: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with self._asking:
            self._asked += 1
            mine = self._asked
            self._answers[mine] = answer
            self._asking_for[mine] = number
        self.heed(number)
        self.emit({"id": number, "ask": mine, "what": what, "args": args})
        message = answer.get()
        if "error" in message:
            raise AgentFailed("ask_failed", str(message["error"]))
        return message.get("value")

    def heed(self, number: int) -> None:
        """End a request that was given up.

        Errors: AgentFailed `cancelled`.
        """
        if number in self._given_up:
            raise AgentFailed("cancelled", "The work was given up.")

    def _give_up(self, number: int) -> None:
        self._given_up.add(number)
        with self._asking:
            asked = [mine for mine, about in self._asking_for.items() if about == number]
        for mine in asked:
            self._answer({"answer": mine, "error": "cancelled"})

    def _answer(self, message: Message) -> None:
        with self._asking:
            waiting = self._answers.pop(int(message["answer"]), None)
            self._asking_for.pop(int(message["answer"]), None)
        if waiting is not None:
            waiting.put(message)

    def _sort(self, message: Message) -> None:
        if "answer" in message:
            self._answer(message)
        elif "cancel" in message:
            self._give_up(int(message["cancel"]))
        elif "data" in message:
            self._parts.setdefault(int(message["id"]), []).append(message["data"])
        else:
            self._work.put((message, join_data(self._parts.pop(int(message["id"]), []))))

    def _serve(self) -> None:
        while True:
            message, data = self._work.get()
            number = int(message["id"])
            try:
                result, blob = self._carry_out(number, str(message["op"]), message.get("args", {}), data)
                for part in data_messages(number, blob):
                    self.emit(part)
                self.emit({"id": number, "result": result})
            except BaseException as error:  # noqa: BLE001 - whatever went wrong is told to the control plane
                code, detail = _told(error)
                self.emit({"id": number, "error": {"code": code, "detail": detail}})
            if self._work.empty():
                _get_ready(lambda: not self._work.empty())

    def _carry_out(self, number: int, op: str, args: dict[str, Any], data: bytes) -> Result:
        self.heed(number)
        verb = getattr(_work(), op) if op in _WORK else _VERBS.get(op)
        if verb is None:
            raise AgentFailed("unknown_op", f"This agent does not know how to {op}.")
        return verb(self, number, args, data)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            self.emit({"beat": 1})

    def progress(self, number: int) -> Callable[[Progress], None]:
        """Return what reports progress of a request, a few times a second, and ends it once it was given up."""
        last = 0.0
        phase = ""

        def report(now: Progress) -> None:
            nonlocal last, phase
            self.heed(number)
            if now.phase != phase or time.monotonic() - last >= _PROGRESS_SECONDS or now.bytes_done == now.bytes_total:
                last, phase = time.monotonic(), now.phase
                self.emit({"id": number, "progress": now._asdict()})

        return report

    def workspace(self) -> bytes:
        """Return the workspace's folder.

        Errors: AgentFailed `no_hello` before the greeting.
        """
        if self.root is None:
            raise AgentFailed("no_hello", "The conversation must begin with a greeting.")
        return self.root


def _hello(session: Session, _: int, args: dict[str, Any], __: bytes) -> Result:
    if args.get("protocol") != PROTOCOL:
        raise AgentFailed("wrong_protocol", f"This agent speaks protocol {PROTOCOL}.")
    session.root = os.path.abspath(os.fsencode(args["workspace_root"]))
    os.makedirs(session.root, exist_ok=True)
    recovered = recover(session.root)
    disk = os.statvfs(session.root)
    free = disk.f_bavail * disk.f_frsize
    version = "{}.{}.{}".format(*sys.version_info[:3])
    answer = {"protocol": PROTOCOL, "python": version, "arch": os.uname().machine, "free_bytes": free}
    return {**answer, "recovered": recovered, "pid": os.getpid()}, b""


def _freeze(session: Session, _: int, args: dict[str, Any], __: bytes) -> Result:
    _run_hook(session, args.get("before"), "before_hibernate_failed")
    try:
        return {"processes": session.freezer.freeze()}, b""
    except BaseException:
        session.freezer.thaw()
        raise


def _hold(session: Session, _: int, args: dict[str, Any], __: bytes) -> Result:
    session.freezer.hold(min(float(args["seconds"]), _HOLD_SECONDS))
    return {}, b""


def _thaw(session: Session, _: int, args: dict[str, Any], __: bytes) -> Result:
    count = session.freezer.thaw()
    _run_hook(session, args.get("after"), "after_wake_failed")
    return {"processes": count}, b""


_VERBS: dict[str, Callable[[Session, int, dict[str, Any], bytes], Result]] = {
    "hello": _hello,
    "freeze": _freeze,
    "hold": _hold,
    "thaw": _thaw,
}
_WORK = ("save", "restore", "compare")


def _work() -> ModuleType:
    from dumont.agent import verbs

    return verbs


def _run_hook(session: Session, command: str | None, code: str) -> None:
    if not command:
        return
    import subprocess

    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    try:
        done = subprocess.run(
            [shell, "-c", command],
            cwd=session.workspace(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_HOOK_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise AgentFailed(code, f"The command took longer than {_HOOK_SECONDS:g} seconds.") from error
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-300:]
        raise AgentFailed(code, f"The command ended with status {done.returncode}: {tail}")


def _get_ready(is_asked: Callable[[], bool]) -> None:
    """Load what the next request will need; that it does not load is what that request answers."""
    try:
        _work().get_ready(is_asked)
    except Exception as error:  # noqa: BLE001 - whatever it is, whoever asks for work is told
        sys.stderr.write(f"The agent is not ready to work: {type(error).__name__}: {error}\n")


def _told(error: BaseException) -> tuple[str, str]:
    if isinstance(error, AgentFailed):
        return error.code, error.detail
    vault = sys.modules.get("dumont.vault.errors")  # Loading it may be what failed; what it has was not raised then.
    if vault is not None and isinstance(error, vault.RecordDamaged):
        return "damaged", error.detail
    if isinstance(error, OSError):
        full = error.errno in (28, 122)
        reason = os.strerror(error.errno) if error.errno else str(error)
        return ("no_space" if full else "machine_io"), f"The machine could not do it: {reason}."
    return "agent_bug", f"{type(error).__name__}: {error}"


def main() -> None:
    """Run the agent over standard input and output."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.umask(0o077)
    keep_memory()
    Session(sys.stdin.buffer, sink).run()
