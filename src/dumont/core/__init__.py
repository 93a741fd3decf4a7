"""Ids, money, clock, problems and settings: words that every room shares. No I/O except reading the settings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dumont.core.amounts import plain_amount, read_amount, show_amount, to_units
    from dumont.core.clock import Clock
    from dumont.core.ids import derived_id, is_id, new_id
    from dumont.core.money import NANO, money_document, nanousd
    from dumont.core.problems import Act, Problem
    from dumont.core.secrets import derive_key, derive_password
    from dumont.core.settings import Settings, SettingsError, load_settings
    from dumont.core.texts import storable, storable_json

__all__ = [
    "NANO",
    "Act",
    "Clock",
    "Problem",
    "Settings",
    "SettingsError",
    "derive_key",
    "derive_password",
    "derived_id",
    "is_id",
    "load_settings",
    "money_document",
    "nanousd",
    "new_id",
    "plain_amount",
    "read_amount",
    "show_amount",
    "storable",
    "storable_json",
    "to_units",
]

_PLACES = {
    **dict.fromkeys(("plain_amount", "read_amount", "show_amount", "to_units"), "amounts"),
    "Clock": "clock",
    **dict.fromkeys(("derived_id", "is_id", "new_id"), "ids"),
    **dict.fromkeys(("NANO", "money_document", "nanousd"), "money"),
    **dict.fromkeys(("Act", "Problem"), "problems"),
    **dict.fromkeys(("derive_key", "derive_password"), "secrets"),
    **dict.fromkeys(("Settings", "SettingsError", "load_settings"), "settings"),
    **dict.fromkeys(("storable", "storable_json"), "texts"),
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: an agent needs none but keys, and each start of one pays for all that is loaded."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"dumont.core.{_PLACES[name]}"), name)
    return found
