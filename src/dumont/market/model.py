"""Offers as the product knows them, and what can go wrong between us and a marketplace."""

from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem
from dumont.db import Base
from dumont.providers import (
    BadCredentials,
    NoCapacity,
    Offer,
    ProviderError,
    ProviderUnreachable,
    RateLimited,
)
from dumont.providers import OfferGone as ProviderOfferGone


class KnownOffer(Base):
    """An offer that somebody has seen. Its id stands for (provider, machine, GPU count): providers renumber theirs."""

    __tablename__ = "offer"
    __table_args__ = (UniqueConstraint("provider", "machine_id", "num_gpus", "machine_type", name="uq_offer_provider"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    provider: Mapped[str] = mapped_column(Text)
    machine_id: Mapped[str] = mapped_column(Text)
    num_gpus: Mapped[int]
    machine_type: Mapped[str] = mapped_column(Text)
    document: Mapped[dict[str, Any]] = mapped_column(JSONB)
    as_of: Mapped[datetime]


_FIELDS = {field.name: None for field in fields(Offer)}


class OfferNotFound(Problem):
    """No offer has this id."""

    code, status, act = "offer-not-found", 404, Act.FIX
    title = "There is no such offer"


class OfferTaken(Problem):
    """The offer was there, and now somebody else has it."""

    code, status, act = "offer-gone", 409, Act.FIX
    title = "The offer is gone"


class PriceMoved(Problem):
    """The offer costs more now than the caller was ready to pay; extra: price_hour, price_hour_max."""

    code, status, act = "price-moved", 409, Act.FIX
    title = "The price has moved above your limit"


class NoMatchingOffer(Problem):
    """Nothing on the market fits right now."""

    code, status, act = "no-matching-offer", 404, Act.FIX
    title = "No offer fits"


class ProviderNotConfigured(Problem):
    """The installation has no key for this provider; extra: setting."""

    code, status, act = "provider-not-configured", 400, Act.FIX
    title = "The provider is not configured"


class ProviderDown(Problem):
    """The provider did not answer, or its answer could not be trusted: the outcome is unknown."""

    code, status, act = "provider-unreachable", 503, Act.WAIT
    title = "The provider cannot be reached"


class ProviderSaidNo(Problem):
    """The provider refused for good."""

    code, status, act = "provider-refused", 409, Act.REPORT
    title = "The provider refused"


class NoCapacityNow(Problem):
    """The machine exists, but its GPU is rented by somebody else right now."""

    code, status, act = "no-capacity", 503, Act.WAIT
    title = "The machine has no free GPU now"


def explain(error: ProviderError) -> Problem:
    """Turn a provider's error into the problem that people see."""
    detail = str(error)
    if isinstance(error, ProviderOfferGone):
        return OfferTaken("The offer was rented by somebody else. Search again and choose another one.")
    if isinstance(error, NoCapacity):
        return NoCapacityNow("The machine's GPU is rented by somebody else now. Wait, or wake elsewhere.")
    if isinstance(error, RateLimited):
        return ProviderDown("The provider asks us to slow down.", retry_after=error.retry_after)
    if isinstance(error, BadCredentials):
        return ProviderNotConfigured("The provider refuses our key. Check the installation's provider key.")
    if isinstance(error, ProviderUnreachable):
        return ProviderDown(f"The provider gave no certain answer: {detail}")
    return ProviderSaidNo(f"The provider refused: {detail}")


def offer_to_json(offer: Offer) -> dict[str, Any]:
    """Write an offer as plain JSON."""
    document = {name: getattr(offer, name) for name in _FIELDS}
    until = document["available_until"]
    document["available_until"] = until.isoformat() if until is not None else None
    return document


def offer_from_json(document: dict[str, Any]) -> Offer:
    """Read an offer back from plain JSON, also one that another version wrote."""
    until = document.get("available_until")
    known = {name: value for name, value in document.items() if name in _FIELDS}
    return Offer(**{**known, "available_until": datetime.fromisoformat(until) if until else None})
