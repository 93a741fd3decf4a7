"""What a seed asks for: who does what with which instance, which faults are drawn, and where processes die."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.script import Death

TEAMS = 3
STRANGERS = (None, "somebody's", "dumont-elsewhere-a1")
"""Labels of machines that are not ours: none, another's, and one of our form that no row knows."""
OURS = "dumont-????????????-a*"
"""Labels that this installation gives; what befalls machines befalls these."""
Rule = dict[str, Any]


@dataclass(frozen=True)
class Act:
    """Something that a person asks of an instance.

    `hasty`: the next act comes while this one is under way. `cancel_at`: the step during which it is cancelled.
    `late`: the operation's deadline comes at once.
    """

    verb: str
    hasty: bool = False
    cancel_at: str | None = None
    late: bool = False

    def __str__(self) -> str:
        marks = (
            [" hasty"] * self.hasty + [" late"] * self.late + [f" cancelled at {self.cancel_at}"] * bool(self.cancel_at)
        )
        return self.verb + "".join(marks)


@dataclass(frozen=True)
class Life:
    """One instance of one team, and what its people do with it, in order."""

    team: int
    acts: tuple[Act, ...]


@dataclass(frozen=True)
class Plan:
    """All that a seed decides; nothing else does. `ends`: at last everything is destroyed."""

    seed: int
    lives: tuple[Life, ...]
    rules: tuple[Rule, ...]
    deaths: tuple[Death, ...]
    strangers: tuple[str | None, ...]
    ends: bool = True

    @property
    def echo_seconds(self) -> float:
        """How long after the end of the faults one that has struck may still take effect."""
        return max([0.0, *(float(rule["params"].get("after_s", 0.0)) for rule in self.rules)])

    def __str__(self) -> str:
        lives = "; ".join(f"team {life.team}: {', '.join(map(str, life.acts))}" for life in self.lives)
        rules = ", ".join(f"{rule['fault']} {rule.get('params', {})} {rule.get('when', {})}" for rule in self.rules)
        return f"seed {self.seed}: {lives} | {rules} | {', '.join(map(str, self.deaths))}"


_FOLLOWS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "running": (
        ("pause", "paused", 4),
        ("hibernate", "asleep", 3),
        ("hibernate and destroy", "saved", 3),
        ("reboot", "running", 1),
        ("destroy", "gone", 3),
    ),
    "paused": (("resume", "running", 5), ("destroy", "gone", 1)),
    "asleep": (("wake", "running", 4), ("wake elsewhere", "running", 3), ("destroy", "gone", 1)),
    "saved": (("wake", "running", 5), ("destroy", "gone", 1)),
    "gone": (),
}
"""State that an act should lead to, and how often it is chosen."""
_STEPS = {
    "launch": ("rent", "boot"),
    "pause": ("stop",),
    "resume": ("start", "boot"),
    "reboot": ("reboot", "boot"),
    "hibernate": ("snapshot", "verify", "stop"),
    "hibernate and destroy": ("snapshot", "verify", "commit", "stop", "give back"),
    "wake": ("start kept machine", "boot kept machine", "compare kept disk"),
    "wake elsewhere": ("rent", "boot", "restore", "give back kept machine"),
    "destroy": ("wait", "destroy", "finish"),
}
_ORDERS = ("create", "destroy", "start", "stop")


def plan_of(seed: int, *, full: bool = True) -> Plan:
    """Return the plan of a seed: the full one, or a short one of few acts and few faults."""
    chance = Random(f"dumont {seed} {full}")
    lives = tuple(_life(chance, full=full) for _ in range(chance.choice(_LIVES[full])))
    rules = tuple(make(chance) for make in chance.sample(_MENU, chance.randint(*((4, 8) if full else (2, 4)))))
    strangers = tuple(chance.sample(STRANGERS, 1))
    return Plan(seed, lives, rules, tuple(_deaths(chance, lives, full=full)), strangers, full or seed % 3 == 0)


_LIVES = {True: (2, 3, 3), False: (1, 1, 2)}
_LENGTHS = {True: (1, 2, 2, 3), False: (0, 1, 1, 2)}
_DEAR = ("hibernate", "hibernate and destroy")
"""An agent is started for these, which costs a second of CPU; short plans have fewer."""


def _life(chance: Random, *, full: bool) -> Life:
    acts, state = [_act(chance, "launch")], "running"
    for _ in range(chance.choice(_LENGTHS[full])):
        choices = _FOLLOWS[state]
        if not choices:
            break
        weights = [weight if full or verb not in _DEAR else weight / 3 for verb, _, weight in choices]
        verb, state, _ = chance.choices(choices, weights)[0]
        acts.append(_act(chance, verb))
    if chance.random() < 0.12:
        acts[-1:] = [Act(acts[-1].verb, hasty=True), Act("destroy")]
    return Life(chance.randrange(TEAMS), tuple(acts))


def _act(chance: Random, verb: str) -> Act:
    draw = chance.random()
    if verb == "destroy" or draw > 0.12:
        return Act(verb)
    return Act(verb, late=True) if draw < 0.03 else Act(verb, cancel_at=chance.choice(_STEPS[verb]))


def _deaths(chance: Random, lives: tuple[Life, ...], *, full: bool) -> list[Death]:
    """Choose boundaries that the plan will come to: steps of its acts, and orders."""
    verbs = [act.verb for life in lives for act in life.acts]
    found = []
    for _ in range(chance.choice((0, 1, 1, 2) if full else (0, 1))):
        when = chance.choice(("before", "after"))
        if chance.random() < 0.6:
            found.append(Death("worker", "step", chance.choice(_STEPS[chance.choice(verbs)]), when, 1))
        else:
            kind = chance.choice(("create", "create", "change", "destroy", "keys"))
            found.append(Death("worker", "call", kind, when, chance.randint(1, 3)))
    if chance.random() < (0.3 if full else 0.15):
        when = chance.choice(("before", "after", "after"))
        found.append(Death("sandbox", "order", chance.choice(_ORDERS), when, chance.randint(1, 2)))
    return found


def _rule(fault: str, chance: float, most: int, **params: Any) -> Rule:
    ops = params.pop("op", None)
    match = {"op": list(ops)} if ops else {"label": OURS} if fault in _OF_MACHINES else {}
    return {"fault": fault, "params": params, "match": match, "when": {"p": chance, "max": most}}


def _some(chance: Random, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(chance.sample(names, chance.randint(1, len(names))))


_OF_MACHINES = frozenset(
    {"host_offline", "exits", "outside_change", "destroy_lost", "zombie", "ssh_refused", "addr_change"}
)
_CUTS = ("before_reply", "half_reply", "reset")
_EMPTY = ("empty_array", "empty_body", "null", "html")
_DIRT = ("NaN", "dup_keys", "trailing_space", "string_numbers", "extra_fields", "unknown_status", "null_numbers")
_READS = ("list", "show")
_MENU: tuple[Callable[[Random], Rule], ...] = (
    lambda c: _rule("accept_then_drop", 0.5, 4, op=_some(c, _ORDERS), cut=c.choice(_CUTS)),
    lambda c: _rule("accept_then_drop", 0.7, 2, op=("create",), cut=c.choice(_CUTS)),
    lambda c: _rule("error_after", 0.4, 4, op=_some(c, _ORDERS), status=c.choice((500, 502, 503))),
    lambda c: _rule("http_error", 0.2, 8, status=c.choice((500, 502, 503, 504))),
    lambda c: _rule("drop_before", 0.2, 6),
    lambda c: _rule("success_false_200", 0.15, 5),
    lambda c: _rule("rate_limit", 0.15, 6, form="retry_after", retry_after_s=1),
    lambda c: _rule("empty_list_200", 0.4, 10, form=c.choice(_EMPTY)),
    lambda c: _rule("page_drop", 0.3, 8),
    lambda c: _rule("dirty_json", 0.2, 8, op=_READS, what=c.choice(_DIRT), rows=c.choice(("first", "all"))),
    lambda c: _rule("latency", 0.3, 12, ms=c.choice((50, 150, 400))),
    lambda c: _rule("auth_fail", 0.05, 1, form=c.choice(("401", "403")), for_s=0.4),
    lambda c: _rule("read_lag", 0.5, 3, s=c.choice((0.2, 0.5))),
    lambda c: _rule("sold_between", 0.5, 2, form=c.choice(("404", "400", "410"))),
    lambda c: _rule("double_sold", 0.5, 1, after_s=0.3, shown=c.choice(("created", "exited"))),
    lambda c: _rule("stuck_loading", 0.3, 1),
    lambda c: _rule("slow_pull", 0.5, 2, s=0.6),
    lambda c: _rule("oci_fail", 0.4, 1),
    lambda c: _rule("status_null", 0.5, 2, for_s=0.4),
    lambda c: _rule("create_start_race", 0.4, 1),
    lambda c: _rule(
        "start_queue", 0.6, 2, emit_scheduling=c.random() < 0.5, **({"for_s": 0.8} if c.random() < 0.6 else {})
    ),
    lambda c: _rule(
        "host_offline",
        0.5,
        1,
        moment=c.choice(("running", "ssh_login", "ssh_exec")),
        after_s=c.choice((0.0, 0.3, 1.0)),
        for_s=c.choice((0.4, 1.5)),
        ssh=c.random() < 0.3,
    ),
    lambda c: _rule("ssh_refused", 0.5, 2, for_s=c.choice((0.3, 1.0))),
    lambda c: _rule("ssh_auth_refused", 0.5, 2, for_s=0.4),
    lambda c: _rule("ssh_drop", 0.3, 3, after_bytes=c.choice((2000, 20_000, 200_000))),
    lambda c: _rule("status_lag", 0.7, 2, s=0.5),
    lambda c: _rule("destroy_lost", 0.5, 3),
    lambda c: _rule("destroy_linger", 0.5, 2, s=0.6, shown=c.choice(("running", "stopped"))),
    lambda c: _rule("zombie", 0.6, 2, after_s=c.choice((0.2, 0.8))),
    lambda c: _rule("exits", 0.4, 1, after_s=c.choice((0.1, 0.8))),
    lambda c: _rule("outside_change", 0.4, 1, action="stop", after_s=c.choice((0.1, 0.8))),
    lambda c: _rule("addr_change", 0.6, 2, on="restart"),
)
