"""Dumont Cloud: rent marketplace GPUs without paying for idle time and without losing work."""

__version__ = "0.1.0"
