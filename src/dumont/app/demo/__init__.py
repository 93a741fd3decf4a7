"""`dumont demo`: the whole main job against the running product, with a fault thrown in, and every claim checked."""

from dumont.app.demo.command import demo

__all__ = ["demo"]
