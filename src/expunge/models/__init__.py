"""Models: loading, fingerprints, scoring answers."""
