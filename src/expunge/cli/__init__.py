"""The command line: one file a verb, each a thin call of the Python function of the same name."""
