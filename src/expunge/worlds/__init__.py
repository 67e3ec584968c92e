"""Tiny models with their data, a twin that never saw the forget rows, and a request: they run anywhere, offline."""
