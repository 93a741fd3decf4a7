"""Server-sent events, read from an open answer.

Source: the event stream format, https://html.spec.whatwg.org/multipage/server-sent-events.html section 9.2.6
"""

import json
from collections.abc import Iterator
from typing import Protocol

from dumont.client.model import Event


class _Lines(Protocol):
    def readline(self) -> bytes: ...


def read_events(source: _Lines) -> Iterator[Event]:
    """Yield each complete event; one cut off by the end of the stream is dropped, as the format asks.

    Events whose data is no JSON object are passed over: later versions may send others.
    """
    name, event_id = "message", None
    data: list[str] = []
    while line := source.readline():
        text = line.decode(errors="replace").rstrip("\r\n")
        if not text:
            document = _object("\n".join(data))
            if document is not None:
                yield Event(name, document, event_id)
            name, data = "message", []
            continue
        label, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if label == "event":
            name = value
        elif label == "data":
            data.append(value)
        elif label == "id" and "\0" not in value:
            event_id = value


def _object(text: str) -> dict[str, object] | None:
    try:
        document = json.loads(text) if text else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
