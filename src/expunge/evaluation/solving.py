"""The verdict's rules over a forgotten skill or subject: how many of its items are still solved, or of how many of its
questions the right option is the likeliest, and how likely the right answers still are."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.evaluation.findings import SIGNIFICANCE, Evidence, Finding, Label, number
from expunge.evaluation.harm import answer_probability, fisher

_NAME = "forget"
_WHAT = "right answers"


@dataclass(frozen=True)
class Share:
    """A share of right answers: its ``key`` in the evidence before the model's name, and how to speak of it: what was
    forgotten (``what``), what is ``left`` where it was not, what it ``does``, what that is ``of``, what ``fewer`` of it
    is and how it ``moved``."""

    key: str
    what: str
    left: str
    does: str
    of: str
    fewer: str
    moved: str


SHARES = (
    Share(
        "forget_solved",
        what="the skill",
        left="has the skill",
        does="solves",
        of="items",
        fewer="solves fewer items",
        moved="the skill's items that are solved",
    ),
    Share(
        "forget_top_option",
        what="the subject",
        left="knows the subject",
        does="finds the right option the likeliest in",
        of="questions",
        fewer="finds the right option in fewer questions",
        moved="the subject's questions whose right option is the likeliest",
    ),
)


def tested(evidence: Evidence) -> Share | None:
    """The share that erased and retrained model were both scored by; None: there is none."""
    return next(
        (one for one in SHARES if all(f"{one.key}_{end}" in evidence for end in ("erased", "retrained", "n"))), None
    )


def still_solves(evidence: Evidence, share: Share) -> Finding:
    """Significantly more right answers than the retrained model gives: Fisher's exact test, one-sided, at
    :data:`SIGNIFICANCE`. Where there are options, and significantly more than guessing gets, by the exact binomial
    test: a retrained model that guesses badly makes no guess knowledge."""
    from scipy.stats import binomtest

    own, other, count = _shares(evidence, share)
    p_value = fisher(own, other, count, "greater")
    holds, said = p_value < SIGNIFICANCE, f"Fisher's exact test, p = {number(p_value)}"
    if (chance := evidence.get(f"{share.key}_chance")) is not None:
        p_value = float(binomtest(round(own * count), round(count), chance, "greater").pvalue)
        holds, said = holds and p_value < SIGNIFICANCE, f"{said}; against guessing, p = {number(p_value)}"
    return Finding(holds, f"It {_said(evidence, share)}, the retrained model {other:.1%} ({said}).")


def solving_alone(evidence: Evidence, share: Share) -> tuple[Label, str, list[str]]:
    """Label, sentence and further reasons where it has no significantly larger share than the retrained model, and
    there are no truth ratios."""
    known = answer_probability(evidence, _NAME, what=_WHAT)
    reasons = [
        known.reason or f"Whether it still knows the {_WHAT} was not judged: their probabilities were not scored."
    ]
    own, other, count = _shares(evidence, share)
    said = f"{_said(evidence, share)}, a model that never learned it {other:.1%}"
    higher = evidence.get(f"{_NAME}_probability_erased", 0.0) > evidence.get(f"{_NAME}_probability_retrained", 0.0)
    if known.holds and higher:
        return "still knows the answers", f"It still knows the {_WHAT}, though it {said}. {known.reason}", reasons
    if fisher(own, other, count, "less") < SIGNIFICANCE:
        sentence = (
            f"It {share.fewer} than a model that never learned {share.what}, so the two can be told apart: it {said}."
        )
        return "no claim", f"{sentence} No more is claimed.", reasons
    if known.holds:
        sentence = (
            f"It finds the {_WHAT} less likely than a model that never learned {share.what}, so the two can be "
            f"told apart; no more is claimed. {known.reason}"
        )
        return "no claim", sentence, reasons
    if fisher(own, other, count, "greater") < SIGNIFICANCE:
        sentence = f"It is right no more often than guessing: it {said}. That model guesses worse, by which the two "
        return (
            "no claim",
            f"{sentence}can be told apart, and which is no sign of knowledge. No more is claimed.",
            reasons,
        )
    rows = int(count)
    seen = next((k for k in range(1, rows + 1) if _surely_more(k / rows, evidence, share)), rows)
    shown = f"With {rows} {share.of} a share below {seen / rows:.0%} would not have shown beside that."
    return "indistinguishable from never trained", f"It {said}. {shown}", reasons


def _surely_more(own: float, evidence: Evidence, share: Share) -> bool:
    """Whether a share ``own`` would be called not forgotten."""
    return bool(still_solves({**evidence, f"{share.key}_erased": own}, share).holds)


def share_changes(evidence: Evidence) -> str:
    """How the shares moved from target to erased model, in sentences that begin with a space; empty where unknown."""
    moved = ""
    for share in SHARES:
        before, after = (evidence.get(f"{share.key}_{model}") for model in ("target", "erased"))
        if before is not None and after is not None:
            moved += f" The share of {share.moved} went from {before:.1%} to {after:.1%}{_guessing(evidence, share)}."
    return moved


def _said(evidence: Evidence, share: Share) -> str:
    own, _, count = _shares(evidence, share)
    guessing = _guessing(evidence, share)
    return f"{share.does} {own:.1%} of the {int(count)} {share.of} of what was to be forgotten{guessing}"


def _guessing(evidence: Evidence, share: Share) -> str:
    chance = evidence.get(f"{share.key}_chance")
    return "" if chance is None else f" (guessing gets {chance:.1%})"


def _shares(evidence: Evidence, share: Share) -> tuple[float, float, float]:
    return evidence[f"{share.key}_erased"], evidence[f"{share.key}_retrained"], evidence[f"{share.key}_n"]
