"""What is posted to the ledger and what comes of it: postings, outcomes, accounts, holds, and the problems."""

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property, lru_cache
from typing import Any

from dumont.core import Act, Problem
from dumont.http import problems

SCALES: dict[str, int] = {"BRL": 2, "USD": 6}
"""Decimal digits of a currency's unit in the ledger: cents of a real; millionths of a dollar, for GPUs per second."""

MOST_AMOUNT = 10**15
MOST_LEGS = 100
MOST_MEMO = 500
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_FIRST_DATE, _LAST_DATE = date(1900, 1, 1), date(2199, 12, 31)


@dataclass(frozen=True, slots=True)
class Leg:
    """What a posting does to one account. Units: whole units of the account's currency; positive adds."""

    account_id: str
    amount: int


@dataclass(frozen=True)
class Posting:
    """A transfer that somebody asks for: signed legs that sum to zero.

    `team_id` must be the team of every account. `scope` and `key` name the request: asked twice it is done once, and
    `leg` tells the transfers of one request apart. `reverses` is the transfer that this one takes back, with exactly
    its legs negated. `settles` is a hold that ends with it; the leg on the hold's account takes at most what is held.
    """

    team_id: str
    scope: str
    key: str
    kind: str
    legs: tuple[Leg, ...]
    date: date
    memo: str | None = None
    reverses: str | None = None
    settles: str | None = None
    leg: int = 0

    @property
    def id(self) -> str:
        """The transfer's id, which follows from team, scope, key and leg; derived once, without the library's lock."""
        found: str | None = self.__dict__.get("_id")
        if found is None:
            found = self.__dict__["_id"] = derive_id("transfer", self.team_id, self.scope, self.key, str(self.leg))
        return found

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell this request from another one under the same key."""
        found: str | None = self.__dict__.get("_fingerprint")
        if found is None:
            legs = sorted([(leg.account_id, leg.amount) for leg in self.legs])
            written = f"{self.kind!r}, {legs}, {_written_date(self.date)}"
            found = _digest(f"({written}, {self.memo!r}, {self.reverses!r}, {self.settles!r})")
            self.__dict__["_fingerprint"] = found
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one posting or hold: `problem` is None where it stands in the ledger.

    `replayed` tells that it was decided by an earlier request with the same key. A refused one stays refused.
    """

    id: str
    replayed: bool = False
    problem: Problem | None = None

    def stands(self) -> str:
        """Return the id of what stands in the ledger.

        Errors: the outcome's problem.
        """
        if self.problem is not None:
            raise self.problem
        return self.id


@dataclass(frozen=True)
class HoldRequest:
    """An amount to be kept aside on an account; `expires_at` None means that only settle and void end it."""

    team_id: str
    scope: str
    key: str
    account_id: str
    amount: int
    reason: str
    subject: str | None = None
    expires_at: datetime | None = None

    @cached_property
    def id(self) -> str:
        """The hold's id, which follows from team, scope and key."""
        return derive_id("hold", self.team_id, self.scope, self.key)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell this request from another one under the same key."""
        return _digest(repr((self.account_id, self.amount, self.reason, self.subject, self.expires_at)))


@dataclass(frozen=True)
class LedgerAccount:
    """An account as it stands. `floor` is the least that balance less holds may be; None for no limit.

    `number` is what entries and transfers name it by.
    """

    id: str
    number: int
    team_id: str
    type: str
    name: str
    currency: str
    balance: int
    held: int
    floor: int | None
    version: int
    created_at: datetime
    moved_at: datetime
    closed_at: datetime | None

    @property
    def available(self) -> int | None:
        """What may still be spent; None without a limit."""
        return None if self.floor is None else self.balance - self.held - self.floor


class AccountNotFound(problems.NotFound):
    """The team has no such account."""

    code = "account-not-found"
    title = "There is no such account"


class AccountClosed(problems.Conflict):
    """The account is closed and takes no entries."""

    code = "account-closed"
    title = "This account is closed"


class AccountNotEmpty(problems.Conflict):
    """An account with a balance or holds cannot be closed."""

    code = "account-not-empty"
    title = "This account still has a balance or holds"


class AccountInUse(problems.Conflict):
    """What an account is cannot change once it has entries."""

    code = "account-in-use"
    title = "This account has entries already"


class NameTaken(problems.Conflict):
    """The team has an open account of this type, currency and name."""

    code = "name-taken"
    title = "There is an account of this name already"


class CurrencyMismatch(problems.Conflict):
    """The accounts of one transfer have different currencies."""

    code = "currency-mismatch"
    title = "These accounts have different currencies"


class BalanceTooLow(problems.Conflict):
    """The account would fall below its limit. `needed` and `available` are in whole units of `currency`."""

    code = "balance-too-low"
    title = "The balance is too low for this"


class InsufficientFunds(Problem):
    """The wallet would fall below its limit: top it up. `needed` and `available` are in whole units of `currency`."""

    code = "insufficient-funds"
    status = 402
    act = Act.PAY
    title = "The wallet does not hold enough for this"


class BadPosting(Problem):
    """The posting breaks a rule of the ledger and can never stand; `rule` says which."""

    code = "bad-posting"
    status = 422
    act = Act.FIX
    title = "The ledger cannot take this posting"


class TransferNotFound(problems.NotFound):
    """The team has no such transfer."""

    code = "transfer-not-found"
    title = "There is no such transfer"


class AlreadyReversed(problems.Conflict):
    """A transfer is reversed at most once."""

    code = "already-reversed"
    title = "This transfer was reversed already"


class HoldNotFound(problems.NotFound):
    """The team has no such hold."""

    code = "hold-not-found"
    title = "There is no such hold"


class HoldEnded(problems.Conflict):
    """A hold ends once."""

    code = "hold-ended"
    title = "This hold has ended already"


class OutcomeUnknown(Problem):
    """The connection was lost before the answer came: it may stand or not. The same key tells."""

    code = "outcome-unknown"
    status = 503
    act = Act.WAIT
    title = "The database did not answer; try again with the same Idempotency-Key"


class LedgerBroken(Problem):
    """The database refused to write what would not add up: a mistake of ours."""

    code = "ledger-refused"
    status = 500
    act = Act.REPORT
    title = "The ledger refused a write that would not add up"


_KNOWN: dict[str, type[Problem]] = {
    known.code: known
    for known in (
        AccountNotFound,
        AccountClosed,
        AccountNotEmpty,
        AccountInUse,
        NameTaken,
        CurrencyMismatch,
        TransferNotFound,
        AlreadyReversed,
        HoldNotFound,
        HoldEnded,
    )
} | {"key-reused": problems.IdempotencyKeyReused}
_RULES = {
    "bad-legs": f"A transfer has 2 to {MOST_LEGS} legs, each on an account of its own.",
    "bad-amount": f"An amount is a whole number of units, not 0 and at most {MOST_AMOUNT}.",
    "unbalanced": "The legs of a transfer sum to zero.",
    "bad-text": f"Kind is a short word, key and scope are 1 to 255 characters, a memo has at most {MOST_MEMO}.",
    "bad-date": f"A date lies between {_FIRST_DATE} and {_LAST_DATE}.",
    "bad-reference": "An id of a transfer or a hold has 32 hexadecimal digits.",
    "reversal-differs": "A reversal has the legs of the transfer that it takes back, negated.",
    "hold-exceeded": "The leg on the hold's account takes at least 1 and at most what is held.",
    "balance-out-of-range": "No balance may pass 10^18 units.",
    "too-low": "The balance less the holds is below that limit already.",
}


def problem_of(code: str, detail: Mapping[str, Any] | None = None) -> Problem:
    """Make the problem for a code that the database's functions give, with what they tell of it."""
    if code == "insufficient":
        told = dict(detail or {})
        kind = InsufficientFunds if told.pop("type", None) == "wallet" else BalanceTooLow
        return kind(**told)
    if code in _KNOWN:
        return _KNOWN[code]()
    return BadPosting(_RULES.get(code), rule=code)


def find_fault(posting: Posting) -> str | None:
    """Return the rule that a posting breaks whatever the ledger holds, None for a sound one."""
    accounts = [leg.account_id for leg in posting.legs]
    amounts = [leg.amount for leg in posting.legs]
    if not 2 <= len(accounts) <= MOST_LEGS or len(set(accounts)) < len(accounts):
        return "bad-legs"
    for amount in amounts:
        if not is_amount(amount):
            return "bad-amount"
    if sum(amounts) != 0:
        return "unbalanced"
    if type(posting.date) is not date or not _FIRST_DATE <= posting.date <= _LAST_DATE:
        return "bad-date"
    if not (_is_reference(posting.reverses) and _is_reference(posting.settles)):
        return "bad-reference"
    words = [posting.scope, posting.key, posting.kind, *accounts]
    return None if _are_words(words) and len(posting.kind) <= 32 and _is_memo(posting.memo) else "bad-text"


def is_amount(value: object) -> bool:
    """Tell whether a value can be an amount: a whole number that is not 0, no bool, no float, not too large."""
    return type(value) is int and value != 0 and -MOST_AMOUNT <= value <= MOST_AMOUNT


def derive_id(*parts: str) -> str:
    """Return 32 hexadecimal digits that follow from the parts alone."""
    return _digest("\0".join(parts))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@lru_cache(maxsize=64, typed=True)
def _written_date(value: date) -> str:
    """Return how a date is written in a fingerprint; writing it takes longer than all else of one."""
    return repr(value)


def _is_reference(text: str | None) -> bool:
    if text is None:
        return True
    try:
        return uuid.UUID(text).hex == text
    except ValueError:
        return False


def _are_words(texts: Sequence[str]) -> bool:
    """Tell whether the database can hold them; what is printable has neither NUL nor half a surrogate pair."""
    lengths = [len(text) for text in texts]
    return min(lengths) >= 1 and max(lengths) <= 255 and "".join(texts).isprintable()


def _is_memo(text: str | None) -> bool:
    return text is None or (len(text) <= MOST_MEMO and _UNSTORABLE.search(text) is None)
