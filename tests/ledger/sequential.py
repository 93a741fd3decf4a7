"""The ledger as one would write it for one reader at a time: the model that the real one is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_AMOUNT = 10**15
MOST = 10**18
Body = tuple[tuple[tuple[int, int], ...], str | None, str | None]


@dataclass(frozen=True)
class Wish:
    """A posting without ids: legs name accounts by number, `reverses` a key, `settles` a hold."""

    key: str
    legs: tuple[tuple[int, int], ...]
    reverses: str | None = None
    settles: str | None = None

    @property
    def body(self) -> Body:
        """What tells it from another wish under its key."""
        return tuple(sorted(self.legs)), self.reverses, self.settles


@dataclass
class Account:
    """An account: what is on it, what is held, how low it may go, and its entries as (amount, balance after)."""

    currency: str
    floor: int | None
    balance: int = 0
    held: int = 0
    closed: bool = False
    foreign: bool = False
    chain: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Hold:
    """An amount kept aside."""

    account: int
    amount: int
    status: str
    expires: int | None


@dataclass
class Model:
    """Accounts by number, decided wishes by key, holds by name."""

    accounts: list[Account] = field(default_factory=list)
    decided: dict[str, tuple[Wish, bool]] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)

    def post(self, wish: Wish) -> str:
        """Decide a wish and say what became of it."""
        if wish.key in self.decided:
            before, stands = self.decided[wish.key]
            if before.body != wish.body:
                return "idempotency-key-reused"
            return "replay" if stands else "balance-too-low again"
        said = self._is_sound(wish) or self._is_bound(wish) or self._fits(wish)
        if said in ("posted", "balance-too-low"):
            self.decided[wish.key] = wish, said == "posted"
        if said == "posted":
            self._write(wish)
        return said

    def _is_sound(self, wish: Wish) -> str | None:
        accounts = [self.accounts[number] for number, _ in wish.legs]
        if any(not 0 < abs(amount) <= MOST_AMOUNT for _, amount in wish.legs):
            return "bad-amount"
        if sum(amount for _, amount in wish.legs):
            return "unbalanced"
        if any(account.foreign for account in accounts):
            return "account-not-found"
        if len({account.currency for account in accounts}) > 1:
            return "currency-mismatch"
        return "account-closed" if any(account.closed for account in accounts) else None

    def _is_bound(self, wish: Wish) -> str | None:
        if wish.reverses is not None:
            target, stands = self.decided.get(wish.reverses, (wish, False))
            if not stands:
                return "transfer-not-found"
            if any(done and other.reverses == wish.reverses for other, done in self.decided.values()):
                return "already-reversed"
            if sorted(wish.legs) != sorted((number, -amount) for number, amount in target.legs):
                return "reversal-differs"
        return None if wish.settles is None else self._settles(wish, wish.settles)

    def _settles(self, wish: Wish, name: str) -> str | None:
        hold = self.holds.get(name)
        if hold is None or hold.status == "refused":
            return "hold-not-found"
        if hold.status != "open":
            return "hold-ended"
        taken = [-amount for number, amount in wish.legs if number == hold.account]
        return None if taken and 1 <= taken[0] <= hold.amount else "hold-exceeded"

    def _fits(self, wish: Wish) -> str:
        hold = self.holds.get(wish.settles or "")
        for number, amount in wish.legs:
            account = self.accounts[number]
            freed = hold.amount if hold is not None and hold.account == number else 0
            after = account.balance + amount
            if abs(after) > MOST:
                return "balance-out-of-range"
            if amount < 0 and account.floor is not None and after - account.held + freed < account.floor:
                return "balance-too-low"
        return "posted"

    def _write(self, wish: Wish) -> None:
        for number, amount in wish.legs:
            account = self.accounts[number]
            account.balance += amount
            account.chain.append((amount, account.balance))
        if wish.settles is not None:
            self._end(wish.settles, "settled")

    def hold(self, name: str, hold: Hold) -> str:
        """Open a hold; only fresh names are asked for."""
        account = self.accounts[hold.account]
        if account.foreign or account.closed:
            return "account-not-found" if account.foreign else "account-closed"
        fits = account.floor is None or account.balance - account.held - hold.amount >= account.floor
        self.holds[name] = hold
        hold.status = "open" if fits else "refused"
        account.held += hold.amount if fits else 0
        return "posted" if fits else "balance-too-low"

    def void(self, name: str) -> str:
        """End a hold."""
        hold = self.holds.get(name)
        if hold is None or hold.status == "refused":
            return "hold-not-found"
        if hold.status != "open":
            return "replay" if hold.status == "voided" else "hold-ended"
        self._end(name, "voided")
        return "voided"

    def expire(self, now: int) -> int:
        """End the holds whose time is over."""
        over = [
            name
            for name, hold in self.holds.items()
            if hold.status == "open" and hold.expires is not None and hold.expires <= now
        ]
        for name in over:
            self._end(name, "expired")
        return len(over)

    def _end(self, name: str, status: str) -> None:
        hold = self.holds[name]
        hold.status = status
        self.accounts[hold.account].held -= hold.amount

    def close(self, number: int) -> str:
        """Close an account."""
        account = self.accounts[number]
        if account.foreign:
            return "account-not-found"
        if account.closed:
            return "replay"
        if account.balance or account.held:
            return "account-not-empty"
        account.closed = True
        return "closed"

    def change_floor(self, number: int, floor: int) -> str:
        """Change how low an account may go."""
        account = self.accounts[number]
        if account.foreign or account.closed:
            return "account-not-found" if account.foreign else "account-closed"
        if account.balance - account.held < floor:
            return "insufficient"
        account.floor = floor
        return "changed"

    def heads(self) -> Sequence[tuple[int, int, int]]:
        """Return each account's balance, held amount and number of entries."""
        return [(account.balance, account.held, len(account.chain)) for account in self.accounts]
