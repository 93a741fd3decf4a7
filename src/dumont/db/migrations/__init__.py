"""The schema's history, run in process by `dumont.db.migrate`."""
