"""A typed client of the public API on the standard library alone, light enough for a command line."""

from dumont.client.books import Books
from dumont.client.client import Client
from dumont.client.model import (
    FINAL,
    Event,
    Hibernation,
    Instance,
    Money,
    Offer,
    OfferPage,
    Operation,
    Session,
    Snapshot,
    Source,
    SshAccess,
    SshKey,
    Step,
    Wallet,
    read,
    read_moment,
    read_money,
)
from dumont.client.problems import ApiError, ApiProblem, ApiUnreachable, ApiUnreadable
from dumont.client.syncs import Syncs
from dumont.client.topups import Topup, Topups

__all__ = [
    "FINAL",
    "ApiError",
    "ApiProblem",
    "ApiUnreachable",
    "ApiUnreadable",
    "Books",
    "Client",
    "Event",
    "Hibernation",
    "Instance",
    "Money",
    "Offer",
    "OfferPage",
    "Operation",
    "Session",
    "Snapshot",
    "Source",
    "SshAccess",
    "SshKey",
    "Step",
    "Syncs",
    "Topup",
    "Topups",
    "Wallet",
    "read",
    "read_moment",
    "read_money",
]
