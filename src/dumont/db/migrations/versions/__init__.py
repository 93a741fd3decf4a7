"""One file per step of the schema; each names the one before it."""
