"""What an attack got beyond the retrained model: paired differences, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from expunge.audits.interface import Audited, AuditResult, Label, ModelName
from expunge.audits.parts.answers import METRICS, Answers
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import mean_stderr
from expunge.requests.rows import Row

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
        plainly = {f"forget_{metric}": _score(plain[model].mean(metric), version) for metric in METRICS}
        scores[model] = plainly | {
            _key(name, part, metric): _score(_values(attacked[model], part, metric), version)
            for part in parts
            for metric in METRICS
        }
    gained, plain_gain = _against_retrained(plain, attacked, parts)
    for (part, metric), one in gained.items():
        key = f"{_key(name, part, metric)}_beyond_retrained"
        scores["erased"][key] = Score(one.value, one.stderr, one.n, version)
    for metric, one in plain_gain.items():
        scores["erased"][f"forget_{metric}_beyond_retrained"] = Score(one.value, one.stderr, one.n, version)
    label, sentence = _verdict(audited, doing, scores["erased"], gained, plain_gain, name)
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


def _score(values: np.ndarray, version: int) -> Score:
    kept = values[np.isfinite(values)]
    return Score(float(kept.mean()) if len(kept) else float("nan"), mean_stderr(kept), len(kept), version)


def _against_retrained(
    plain: Mapping[ModelName, Answers], attacked: Mapping[ModelName, Answers], parts: Sequence[Part]
) -> tuple[dict[tuple[Part, str], Beyond], dict[str, Beyond]]:
    if "retrained" not in attacked:
        return {}, {}
    tests = len(parts) * len(METRICS)
    gained = {
        (part, metric): beyond(
            _values(attacked["erased"], part, metric), _values(attacked["retrained"], part, metric), tests=tests
        )
        for part in parts
        for metric in METRICS
    }
    plainly = {
        metric: beyond(plain["erased"].mean(metric), plain["retrained"].mean(metric), tests=len(METRICS))
        for metric in METRICS
    }
    return gained, plainly


def _verdict(
    audited: Audited,
    doing: str,
    scores: Mapping[str, Score],
    gained: Mapping[tuple[Part, str], Beyond],
    plainly: Mapping[str, Beyond],
    name: str,
) -> tuple[Label, str]:
    said = f"{doing}, the erased model gives away {scores[f'{name}_leakage'].value:.2f} of the answers' words"
    if not gained:
        return "no claim", (
            f"{said}, asked plainly {scores['forget_leakage'].value:.2f}. How much of that a model that never knew "
            "would say takes a retrained model to tell: pass one (--retrained)."
        )
    if all(one.stderr is None for one in gained.values()):
        return "no claim", f"{said}. One row proves nothing: pass more."
    shown = "; ".join(f"{_WORDS[metric]} {_plus_minus(gained['mean', metric])}" for metric in METRICS)
    against = f"{said}; beyond the retrained model, row by row: {shown}"
    sure = [key for key in gained if gained[key].sure]
    if sure:
        part, metric = max(sure, key=lambda key: gained[key].statistic)
        best = f" With the best way for each row it is {_plus_minus(gained[part, metric])} in {_WORDS[metric]}."
        more = ", ".join(_WORDS[metric] for metric in dict.fromkeys(metric for _, metric in sure))
        asked = ", ".join(f"{_WORDS[metric]} {_plus_minus(one)}" for metric, one in plainly.items())
        known = any(one.sure for one in plainly.values())
        end = (
            f"It is surely more in {more}, and so is what plain questions get ({asked})."
            if known
            else f"It is surely more in {more}, while plain questions get no more than from a model that never knew "
            f"({asked})."
        )
        return "leaks" if known else "hidden", f"{against}.{best if part == 'best' else ''} {end}"
    rows = max(one.n for one in gained.values())
    end = f"That is not surely more, by {_LEAST} at least, than a model that never knew says ({rows} rows)."
    return ("suppressed" if audited.at_inference else "erased"), f"{against}. {end}"


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
                    [way, (one := _score(values, 0)).value, one.stderr]
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
