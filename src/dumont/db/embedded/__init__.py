"""PostgreSQL that comes with the product: the wheel's programs under our own supervisor."""

from dumont.db.embedded.errors import DatabaseInUse, DatabaseStartError
from dumont.db.embedded.places import has_cluster
from dumont.db.embedded.server import EmbeddedPostgres
from dumont.db.embedded.visit import visit_database

__all__ = ["DatabaseInUse", "DatabaseStartError", "EmbeddedPostgres", "has_cluster", "visit_database"]
