"""PostgreSQL that comes with the product: the wheel's programs under our own supervisor."""

from dumont.db.embedded.errors import DatabaseStartError
from dumont.db.embedded.server import EmbeddedPostgres

__all__ = ["DatabaseStartError", "EmbeddedPostgres"]
