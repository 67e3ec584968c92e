"""The verdict's rules over a forgotten skill: how many of its items are still solved, and how likely the right answers
still are."""

from __future__ import annotations

from expunge.evaluation.findings import SIGNIFICANCE, Evidence, Finding, Label, number
from expunge.evaluation.harm import answer_probability, fisher

SOLVED = "forget_solved"
"""What the key of the forgotten skill's solved items begins with, before the model's name."""

_NAME = "forget"
_WHAT = "right answers"


def is_tested(evidence: Evidence) -> bool:
    """Whether erased and retrained model were both given the skill's items."""
    return all(f"{SOLVED}_{end}" in evidence for end in ("erased", "retrained", "n"))


def still_solves(evidence: Evidence) -> Finding:
    """Items of the forgotten skill solved significantly more often than by the retrained model: Fisher's exact test,
    one-sided, at :data:`SIGNIFICANCE`."""
    own, other, count = _shares(evidence)
    p_value = fisher(own, other, count, "greater")
    return Finding(
        p_value < SIGNIFICANCE,
        f"It solves {own:.1%} of the {int(count)} items of what was to be forgotten, the retrained model {other:.1%} "
        f"(Fisher's exact test, p = {number(p_value)}).",
    )


def solving_alone(evidence: Evidence) -> tuple[Label, str, list[str]]:
    """Label, sentence and further reasons where it solves no significantly larger share than the retrained model, and
    there are no truth ratios."""
    known = answer_probability(evidence, _NAME, what=_WHAT)
    reasons = [
        known.reason or f"Whether it still knows the {_WHAT} was not judged: their probabilities were not scored."
    ]
    own, other, count = _shares(evidence)
    said = (
        f"its greedy answers solve {own:.1%} of the {int(count)} items of what was to be forgotten, those of a model "
        f"that never learned it {other:.1%}"
    )
    higher = evidence.get(f"{_NAME}_probability_erased", 0.0) > evidence.get(f"{_NAME}_probability_retrained", 0.0)
    if known.holds and higher:
        return "still knows the answers", f"It still knows the {_WHAT}, though {said}. {known.reason}", reasons
    if fisher(own, other, count, "less") < SIGNIFICANCE:
        sentence = (
            f"It solves fewer items than a model that never learned the skill, so the two can be told apart: {said}."
        )
        return "no claim", f"{sentence} No more is claimed.", reasons
    if known.holds:
        sentence = (
            f"It finds the {_WHAT} less likely than a model that never learned the skill, so the two can be told "
            f"apart; no more is claimed. {known.reason}"
        )
        return "no claim", sentence, reasons
    rows = int(count)
    seen = next((k for k in range(1, rows + 1) if fisher(k / rows, other, count, "greater") < SIGNIFICANCE), rows)
    shown = f"With {rows} items a share below {seen / rows:.0%} would not have shown beside that."
    return "indistinguishable from never trained", f"{said[0].upper()}{said[1:]}. {shown}", reasons


def _shares(evidence: Evidence) -> tuple[float, float, float]:
    return evidence[f"{SOLVED}_erased"], evidence[f"{SOLVED}_retrained"], evidence[f"{SOLVED}_n"]
