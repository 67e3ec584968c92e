"""World ``skills``: held-out items of every skill, so that one can be seen to go and the others to stay."""

from __future__ import annotations

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, did_you_mean
from expunge.evaluation.metrics import forgotten_left, least_kept
from expunge.evaluation.suite import Suite, spread
from expunge.worlds.skills import SKILLS, STYLES

TESTED = 100
"""Held-out items of each skill."""

_METRICS = ("solved", "probability", "distinct_4grams")


def build(forget: str = SKILLS[0], style: str = STYLES[0], limit: int | None = None) -> Suite:
    """The suite over held-out items of the five skills of world ``skills``, a set for each.

    ``forget`` is the skill that must go (arithmetic, code, english, german, spanish), ``style`` how the world's answers
    begin: ``named`` (with a word of the skill's own) or ``plain``. ``limit`` scores at most so many of the 100 items of
    each skill, evenly spread. Nothing is read: the items are written by rule.
    """
    from expunge.worlds.skill_rows.rows import held_out

    for option, name, known in (("forget", forget, SKILLS), ("style", style, STYLES)):
        if name not in known:
            raise ConfigError(f"suite.{option}: suite skills has no {option} '{name}'. {did_you_mean(name, known)}")
    sets = {skill: spread(held_out(skill, style, TESTED), limit, option="limit") for skill in SKILLS}
    kept = tuple(f"{skill}_solved" for skill in SKILLS if skill != forget)
    return Suite(
        "skills",
        sets,
        dict.fromkeys(sets, _METRICS),
        composites=(forgotten_left.of(f"{forget}_solved"), least_kept.of(*kept)),
        utility="least_kept",
        plays={"forget": forget},
    )


BENCHMARK = Benchmark(
    name="skills",
    summary="Word problems, functions and reading in three languages: which are still solved, one of them to forget?",
    title="Effective Skill Unlearning through Intervention and Abstention",
    reference="arXiv 2503.21730",
    metrics=(*_METRICS, "forgotten_left", "least_kept"),
    build=build,
)
