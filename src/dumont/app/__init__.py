"""The entry point and the wiring of all rooms."""
