"""What the command line's verbs do, as Python functions of the same names."""
