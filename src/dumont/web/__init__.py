"""Ask other people's servers over HTTP: one call is one request, and nothing is ever repeated."""

from dumont.web.client import Broken, Reply, Unsent, Web

__all__ = ["Broken", "Reply", "Unsent", "Web"]
