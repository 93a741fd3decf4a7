"""Offers: what can be rented now, at which price, under ids that stay."""

from dumont.market.api import router
from dumont.market.model import (
    NoCapacityNow,
    NoMatchingOffer,
    OfferNotFound,
    OfferTaken,
    PriceMoved,
    ProviderDown,
    ProviderNotConfigured,
    ProviderSaidNo,
    explain,
    offer_from_json,
    offer_to_json,
)
from dumont.market.service import Listed, Providers, best_like, known_offer, remember, search

__all__ = [
    "Listed",
    "NoCapacityNow",
    "NoMatchingOffer",
    "OfferNotFound",
    "OfferTaken",
    "PriceMoved",
    "ProviderDown",
    "ProviderNotConfigured",
    "ProviderSaidNo",
    "Providers",
    "best_like",
    "explain",
    "known_offer",
    "offer_from_json",
    "offer_to_json",
    "remember",
    "router",
    "search",
]
