"""Text of others, such as a machine says it, made fit to be stored and shown."""

from typing import Any


def storable(text: str) -> str:
    """Return a text without what no database takes: NUL and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def storable_json(value: Any) -> Any:
    """Return a JSON value whose texts, keys among them, can all be stored."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key) if isinstance(key, str) else key: storable_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable_json(member) for member in value]
    return value
