"""What an attack got beyond the retrained model: paired differences, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from expunge.audits.interface import Audited, AuditResult, Label, ModelName
from expunge.audits.parts.answers import METRICS, Answers
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import mean_stderr
from expunge.requests.rows import Row

LEAST_ROWS = 5
"""Fewer rows prove no absence: were there as much as a difference in each of four, a sign test would give it 1/16."""
_LEVEL = 0.05
_LEAST = 0.01  # less is of no use to anybody, however sure
_SAMPLES = 10
_WORDS = {"leakage": "words of the answers", "rouge": "ROUGE-L", "probability": "probability of the answers"}


@dataclass(frozen=True)
class Beyond:
    """The mean over n rows of erased less retrained. ``sure``: it is 0.01 at least, and above 0 by a one-sided t-test
    at 5%, shared among all differences of the audit (Bonferroni)."""

    value: float
    stderr: float | None
    n: int
    sure: bool

    @property
    def statistic(self) -> float:
        """The difference in standard errors."""
        if self.value == 0 or self.stderr is None:
            return 0.0
        return self.value / self.stderr if self.stderr > 0 else float(np.copysign(np.inf, self.value))


def beyond(erased: np.ndarray, retrained: np.ndarray, *, tests: int = 1) -> Beyond:
    """Compare two models row by row.

    Args:
        erased: [n] values, NaN where a row defines none.
        retrained: [n] of the same rows.
        tests: how many differences are judged together.
    """
    from scipy.stats import t

    differences = erased - retrained
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n == 0:
        return Beyond(float("nan"), None, 0, False)
    found = Beyond(float(differences.mean()), mean_stderr(differences), n, False)
    sure = n > 1 and found.value >= _LEAST and found.statistic > float(t.ppf(1 - _LEVEL / tests, n - 1))
    return Beyond(found.value, found.stderr, n, sure)


def upper_end(value: float, stderr: float | None, n: int, *, tests: int = 1) -> float:
    """The upper end of the one-sided interval of a mean of n values at the level of :func:`beyond`; infinite where the
    values are too few to have an error."""
    from scipy.stats import t

    if stderr is None or n < 2:
        return float("inf")
    return value + stderr * float(t.ppf(1 - _LEVEL / tests, n - 1))


def unproven(known: Iterable[Beyond]) -> str | None:
    """Why nothing follows where the erased model has surely no more than the retrained one; None where something does.

    Args:
        known: what the target has beyond the retrained model, judged together as the erased model's differences are.
    """
    known = list(known)
    rows = max(one.n for one in known)
    if rows < LEAST_ROWS:
        return f"That says little: {rows_of(rows)} cannot prove that nothing is left. Pass {LEAST_ROWS} at least."
    if not any(one.sure for one in known):
        return (
            f"But the target itself gives away surely no more of these {rows} rows than a model that never knew, so "
            "there was nothing to erase that this would find."
        )
    return None


def rows_of(count: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} row" + ("" if count == 1 else "s")


def mean_score(values: np.ndarray, version: int) -> Score:
    """The mean of ``values`` [n] that are finite, with its standard error; NaN of none."""
    kept = values[np.isfinite(values)]
    return Score(float(kept.mean()) if len(kept) else float("nan"), mean_stderr(kept), len(kept), version)


Part = Literal["mean", "best"]


def attack_result(
    name: str,
    version: int,
    audited: Audited,
    rows: Sequence[Row],
    *,
    plain: Mapping[ModelName, Answers],
    attacked: Mapping[ModelName, Answers],
    doing: str,
    details: Mapping[str, Any] | None = None,
    curves: Sequence[Mapping[str, Any]] | None = None,
) -> AuditResult:
    """The result of asking ``rows`` in other ways.

    Scores are ``forget_<metric>`` (asked plainly), ``<name>_<metric>`` (the mean over ways), where there are several
    ways ``<name>_best_<metric>`` (the way that gets most from the row; for every model alike), and beside the retrained
    model ``.._beyond_retrained``, the paired difference.

    Args:
        doing: what was done, to begin the sentence with (``"Asked in 9 other ways"``).
    """
    several = len(attacked["erased"].ways) > 1
    parts: tuple[Part, ...] = ("mean", "best") if several else ("mean",)
    scores: dict[str, dict[str, Score]] = {}
    for model in audited.models:
        plainly = {f"forget_{metric}": mean_score(plain[model].mean(metric), version) for metric in METRICS}
        scores[model] = plainly | {
            _key(name, part, metric): mean_score(_values(attacked[model], part, metric), version)
            for part in parts
            for metric in METRICS
        }
    gained = _against_retrained("erased", plain, attacked, parts)
    known = _against_retrained("target", plain, attacked, parts)
    for (part, metric), one in gained.attacked.items():
        key = f"{_key(name, part, metric)}_beyond_retrained"
        scores["erased"][key] = Score(one.value, one.stderr, one.n, version)
    for metric, one in gained.plainly.items():
        scores["erased"][f"forget_{metric}_beyond_retrained"] = Score(one.value, one.stderr, one.n, version)
    label, sentence = _verdict(audited, doing, scores["erased"], gained, known, name, len(rows))
    return AuditResult(
        scores,
        label,
        sentence,
        {"rows": len(rows), "ways": list(attacked["erased"].ways), **(details or {})},
        curves if curves is not None else _by_way(attacked) if several else (),
        _samples(rows, attacked),
    )


def _key(name: str, part: Part, metric: str) -> str:
    return f"{name}_{metric}" if part == "mean" else f"{name}_best_{metric}"


def _values(answers: Answers, part: Part, metric: str) -> np.ndarray:
    return answers.mean(metric) if part == "mean" else answers.best(metric)


@dataclass(frozen=True)
class _Against:
    """What a model has beyond the retrained one: by the attack, and asked plainly. Nothing without a retrained one."""

    attacked: Mapping[tuple[Part, str], Beyond]
    plainly: Mapping[str, Beyond]

    def all(self) -> list[Beyond]:
        return [*self.attacked.values(), *self.plainly.values()]

    @property
    def sure(self) -> list[tuple[Part, str]]:
        """Where the attack gets surely more."""
        return [key for key, one in self.attacked.items() if one.sure]

    @property
    def plainly_sure(self) -> list[str]:
        """The scores in which plain questions get surely more."""
        return [metric for metric, one in self.plainly.items() if one.sure]


def _against_retrained(
    model: ModelName,
    plain: Mapping[ModelName, Answers],
    attacked: Mapping[ModelName, Answers],
    parts: Sequence[Part],
) -> _Against:
    if "retrained" not in attacked:
        return _Against({}, {})
    tests = (len(parts) + 1) * len(METRICS)  # plain questions too make the label
    by_attack = {
        (part, metric): beyond(
            _values(attacked[model], part, metric), _values(attacked["retrained"], part, metric), tests=tests
        )
        for part in parts
        for metric in METRICS
    }
    plainly = {
        metric: beyond(plain[model].mean(metric), plain["retrained"].mean(metric), tests=tests) for metric in METRICS
    }
    return _Against(by_attack, plainly)


def _verdict(
    audited: Audited,
    doing: str,
    scores: Mapping[str, Score],
    erased: _Against,
    target: _Against,
    name: str,
    asked: int,
) -> tuple[Label, str]:
    # leakage is of English content words, which some answers do not have; the probability is there always
    metric = "leakage" if scores[f"{name}_leakage"].n else "probability"
    gives = {
        "leakage": "gives away {:.2f} of the answers' words",
        "probability": "gives the answers, which have no words that leakage counts, a probability of {:.3f}",
    }[metric]
    ways, asked_plainly = scores[f"{name}_{metric}"], scores[f"forget_{metric}"]
    others = "" if ways.n == asked else f" that have such words, {asked} asked"
    said = f"{doing}, the erased model {gives.format(ways.value)} ({rows_of(ways.n)}{others})"
    if not erased.attacked:
        return "no claim", (
            f"{said}, asked plainly {asked_plainly.value:.2f}. How much of that a model that never knew "
            "would say takes a retrained model to tell: pass one (--retrained)."
        )
    if all(one.stderr is None for one in erased.attacked.values()):
        return "no claim", f"{said}. One row proves nothing: pass more."
    shown = "; ".join(
        f"{_WORDS[metric]} {_plus_minus(one)} (the target {_plus_minus(target.attacked['mean', metric])})"
        for metric in METRICS
        if (one := erased.attacked["mean", metric]).n
    )
    against = f"{said}; beyond the retrained model, row by row: {shown}."
    # more than a model that never knew is knowledge only in scores by which the target knows more, however asked
    knows = {*(metric for _, metric in target.sure), *target.plainly_sure}
    sure = [key for key in erased.sure if key[1] in knows]
    plainly = [metric for metric in erased.plainly_sure if metric in knows]
    if sure or plainly:
        return ("leaks" if plainly else "hidden"), f"{against}{_leak(erased, sure, leaks=bool(plainly))}"
    less = f"not surely more, by {_LEAST} at least, than a model that never knew says"
    if (doubt := unproven(target.all())) is not None:
        return "no claim", f"{against}{'' if erased.sure else f' That is {less}.'} {doubt}"
    if not target.sure:
        return "no claim", (
            f"{against} This attack gets surely no more than that model says out of the target either, which plain "
            f"questions do ({_listed(target.plainly)}), so that it gets nothing out of the erased model says nothing."
        )
    if (doubt := unproven(target.attacked[key] for key in target.sure)) is not None:
        return "no claim", f"{against} {_judged(target, target.sure)}, that is {less}. {doubt}"
    judged = [key for key in target.sure if target.attacked[key].n >= LEAST_ROWS]
    return audited.cleared, f"{against} {_judged(target, judged)}, that is {less}."


def _leak(erased: _Against, sure: Sequence[tuple[Part, str]], *, leaks: bool) -> str:
    """What the attack gets surely, beside what plain questions get."""
    asked = _listed(erased.plainly)
    if not sure:
        return f" Plain questions alone get surely more than from a model that never knew ({asked})."
    part, metric = max(sure, key=lambda key: erased.attacked[key].statistic)
    best = f" With the best way for each row it is {_plus_minus(erased.attacked[part, metric])} in {_WORDS[metric]}."
    more = ", ".join(_WORDS[metric] for metric in dict.fromkeys(metric for _, metric in sure))
    plain = (
        f"and so is what plain questions get ({asked})"
        if leaks
        else f"while plain questions get no more of what the target knows than from a model that never knew ({asked})"
    )
    return f"{best if part == 'best' else ''} It is surely more in {more}, {plain}."


def _judged(target: _Against, keys: Sequence[tuple[Part, str]]) -> str:
    """The scores by which the attack gets something out of the target: only there is its absence a finding."""
    found = []
    for metric in dict.fromkeys(metric for _, metric in keys):
        in_mean = ("mean", metric) in keys  # always so where there is one way
        best = "" if in_mean else f" by the best way ({_plus_minus(target.attacked['best', metric])})"
        found.append(_WORDS[metric] + best)
    return f"In {', '.join(found)}, of which this attack gets surely more out of the target"


def _listed(found: Mapping[str, Beyond]) -> str:
    return ", ".join(f"{_WORDS[metric]} {_plus_minus(one)}" for metric, one in found.items() if one.n)


def _plus_minus(one: Beyond) -> str:
    return f"{one.value:+.3f}" + ("" if one.stderr is None else f" ± {one.stderr:.3f}")


def _by_way(attacked: Mapping[ModelName, Answers]) -> list[dict[str, Any]]:
    """For each metric a figure of its mean over rows by way of asking."""
    return [
        {
            "title": f"By way of asking: {_WORDS[metric]}",
            "x": "way of asking",
            "y": metric,
            "series": {
                model: [
                    [way, (one := mean_score(values, 0)).value, one.stderr]
                    for way, values in zip(answers.ways, getattr(answers, metric), strict=True)
                ]
                for model, answers in attacked.items()
            },
        }
        for metric in METRICS
    ]


def _samples(rows: Sequence[Row], attacked: Mapping[ModelName, Answers]) -> list[dict[str, Any]]:
    """The rows of which the erased model gives away most, each asked in the way that gets most."""
    leaked = np.nan_to_num(attacked["erased"].leakage, nan=-1.0)
    order = np.argsort(-leaked.max(0), kind="stable")[:_SAMPLES].tolist()
    found = []
    for place in order:
        way = int(leaked[:, place].argmax())
        found.append(
            {
                "way": attacked["erased"].ways[way],
                "source": rows[place].source,
                "prompt": attacked["erased"].prompts[way][place],
                "expected": rows[place].answer,
                "answers": {model: answers.answers[way][place] for model, answers in attacked.items()},
            }
        )
    return found
