"""Does the knowledge come back when something is done to the model? Scores by how much was done, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from expunge.audits.interface import Audited, AuditResult, Label, ModelName
from expunge.audits.parts.answers import METRICS, Answers
from expunge.audits.parts.beyond import Beyond, beyond
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import mean_stderr
from expunge.requests.rows import Row

JUDGED: tuple[Metric, ...] = ("probability", "leakage")
_ERRORS = 2.0
_LEAST = 0.01
_RUINED = 0.5
_SAMPLES = 10
_WORDS = {
    "probability": "the probability of the answers",
    "leakage": "the share of the answers' words that is given away",
    "rouge": "ROUGE-L",
}
Metric = Literal["probability", "leakage", "rouge"]


@dataclass(frozen=True)
class Level:
    """How much was done: ``at`` for the figure, ``key`` for scores, ``words`` to begin a sentence with ("After 25
    steps")."""

    at: float | str
    key: str
    words: str


@dataclass(frozen=True)
class Seen:
    """What a model says at one level: ``answers`` to n rows, each asked V times (of V draws), and ``kept`` [m] the
    probabilities of the answers to retain rows, the mean over draws; None where they were not asked (they may be asked
    at the first level alone, which tells a model that was ruined before anything was done)."""

    answers: Answers
    kept: np.ndarray | None = None


@dataclass(frozen=True)
class Course:
    """One thing that was done to every model, at L levels, of which the first is nothing.

    ``title`` of the figure, ``axis`` its x; ``never`` says that nothing came back ("within 50 steps on .."); ``scored``
    are the keys of the levels that scores are made of; where that is not all of them, the best is scored, too. All
    levels are in the figures. ``seen`` by model at every level; the target's are all alike: nothing is done to it.
    """

    name: str
    title: str
    axis: str
    levels: Sequence[Level]
    seen: Mapping[ModelName, Sequence[Seen]]
    never: str
    scored: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One metric at one level: means over the rows that define it, and ``more``, erased less retrained, row by row.

    ``back``: the mean is above the retrained model's by two standard errors of the paired difference (and by 0.01), and
    at least half way from there to the untouched target's.
    """

    erased: float
    retrained: float
    target: float
    more: Beyond
    back: bool


def compare(erased: np.ndarray, retrained: np.ndarray, target: np.ndarray, *, tests: int = 1) -> Compared:
    """Compare three models on n rows.

    Args:
        erased: [n] after the treatment.
        retrained: [n] after the same.
        target: [n] before any.
        tests: how many differences are judged together, for ``more.sure``.
    """
    defined = np.isfinite(erased) & np.isfinite(retrained) & np.isfinite(target)
    more = beyond(erased[defined], retrained[defined], tests=tests)
    if not defined.any():
        return Compared(np.nan, np.nan, np.nan, more, False)
    ours, control, whole = (float(values[defined].mean()) for values in (erased, retrained, target))
    surely = more.stderr is not None and more.value >= _LEAST and more.value > _ERRORS * more.stderr
    return Compared(ours, control, whole, more, surely and ours >= (control + whole) / 2)


def _telling(one: Compared) -> tuple[bool, float]:
    """What tells more: sure differences, the largest first; else those that are sure the soonest."""
    return one.more.sure, one.more.value if one.more.sure else one.more.statistic


class Judged:
    """A course beside the retrained model: ``found`` [L] what each judged metric says at each level; ``ruined`` [L]
    whether the erased model lost half of its probability of the retain answers, so that what it does not say proves
    nothing."""

    def __init__(self, course: Course, metrics: Sequence[Metric], tests: int) -> None:
        self.course = course
        seen = course.seen
        self.found = [
            {
                metric: compare(
                    erased.answers.mean(metric),
                    retrained.answers.mean(metric),
                    seen["target"][0].answers.mean(metric),
                    tests=tests,
                )
                for metric in metrics
            }
            for erased, retrained in zip(seen["erased"], seen["retrained"], strict=True)
        ]
        kept = [None if one.kept is None else float(one.kept.mean()) for one in seen["erased"]]
        self.ruined = [now is not None and kept[0] is not None and now < _RUINED * kept[0] for now in kept]

    @property
    def first(self) -> int | None:
        """The first level at which knowledge is back, by any metric; None: at none."""
        return next((n for n, found in enumerate(self.found) if any(one.back for one in found.values())), None)

    def most(self, place: int) -> tuple[Metric, Compared]:
        """The metric that tells most at a level, of those by which knowledge is back if it is by some."""
        found = self.found[place]
        metric = max(found, key=lambda one: (found[one].back, *_telling(found[one])))
        return metric, found[metric]

    @property
    def telling(self) -> int:
        """The level, but the first, that tells most."""
        return max(range(1, len(self.found)), key=lambda place: _telling(self.most(place)[1]))


def coming_back_result(
    name: str,
    version: int,
    audited: Audited,
    rows: Sequence[Row],
    courses: Sequence[Course],
    *,
    details: Mapping[str, Any],
    more: str = "",
    doubt: str = "",
) -> AuditResult:
    """What the audit found when ``rows`` were asked at every level of ``courses``.

    Scores are ``forget_<metric>`` (nothing done), ``<name>_<course>_<level>_<metric>``, and beside the retrained model
    ``.._beyond_retrained``, the paired difference. ``best`` as a level is, for each model and metric, the one at which
    the model says most.

    Args:
        more: a sentence to end with.
        doubt: why nothing follows where nothing came back, if so.
    """
    scores: dict[str, dict[str, Score]] = {}
    for model in audited.models:
        first = courses[0].seen[model][0]
        scores[model] = {f"forget_{metric}": _score(first.answers.mean(metric), version) for metric in METRICS}
    for course in courses:
        for place, level in enumerate(course.levels):
            if level.key in course.scored:
                _add_scores(scores, name, version, course, place)
        if len(course.scored) < len(course.levels) - 1:
            _add_best(scores, name, version, course)
    label, sentence, judged = _verdict(audited, courses, len(rows), doubt)
    counted = f"{len(rows)} rows were asked." if len(rows) > 1 else ""
    return AuditResult(
        scores,
        label,
        " ".join(part for part in (sentence, counted, more) if part),
        {
            "rows": len(rows),
            **({"comes_back": {_name(one): _back(one) for one in judged}} if judged else {}),
            **details,
        },
        [figure for course in courses for figure in _figures(course)],
        _samples(rows, courses, judged),
    )


def _add_scores(scores: dict[str, dict[str, Score]], name: str, version: int, course: Course, place: int) -> None:
    key = "_".join(part for part in (name, course.name, course.levels[place].key) if part)
    for model in course.seen.keys() - {"target"}:
        answers, kept = course.seen[model][place].answers, course.seen[model][place].kept
        for metric in METRICS:
            scores[model][f"{key}_{metric}"] = _score(answers.mean(metric), version)
        if kept is not None:
            scores[model][f"{key}_retain_probability"] = _score(kept, version)
    if "retrained" in course.seen:
        for metric in METRICS:
            erased, control = (course.seen[one][place].answers.mean(metric) for one in ("erased", "retrained"))
            one = beyond(erased, control)
            scores["erased"][f"{key}_{metric}_beyond_retrained"] = Score(one.value, one.stderr, one.n, version)


def _add_best(scores: dict[str, dict[str, Score]], name: str, version: int, course: Course) -> None:
    key = "_".join(part for part in (name, course.name, "best") if part)
    for metric in METRICS:
        best: dict[ModelName, np.ndarray] = {}
        for model in course.seen.keys() - {"target"}:
            values = [one.answers.mean(metric) for one in course.seen[model][1:]]
            best[model] = max(values, key=lambda one: _score(one, version).value if np.isfinite(one).any() else -np.inf)
            scores[model][f"{key}_{metric}"] = _score(best[model], version)
        if "retrained" in best:
            one = beyond(best["erased"], best["retrained"])
            scores["erased"][f"{key}_{metric}_beyond_retrained"] = Score(one.value, one.stderr, one.n, version)


def _score(values: np.ndarray, version: int) -> Score:
    kept = values[np.isfinite(values)]
    return Score(float(kept.mean()) if len(kept) else float("nan"), mean_stderr(kept), len(kept), version)


def _verdict(audited: Audited, courses: Sequence[Course], rows: int, given: str) -> tuple[Label, str, list[Judged]]:
    if audited.retrained is None:
        return "no claim", _without_control(courses), []
    if rows < 2:
        return "no claim", "Only one row was asked, which proves nothing: pass more.", []
    first = courses[0].seen
    known: list[Metric] = [
        metric
        for metric in JUDGED
        if beyond(*(first[model][0].answers.mean(metric) for model in ("target", "retrained")), tests=len(JUDGED)).sure  # type: ignore[arg-type]
    ]
    if not known:
        said = (
            "The target itself knows surely no more of these rows than the retrained model, so nothing can come back. "
            "Pass the rows that it was trained on."
        )
        return "no claim", said, []
    judged = [Judged(course, known, len(known) * sum(len(one.levels) for one in courses)) for course in courses]
    came = [one for one in judged if one.first is not None]
    never = [one.course.never for one in judged if one.first is None]
    still = f"Nothing comes back {_listed(never)}." if never else ""
    if came and came[0].first == 0:
        return "leaks", f"{_untouched(*came[0].most(0))}: nothing has to come back.", judged
    if came:
        quickest = min(came, key=lambda one: (one.first or 0) / len(one.course.levels))
        others = [one.course.levels[one.first].words for one in came if one is not quickest and one.first is not None]
        also = f" So it does {_listed([text[:1].lower() + text[1:] for text in others])}." if others else ""
        at = quickest.first or 0
        before = quickest.found[0][quickest.most(at)[0]].erased
        said = _said(*quickest.most(at), before=before)
        end = f" {still}" if still else ""
        return "comes back", f"{quickest.course.levels[at].words}, {said}: the knowledge comes back.{also}{end}", judged
    doubt = given
    broken = [level.words for one in judged for level, bad in zip(one.course.levels, one.ruined, strict=True) if bad]
    sound = [(one, n) for one in judged for n in range(1, len(one.found)) if not one.ruined[n]]
    if not sound:
        doubt = f"But each of these ruins the erased model, so that proves nothing. {doubt}".rstrip()
    elif broken:
        doubt = f"What ruins the model proves nothing: {'; '.join(broken)}. {doubt}".rstrip()
    # what is surely there is there, whatever was ruined or too weak: doubt is of what is not
    surely = [(one, n) for one in judged for n in range(1, len(one.found)) if one.most(n)[1].more.sure]
    top, at = max(surely or sound or [(judged[0], 1)], key=lambda pair: _telling(pair[0].most(pair[1])[1]))
    metric, one = top.most(at)
    said, words = _said(metric, one), top.course.levels[at].words
    plainly = judged[0].most(0)
    if plainly[1].more.sure:
        growth = one.more.value - plainly[1].more.value
        grown = f"{words}, {said}." if growth > _ERRORS * (one.more.stderr or 0.0) else ""
        parts = (f"{_untouched(*plainly)}: surely more, less than half.", still, doubt, grown)
        return "leaks", " ".join(part for part in parts if part), judged
    if surely:
        sure = f"{words}, {said}: surely more than a model that never knew says, less than half."
        return "hidden", " ".join(part for part in (still, doubt, sure) if part), judged
    wrecked = _wrecked(first)
    if not sound or given or wrecked:
        return "no claim", " ".join(part for part in (still, doubt, wrecked) if part), judged
    end = f"{words[:1].lower()}{words[1:]}, {said}, not surely more than a model that never knew says. {doubt}".rstrip()
    return audited.cleared, f"{still} Closest to it: {end}", judged


def _wrecked(first: Mapping[ModelName, Sequence[Seen]]) -> str:
    """Said where the erased model, with nothing done, has less than half of the target's or the retrained model's mean
    probability of the retain answers: it gives nothing away, whatever its weights hold."""
    kept = {name: float(seen[0].kept.mean()) for name, seen in first.items() if seen[0].kept is not None}
    others = {name: value for name, value in kept.items() if name != "erased"}
    if "erased" not in kept or not others:
        return ""
    most = max(others, key=lambda name: others[name])
    if kept["erased"] >= _RUINED * others[most]:
        return ""
    return (
        f"But with nothing done at all the probability of retain answers is {kept['erased']:.2f} in the erased model, "
        f"less than half of the {most} model's {others[most]:.2f}: a ruined model gives nothing away, so that proves "
        "nothing."
    )


def _without_control(courses: Sequence[Course]) -> str:
    course = courses[0]
    before, after = (course.seen["erased"][place].answers.mean("probability") for place in (0, -1))
    words = course.levels[-1].words
    return (
        f"{words}, the probability of the answers is {np.nanmean(after):.2f} in the erased model, before that "
        f"{np.nanmean(before):.2f}. What a model that never knew would have after the same takes a retrained model to "
        "tell: pass one (--retrained)."
    )


def _untouched(metric: Metric, one: Compared) -> str:
    return f"With nothing done at all, {_said(metric, one, same='')}"


def _said(metric: Metric, one: Compared, before: float | None = None, same: str = " after the same") -> str:
    was = "" if before is None else f" ({before:.2f} before)"
    error = "" if one.more.stderr is None else f" ± {one.more.stderr:.2f}"
    return (
        f"{_WORDS[metric]} is {one.erased:.2f} in the erased model{was}, {one.retrained:.2f} in the retrained "
        f"one{same} (difference {one.more.value:+.2f}{error}) and {one.target:.2f} in the target"
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _name(judged: Judged) -> str:
    return judged.course.name or "levels"


def _back(judged: Judged) -> dict[str, Any]:
    """The first level at which knowledge is back, by any metric and by each (None: at none), that which tells most, and
    those that ruin the model."""
    levels = judged.course.levels
    return {
        "first": None if judged.first is None else levels[judged.first].at,
        **{
            metric: next((level.at for level, one in zip(levels, judged.found, strict=True) if one[metric].back), None)
            for metric in judged.found[0]
        },
        "most_at": levels[judged.telling].at,
        "ruined_at": [level.at for level, bad in zip(levels, judged.ruined, strict=True) if bad],
    }


def _figures(course: Course) -> list[dict[str, Any]]:
    def series(values: Callable[[Seen], Any]) -> dict[str, Any]:
        return {
            model: [
                [level.at, (one := _score(values(seen), 0)).value, one.stderr]
                for level, seen in zip(course.levels, every, strict=True)
            ]
            for model, every in course.seen.items()
        }

    made: list[tuple[str, str, Callable[[Seen], Any]]] = [
        (_WORDS[metric], metric, partial(_mean, metric)) for metric in METRICS
    ]
    if all(one.kept is not None for every in course.seen.values() for one in every):
        made.append(("the probability of retain answers", "probability", lambda seen: seen.kept))
    return [
        {"title": f"{course.title}: {what}", "x": course.axis, "y": metric, "series": series(values)}
        for what, metric, values in made
    ]


def _mean(metric: str, seen: Seen) -> np.ndarray:
    return seen.answers.mean(metric)


def _samples(rows: Sequence[Row], courses: Sequence[Course], judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The rows of which the erased model gives away most, where it came back first or at the last level."""
    came = [one for one in judged if one.first is not None]
    course = came[0].course if came else courses[0]
    place = came[0].first if came and came[0].first is not None else len(course.levels) - 1
    answers = {model: seen[place].answers for model, seen in course.seen.items()}
    leaked = np.nan_to_num(answers["erased"].leakage, nan=-1.0)
    found = []
    for row in np.argsort(-leaked.max(0), kind="stable")[:_SAMPLES].tolist():
        draw = int(leaked[:, row].argmax())
        found.append(
            {
                "way": course.levels[place].words,
                "source": rows[row].source,
                "prompt": rows[row].prompt,
                "expected": rows[row].answer,
                "answers": {model: one.answers[min(draw, len(one.answers) - 1)][row] for model, one in answers.items()},
            }
        )
    return found
