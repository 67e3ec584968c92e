"""Run every benchmark."""

from __future__ import annotations

from benchmarks import loading, training_step

for benchmark in (loading, training_step):
    benchmark.main()
