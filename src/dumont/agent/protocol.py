"""The messages between the control plane and the agent: JSON lines, one object each.

Down: `{"id", "op", "args"}` asks for an operation, `{"cancel": id}` gives one up, `{"answer", "value"}` or
`{"answer", "error"}` answers the agent.
Up: `{"id", "progress"}`, `{"id", "ask", "what", "args"}`, `{"beat"}`, and last `{"id", "result"}` or `{"id", "error"}`.
Both ways: `{"id", "data"}` lines carry bytes that belong to the request or result that follows.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from dumont.agent.errors import AgentFailed

PROTOCOL = 1
BEAT_SECONDS = 10.0
_PART_BYTES = 512 << 10
_MAX_DATA_BYTES = 2 << 30

Message = dict[str, Any]


class Progress(NamedTuple):
    """How far an operation is. Units: bytes; `bytes_total` is None while it is unknown.

    `bytes_new` of those done had to be stored or fetched, and take `bytes_stored` in the store.
    """

    phase: str
    bytes_done: int
    bytes_total: int | None
    files_done: int
    bytes_new: int = 0
    bytes_stored: int = 0


def dump(message: Message) -> bytes:
    """Return a message as one line, without its newline."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def load(line: bytes) -> Message:
    """Read one line.

    Errors: AgentFailed `bad_message` for anything but a JSON object.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise AgentFailed("bad_message", "A line of the agent's protocol is not JSON.") from error
    if not isinstance(message, dict):
        raise AgentFailed("bad_message", "A line of the agent's protocol is not an object.")
    return message


def data_messages(number: int, data: bytes) -> Iterator[Message]:
    """Yield the lines that carry `data` ahead of the request or result with that number."""
    if not data:
        return
    import zstandard

    packed = zstandard.ZstdCompressor(level=1).compress(data)
    for start in range(0, len(packed), _PART_BYTES):
        yield {"id": number, "data": base64.b64encode(packed[start : start + _PART_BYTES]).decode("ascii")}


def join_data(parts: list[str]) -> bytes:
    """Return the bytes that a request's or result's data lines carried.

    Errors: AgentFailed `bad_message`.
    """
    if not parts:
        return b""
    import zstandard

    try:
        packed = b"".join(base64.b64decode(part, validate=True) for part in parts)
        if zstandard.frame_content_size(packed) > _MAX_DATA_BYTES:
            raise AgentFailed("bad_message", "A message carries more data than is allowed.")
        return zstandard.ZstdDecompressor().decompress(packed)
    except (ValueError, zstandard.ZstdError) as error:
        raise AgentFailed("bad_message", "The data of a message does not decode.") from error
