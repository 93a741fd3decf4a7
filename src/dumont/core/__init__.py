"""Ids, money, clock, problems and settings: words that every room shares. No I/O except reading the settings."""

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
