"""Faults by rule: which event meets which fault is drawn from a seed, so that a run can be had again.

A decision depends on (seed, rule, fault, entity, how often the entity met the rule) and not on a shared stream of
chance: two runs agree also where their threads take turns differently. Every decision is written to the journal.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from dumont.sandbox.journal import Journal, Line
from dumont.sandbox.wishes import checked_rule


@dataclass(frozen=True)
class Event:
    """Something that may meet a fault. `entity` is what the draw is made for; the rest is what `match` looks at."""

    entity: str
    op: str = ""
    method: str = ""
    path: str = ""
    key: str = ""
    machine: str = ""
    label: str = ""
    instance: str = ""


@dataclass
class Rule:
    """A wish for trouble: which events, when, how often, and with which parameters."""

    index: int
    fault: str
    params: dict[str, Any]
    match: dict[str, list[str]]
    when: dict[str, Any]
    since_s: float
    met: int = 0
    used: int = 0
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """Whether it will never be taken again."""
        nth, most = self.when.get("nth", []), self.when.get("max")
        return (most is not None and self.used >= most) or (bool(nth) and self.met >= max(nth))

    def fits(self, event: Event, now_s: float) -> bool:
        """Tell whether the event is one of those that the rule is about."""
        since = now_s - self.since_s
        if since < self.when.get("from_s", 0) or since >= self.when.get("to_s", float("inf")):
            return False
        return all(
            any(fnmatchcase(str(getattr(event, name)), pattern) for pattern in patterns)
            for name, patterns in self.match.items()
        )

    def document(self) -> dict[str, Any]:
        """Return what `/_sandbox/faults` shows."""
        shown = {"i": self.index, "fault": self.fault, "params": self.params, "match": self.match, "when": self.when}
        return {**shown, "met": self.met, "used": self.used}


class Faults:
    """The rules that are open."""

    def __init__(self, journal: Journal, now_s: Callable[[], float], seed: int = 0) -> None:
        self._journal = journal
        self._now_s = now_s
        self._rules: list[Rule] = []
        self._next = 0
        self._said: dict[tuple[int, str, int], bool] = {}
        self.seed = seed

    def add(self, document: dict[str, Any]) -> Rule:
        """Read and keep a rule; its times count from now.

        Errors: BadFault for an unknown name, key or value; the message says what is known.
        """
        fault, params, match, when = checked_rule(document)
        rule = Rule(self._next, fault, params, match, when, self._now_s())
        self._next += 1
        self._rules.append(rule)
        return rule

    def take(self, fault: str, event: Event) -> dict[str, Any] | None:
        """Return the parameters of the first rule that strikes this event, None where none does."""
        for rule in self._rules:
            if rule.fault == fault and rule.fits(event, self._now_s()) and self._strikes(rule, event):
                return rule.params
        return None

    def wanted(self, fault: str) -> bool:
        """Tell whether any open rule is about this fault."""
        return any(rule.fault == fault for rule in self._rules)

    def documents(self) -> list[dict[str, Any]]:
        """Return the open rules."""
        return [rule.document() for rule in self._rules]

    def remove(self, index: int | None = None) -> int:
        """Drop one rule, or all; return how many went."""
        before = len(self._rules)
        self._rules = [] if index is None else [rule for rule in self._rules if rule.index != index]
        return before - len(self._rules)

    def begin_again(self, seed: int) -> None:
        """Forget every rule and every decision."""
        self._rules, self._next, self._said, self.seed = [], 0, {}, seed

    def follow(self, lines: list[Line]) -> None:
        """From now on decide as this log did, wherever it says something about (rule, entity, count)."""
        self._said = {
            (line["rule"], line["entity"], line["count"]): line["decision"] == "taken"
            for line in lines
            if line["kind"] == "decision"
        }

    def _strikes(self, rule: Rule, event: Event) -> bool:
        rule.met += 1
        count = rule.counters.get(event.entity, 0) + 1
        rule.counters[event.entity] = count
        said = self._said.get((rule.index, event.entity, count))
        taken = self._decide(rule, event.entity, count) if said is None else said
        rule.used += taken
        facts = {"rule": rule.index, "fault": rule.fault, "count": count, "op": event.op}
        self._journal.write("decision", event.entity, **facts, decision="taken" if taken else "passed")
        if rule.spent:
            self._rules.remove(rule)
        return taken

    def _decide(self, rule: Rule, entity: str, count: int) -> bool:
        nth, chance = rule.when.get("nth"), rule.when.get("p")
        if nth and rule.met not in nth:
            return False
        return chance is None or draw(self.seed, rule.index, rule.fault, entity, count) < chance


def draw(seed: int, index: int, fault: str, entity: str, count: int) -> float:
    """Return a number in [0, 1) that belongs to these five."""
    text = f"{seed}|{index}|{fault}|{entity}|{count}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
