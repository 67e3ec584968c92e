"""Run every benchmark."""

from __future__ import annotations

from benchmarks import loading, negation, weight_methods

for benchmark in (loading, weight_methods, negation):
    benchmark.main()
