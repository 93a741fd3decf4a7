"""Rate limits: how often somebody may ask, counted in this process or, for several of them, in one Redis.

Windows begin with the first request in them, so a limit may be met twice around the end of one; nothing is slid.
"""

import hashlib
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import structlog
from fastapi import Depends, Request

from dumont.core import Settings, SettingsError
from dumont.http import problems

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage
    from redis.asyncio import ConnectionPool

T = TypeVar("T")
_log = structlog.get_logger("dumont.http")
_KEPT = 50_000
_AWAY_SECONDS = 5.0
_ANSWER_SECONDS = 0.5
_SCHEMES = ("redis://", "rediss://")


@dataclass(frozen=True)
class Rule:
    """At most `amount` in `seconds`; 0 is no limit. `problem` is what the one too many gets."""

    name: str
    amount: int
    seconds: int
    problem: type[problems.RateLimited] = problems.RateLimited


@dataclass(frozen=True)
class Count:
    """How far somebody is into his window: `used` of the rule's amount, and the Unix time of its end."""

    rule: Rule
    used: int
    ends: float

    @property
    def reset_seconds(self) -> int:
        """Whole seconds to the end of the window, at least one."""
        return max(1, math.ceil(self.ends - time.time()))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the RateLimit headers of the answer (api.md 1.10)."""
        numbers = {
            b"ratelimit-limit": self.rule.amount,
            b"ratelimit-remaining": max(0, self.rule.amount - self.used),
            b"ratelimit-reset": self.reset_seconds,
        }
        return [(name, str(number).encode()) for name, number in numbers.items()]


@dataclass(frozen=True)
class Rules:
    """The limits of api.md 1.10, as the operator set them."""

    open_requests: Rule
    token_requests: Rule
    registrations: Rule
    sign_ins: Rule
    sign_ins_of_address: Rule

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Read the rules from the settings."""
        window = max(1, round(settings.limit_sign_in_minutes * 60))
        return cls(
            open_requests=Rule("open", settings.limit_open_requests_minute, 60),
            token_requests=_token_rule(settings.limit_token_requests_minute, settings.limit_token_requests_at_once),
            registrations=Rule("register", settings.limit_registrations_hour, 3600),
            sign_ins=Rule("sign-in", settings.limit_sign_in_failures, window, problems.LoginRateLimited),
            sign_ins_of_address=Rule(
                "sign-in-address", settings.limit_sign_in_failures_address, window, problems.LoginRateLimited
            ),
        )


def _token_rule(minute: int, at_once: int) -> Rule:
    """Return one rule for both limits: the rate of a minute, in windows so short that one holds what may come at once.

    With 600 a minute and 100 at once that is 100 in 10 seconds.
    """
    if not 0 < at_once < minute:
        return Rule("token", minute, 60)
    seconds = math.ceil(at_once * 60 / minute)
    return Rule("token", minute * seconds // 60, seconds)


class Counters(Protocol):
    """Where counts are kept; the four verbs of a storage of `limits` that are used here."""

    async def incr(self, key: str, expiry: int) -> int:
        """Add one to a count, which begins at zero and ends `expiry` seconds after its first; return it."""
        ...

    async def get(self, key: str) -> int:
        """Return a count, which is zero for one that is not there."""
        ...

    async def get_expiry(self, key: str) -> float:
        """Return the Unix time at which a count ends."""
        ...

    async def clear(self, key: str) -> None:
        """Forget a count."""
        ...


class OwnCounters:
    """Counts of this process.

    The in-memory storage of `limits` is not used: each of its hits looks at every key there is, and importing it costs
    a third of a second. Guarantees: constant work; at most 50,000 counts, the oldest make room.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}

    async def incr(self, key: str, expiry: int) -> int:
        """Add one to a count."""
        now = time.time()
        used, ends = self._counts.get(key, (0, 0.0))
        if ends <= now:
            self._counts.pop(key, None)
            used, ends = 0, now + expiry
            self._make_room(now)
        self._counts[key] = (used + 1, ends)
        return used + 1

    async def get(self, key: str) -> int:
        """Return a count whose time is not over."""
        used, ends = self._counts.get(key, (0, 0.0))
        return used if ends > time.time() else 0

    async def get_expiry(self, key: str) -> float:
        """Return the end of a count, which is now for one that is not there."""
        return self._counts.get(key, (0, time.time()))[1]

    async def clear(self, key: str) -> None:
        """Forget a count."""
        self._counts.pop(key, None)

    def _make_room(self, now: float) -> None:
        """Drop the two oldest that are over, so that what is dropped outruns what is added."""
        for _ in range(2):
            oldest = next(iter(self._counts), None)
            if oldest is not None and (self._counts[oldest][1] <= now or len(self._counts) >= _KEPT):
                del self._counts[oldest]


class Limits:
    """The rules with their counts.

    Guarantees: while the shared store does not answer, each process counts for itself, with a warning: nobody is
    locked out by an outage and nobody may guess passwords without end. The store is asked again every 5 seconds.
    """

    def __init__(self, settings: Settings) -> None:
        self.rules = Rules.of(settings)
        self._own: dict[str, OwnCounters] = {}
        self._pool = _connections(settings.limits_url) if settings.limits_url else None
        self._redis = _shared_store(settings.limits_url, self._pool) if settings.limits_url and self._pool else None
        self._ask_again_at = 0.0
        self._over: dict[str, Count] = {}

    async def count(self, rule: Rule, *who: str) -> Count | None:
        """Count one and return how far `who` is; None where the rule is off. Does not refuse."""
        if rule.amount == 0:
            return None
        key = _key(rule, who)

        async def add(counters: Counters) -> Count:
            used = await counters.incr(key, rule.seconds)
            return Count(rule, used, await counters.get_expiry(key))

        found = await self._with(rule, add)
        if found.used > rule.amount:
            self._remember_over(key, found)
        return found

    async def look(self, rule: Rule, *who: str) -> Count | None:
        """Return how far `who` is without counting; None where the rule is off."""
        if rule.amount == 0:
            return None
        key = _key(rule, who)

        async def read(counters: Counters) -> Count:
            return Count(rule, await counters.get(key), await counters.get_expiry(key))

        return await self._with(rule, read)

    def seen_over(self, rule: Rule, *who: str) -> Count | None:
        """Return the count that this process saw pass its rule and that has not ended; asks no store."""
        key = _key(rule, who)
        found = self._over.get(key)
        if found is not None and found.ends <= time.time():
            del self._over[key]
            return None
        return found

    async def forget(self, rule: Rule, *who: str) -> None:
        """Begin anew for `who`."""
        if rule.amount:
            await self._with(rule, lambda counters: counters.clear(_key(rule, who)))

    async def close(self) -> None:
        """Close the connections to the shared store."""
        if self._pool is not None:
            await self._pool.aclose()

    def _remember_over(self, key: str, found: Count) -> None:
        while len(self._over) >= _KEPT:
            del self._over[next(iter(self._over))]
        self._over[key] = found

    async def _with(self, rule: Rule, work: Callable[[Any], Awaitable[T]]) -> T:
        if self._redis is not None and time.monotonic() >= self._ask_again_at:
            from limits.errors import StorageError

            try:
                return await work(self._redis)
            except (StorageError, OSError) as error:
                self._ask_again_at = time.monotonic() + _AWAY_SECONDS
                _log.warning("the store of the rate limits is away; this process counts alone", error=str(error))
        return await work(self._own.setdefault(rule.name, OwnCounters()))


async def spend(request: Request, rule: Rule, *who: str, shown: bool = False) -> None:
    """Count one request, and refuse it where that is one too many.

    `shown` puts the state of this rule on the answer; a refusal always does.
    Errors: the rule's problem, with Retry-After.
    """
    limits: Limits = request.app.state.limits
    found = await limits.count(rule, *who)
    if found is None:
        return
    if shown:
        request.state.rate_limit = found
    if found.used > rule.amount:
        raise refusal(request, found)


def refusal(request: Request, found: Count) -> problems.RateLimited:
    """Return the problem of a rule that was met, and put the rule's state on the answer."""
    request.state.rate_limit = found
    wait = found.reset_seconds
    return found.rule.problem(f"{found.rule.problem.title}. Try again in {wait} seconds.", retry_after=wait)


def address_of(request: Request) -> str:
    """Return what a caller's address counts as: of IPv6 the /64, which is what one subscriber has."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host or "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


async def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


LimitsDep = Annotated[Limits, Depends(_limits)]
"""The limits, as an argument of a route."""


def _key(rule: Rule, who: tuple[str, ...]) -> str:
    """Name a count without saying who it is: neither tokens nor addresses stand in the store."""
    digest = hashlib.sha256("\n".join(who).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"dumont/{rule.name}/{rule.amount}/{rule.seconds}/{digest}"


def _connections(url: str) -> "ConnectionPool":
    """Make the pool of connections to the shared store; none is opened before the first count.

    Errors: SettingsError for an address that is none.
    """
    from redis.asyncio import ConnectionPool

    if not url.startswith(_SCHEMES):
        raise SettingsError("DUMONT_LIMITS_URL must begin with redis:// or rediss://.")
    try:
        return ConnectionPool.from_url(
            url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS, max_connections=64
        )
    except ValueError as error:
        raise SettingsError(f"DUMONT_LIMITS_URL cannot be used: {error}.") from error


def _shared_store(url: str, pool: "ConnectionPool") -> "RedisStorage":
    from limits.aio.storage import RedisStorage

    return RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        connection_pool=pool,  # type: ignore[arg-type]
    )
