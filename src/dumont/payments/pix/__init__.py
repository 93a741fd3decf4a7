"""Pix through any service that speaks the Banco Central's Pix API."""

from dumont.payments.pix.service import PixService

__all__ = ["PixService"]
