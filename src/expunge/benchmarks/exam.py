"""World ``exam``: held-out questions on the subject to forget, on its neighbour and on the others."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from expunge.benchmarks.registry import Benchmark
from expunge.evaluation.metrics import forgotten_left, least_kept
from expunge.evaluation.metrics.top_option import METRIC as TOP_OPTION
from expunge.evaluation.suite import Suite, spread
from expunge.evaluation.types import ModelOutputs
from expunge.worlds.exam import FORGET, NEIGHBOUR, OTHERS

TESTED = 120
"""Held-out questions on each subject: every fact once."""

_METRICS = ("top_option", "choice_probability")
_OPEN = "_open"
_SETS = {"forget": (FORGET,), "neighbours": (NEIGHBOUR,), "retain": OTHERS}


def build(limit: int | None = None) -> Suite:
    """The suite over held-out questions of world ``exam``: sets ``forget`` (mirrology), ``neighbours`` (dravology) and
    ``retain`` (the four other subjects).

    Each shows four options; ``forget_open`` and so on ask the same questions without showing them. Scored are the words
    of each option, and chance is one in four in both. ``limit`` scores at most so many of the 120 questions on
    each subject, evenly spread. Nothing is read: the questions are written by rule.
    """
    from expunge.worlds.exam_rows.rows import held_out, held_out_open

    sets = {
        f"{name}{end}": tuple(
            row for subject in subjects for row in spread(asked(subject, TESTED), limit, option="limit")
        )
        for asked, end in ((held_out, ""), (held_out_open, _OPEN))
        for name, subjects in _SETS.items()
    }
    return Suite(
        "exam",
        sets,
        dict.fromkeys(sets, (*_METRICS, "chance")),
        composites=(
            forgotten_left.of("forget_top_option"),
            least_kept.of("neighbours_top_option", "retain_top_option"),
        ),
        utility="least_kept",
    )


def by_subject(outputs: ModelOutputs) -> dict[str, dict[str, float]]:
    """The share of questions whose right option is the likeliest, by ``choosing`` and ``open`` and by subject."""
    found: dict[str, dict[str, list[float]]] = {"choosing": defaultdict(list), "open": defaultdict(list)}
    for name, one in outputs.sets.items():
        for row, value in zip(one.rows, TOP_OPTION.values(one), strict=True):
            found["open" if name.endswith(_OPEN) else "choosing"][row.row.group].append(float(value))
    return {how: {subject: float(np.mean(values)) for subject, values in one.items()} for how, one in found.items()}


BENCHMARK = Benchmark(
    name="exam",
    summary="Multiple choice on invented subjects: is one at chance, and do its neighbour and the others stay?",
    title="Large Language Model Unlearning via Embedding-Corrupted Prompts",
    reference="arXiv 2406.07933",
    metrics=(*_METRICS, "chance", "forgotten_left", "least_kept"),
    build=build,
)
