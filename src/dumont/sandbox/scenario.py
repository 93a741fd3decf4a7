"""Scenario files: one JSON object that says how a sandbox is to behave, from its seed to its faults."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dumont.core import Clock
from dumont.sandbox.settings import SandboxRefused, SandboxSettings
from dumont.sandbox.wishes import BadFault, checked_rule

_OFFERS = {"tiny": 0, "default": 300}
_KINDS: dict[str, tuple[type, ...]] = {
    "seed": (int,),
    "clock": (dict,),
    "catalogue": (str,),
    "market": (str,),
    "enforce": (bool,),
    "credit": (int, float, str),
    "faults": (list,),
    "traces": (list,),
}


def with_scenario(settings: SandboxSettings, path: Path) -> SandboxSettings:
    """Return the settings as a scenario file changes them.

    Errors: SandboxRefused naming what cannot be used, and what could.
    """
    document = _read(path)
    for name, value in document.items():
        if name not in _KINDS or not isinstance(value, _KINDS[name]):
            raise SandboxRefused(f"{path}: {name} cannot be used; a scenario has {', '.join(_KINDS)}.")
    if document.get("catalogue", "default") not in _OFFERS:
        raise SandboxRefused(f"{path}: catalogue must be one of {', '.join(_OFFERS)}.")
    faults = tuple(document.get("faults", ()))
    for at, rule in enumerate(faults):
        try:
            checked_rule(rule)
        except BadFault as error:
            raise SandboxRefused(f"{path}: rule {at} cannot be used. {error}") from error
    chosen: dict[str, Any] = {"faults": faults, "traces": (*settings.traces, *document.get("traces", ()))}
    for name, field in (("seed", "seed"), ("market", "market"), ("enforce", "rate_limits")):
        if name in document:
            chosen[field] = document[name]
    if "catalogue" in document:
        chosen["offers"] = _OFFERS[document["catalogue"]]
    if "credit" in document:
        chosen["credit_usd"] = str(document["credit"])
    return replace(settings, clock=_clock(settings.clock, document.get("clock", {}), path), **chosen)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SandboxRefused(f"{path} cannot be read as a scenario: {error}.") from error
    if not isinstance(document, dict):
        raise SandboxRefused(f"{path} must hold one JSON object, the scenario.")
    return document


def _clock(clock: Clock, wish: dict[str, Any], path: Path) -> Clock:
    speed = wish.get("speed", clock.speed)
    good = isinstance(speed, (int, float)) and not isinstance(speed, bool) and speed > 0
    if not good or set(wish) - {"speed"}:
        raise SandboxRefused(f"{path}: clock has one key, speed, a number above zero.")
    # A clock that is not at real speed needs a beginning of its own, or it would be far away at once.
    return Clock(clock.epoch or time.time(), float(speed)) if speed != clock.speed else clock
