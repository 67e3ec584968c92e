"""Which metric to trust: models of which it is known whether they know, and how well each metric tells."""
