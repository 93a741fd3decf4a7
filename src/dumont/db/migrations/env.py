"""Run the revisions on the connection that `dumont.db.migrate` hands over, each in its own transaction."""

from alembic import context

from dumont.db.session import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
