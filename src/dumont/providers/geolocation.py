"""Read the country out of the places that marketplaces write, such as "Texas, US"."""

from functools import lru_cache

from dumont.providers.continents import CONTINENT_NAMES, CONTINENTS
from dumont.providers.countries import COUNTRIES, OTHER_NAMES

_REGION_TAGS = frozenset({"AF", "AN", "AS", "EU", "NA", "OC", "SA"})
_NAMES = {name.lower(): code for code, name in COUNTRIES.items()} | OTHER_NAMES


@lru_cache(4096)
def country_of(place: str | None) -> str | None:
    """Return the ISO 3166-1 alpha-2 code of a place, or None when it names no country.

    Guarantees: only the last parts count, never a substring: "Indiana" is not India and ", CA" is Canada.
    Source: a region tag may follow the code ("Texas, US, NA"), while "Windhoek, NA" is Namibia.
    """
    parts = [part.strip() for part in (place or "").split(",")]
    parts = [part for part in parts if part]
    if not parts:
        return None
    last = _code_like(parts[-1])
    before = _code_like(parts[-2]) if len(parts) > 1 else None
    if last in _REGION_TAGS and before in COUNTRIES:
        return before
    if last in COUNTRIES:
        return last
    return _NAMES.get(parts[-1].lower())


def countries_in(region: str) -> frozenset[str] | None:
    """Return the countries of a continent (name or code), or the one country that is named; None for anything else.

    Guarantees: where a code names both, it is the continent: SA is South America and not Saudi Arabia.
    """
    word = " ".join(region.replace("_", " ").replace("-", " ").lower().split())
    continent = CONTINENT_NAMES.get(word, word.upper())
    if continent in CONTINENTS:
        return CONTINENTS[continent]
    country = word.upper() if word.upper() in COUNTRIES else _NAMES.get(region.strip().lower(), _NAMES.get(word))
    return frozenset({country}) if country else None


def _code_like(part: str) -> str | None:
    return part.upper() if len(part) == 2 and part.isascii() and part.isalpha() else None
