"""Vast.ai: the only files that know its words."""

from dumont.providers.vast.provider import VastProvider

__all__ = ["VastProvider"]
