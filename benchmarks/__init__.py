"""Speed, measured: ratios in one run, paired, medians. ``make bench`` runs all and writes ``benchmarks/results``."""
