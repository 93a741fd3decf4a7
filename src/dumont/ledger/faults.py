"""What an error of the database means for a posting: try again, unknown, refused, or a mistake of ours.

Source: PostgreSQL manual, Appendix A, "PostgreSQL Error Codes".
"""

from enum import Enum

import psycopg
from sqlalchemy.exc import DBAPIError

from dumont.core import Problem
from dumont.db import DatabaseUnavailable
from dumont.ledger.model import BalanceTooLow, LedgerBroken, OutcomeUnknown


class Unreached(ConnectionError):
    """No connection could be made, so nothing was asked."""


class Fault(Enum):
    """The classes of errors, by what is known of the transaction and what helps."""

    CONFLICT = "nothing was written; at once again"
    LOCKED = "nothing was written; somebody holds an account"
    SLOW = "nothing was written; the database took too long"
    GONE = "the server ended the session before it did anything; again on another connection"
    UNKNOWN = "the connection was lost; the same key tells what happened"
    REFUSED = "the database refuses this for good"
    BROKEN = "nobody expected this"


_BY_STATE = {
    "40001": Fault.CONFLICT,
    "40P01": Fault.CONFLICT,
    "55P03": Fault.LOCKED,
    "57014": Fault.SLOW,
    "25P03": Fault.SLOW,
    "25P04": Fault.SLOW,
    "53000": Fault.GONE,
    "53100": Fault.SLOW,
    "53200": Fault.SLOW,
    "53300": Fault.GONE,
    "57P03": Fault.GONE,
    "57P01": Fault.UNKNOWN,
    "57P02": Fault.UNKNOWN,
    "57P05": Fault.UNKNOWN,
}
_BY_CLASS = {"08": Fault.UNKNOWN, "22": Fault.REFUSED, "23": Fault.REFUSED, "P0": Fault.REFUSED}


def classify(error: BaseException) -> Fault:
    """Say what an error means. A lost connection has no SQLSTATE; a shutdown may come after the commit."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, Unreached):
        return Fault.GONE
    if isinstance(cause, (OSError, TimeoutError)):
        return Fault.UNKNOWN
    if not isinstance(cause, psycopg.Error):
        return Fault.BROKEN
    if cause.sqlstate is None:
        return Fault.UNKNOWN if isinstance(cause, psycopg.OperationalError) else Fault.BROKEN
    return _BY_STATE.get(cause.sqlstate) or _BY_CLASS.get(cause.sqlstate[:2], Fault.BROKEN)


def problem_for(error: BaseException) -> Problem:
    """Return what to tell of an error that stays: wait, the same key again, or report."""
    fault = classify(error)
    if fault is Fault.UNKNOWN:
        return OutcomeUnknown(retry_after=1.0)
    if fault is Fault.REFUSED:
        cause = error.orig if isinstance(error, DBAPIError) else error
        assert isinstance(cause, psycopg.Error)
        if cause.diag.constraint_name == "ck_ledger_account_floor":
            return BalanceTooLow()
        return LedgerBroken()
    return LedgerBroken() if fault is Fault.BROKEN else DatabaseUnavailable(retry_after=1.0)
