"""Clouds: each provider translates one marketplace into the words of the contract, and nothing more."""

from dumont.providers.contract import (
    Account,
    Address,
    BadCredentials,
    Capabilities,
    Charge,
    Machine,
    MachineAbsent,
    MachineState,
    NoCapacity,
    Offer,
    OfferGone,
    OfferQuery,
    Provider,
    ProviderError,
    ProviderRefused,
    ProviderUnreachable,
    RateLimited,
    RentRequest,
)
from dumont.providers.fitting import checks, cuda_version, fits, machine_type_of
from dumont.providers.geolocation import countries_in, country_of
from dumont.providers.vast import VastProvider

__all__ = [
    "Account",
    "Address",
    "BadCredentials",
    "Capabilities",
    "Charge",
    "Machine",
    "MachineAbsent",
    "MachineState",
    "NoCapacity",
    "Offer",
    "OfferGone",
    "OfferQuery",
    "Provider",
    "ProviderError",
    "ProviderRefused",
    "ProviderUnreachable",
    "RateLimited",
    "RentRequest",
    "VastProvider",
    "checks",
    "countries_in",
    "country_of",
    "cuda_version",
    "fits",
    "machine_type_of",
]
