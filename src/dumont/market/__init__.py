"""Offers: what can be rented now, at which price, under ids that stay."""

from dumont.market.api import router
from dumont.market.cache import Offers
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
from dumont.market.service import Providers, best_like, known_offer

__all__ = [
    "NoCapacityNow",
    "NoMatchingOffer",
    "OfferNotFound",
    "OfferTaken",
    "Offers",
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
    "router",
]
