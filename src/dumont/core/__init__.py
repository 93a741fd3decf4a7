"""Ids, money, clock, problems and settings: words that every room shares. No I/O except reading the settings."""

from dumont.core.clock import Clock
from dumont.core.ids import is_id, new_id
from dumont.core.money import NANO, money_document, nanousd
from dumont.core.problems import Act, Problem
from dumont.core.secrets import derive_key, derive_password
from dumont.core.settings import Settings, SettingsError, load_settings

__all__ = [
    "NANO",
    "Act",
    "Clock",
    "Problem",
    "Settings",
    "SettingsError",
    "derive_key",
    "derive_password",
    "is_id",
    "load_settings",
    "money_document",
    "nanousd",
    "new_id",
]
