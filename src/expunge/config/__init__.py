"""Run files and overrides."""
