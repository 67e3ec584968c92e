"""Audits: attempts to find what an erasure was to remove. One file an audit; what they are made of is in ``parts``."""
