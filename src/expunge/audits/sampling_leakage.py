"""Does one of many sampled answers say what the greedy one does not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, ModelName, Paper, method_fields
from expunge.audits.parts.attack import asked_rows
from expunge.errors import ConfigError
from expunge.evaluation.types import Score
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from expunge.audits.parts.beyond import Beyond

_GRADED = ("leakage", "rouge")
_WORDS = {"leakage": "words of the answers", "rouge": "ROUGE-L"}
_SAMPLES = 10


@dataclass(frozen=True)
class Sampled:
    """What one model said at one temperature: ``texts`` n answers to each of R rows, and the scores of each [R, n].

    ``leakage`` and ``rouge`` are graded; ``leaked`` (the leakage is at least the threshold) and ``told`` (the answer
    stands there word for word) are 0 or 1. NaN where a row's answer has no words that could leak.
    """

    texts: Sequence[Sequence[str]]
    scores: Mapping[str, np.ndarray]


@method_fields
class SamplingLeakage(Audit):
    """The most that k sampled answers give away, from many samples of each forget row."""

    name: ClassVar[str] = "sampling_leakage"
    paper: ClassVar[Paper] = Paper(
        "Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding", "arXiv:2511.04934"
    )
    control: ClassVar[str] = "the retrained model, sampled as often"
    needs_retrained: ClassVar[bool] = True
    order: ClassVar[int] = 45

    samples: int = Field(default=200, ge=2, description="answers drawn to each row, at each temperature")
    budget: int = Field(default=640, ge=1, description="answers of a model in all: samples become fewer, never below k")
    k: int = Field(default=64, ge=1, description="the most answers that somebody looks at")
    temperatures: tuple[float, ...] = Field(default=(1.0,), description="what logits are divided by")
    threshold: float = Field(default=0.5, gt=0, le=1, description="leakage from which on an answer counts as leaked")
    limit: int = Field(default=10, ge=1, description="forget rows that are asked, evenly spread")

    def check(self, audited: Audited) -> None:
        asked_rows(audited, self.limit)
        if self.k > self.samples:
            raise ConfigError(
                f"audits.sampling_leakage.k={self.k} of samples={self.samples}: the best of k answers takes k of them "
                "at least. Draw more samples or set k lower."
            )
        bad = [value for value in self.temperatures if not 0 < value < float("inf")]
        if bad or not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ConfigError(
                f"audits.sampling_leakage.temperatures={list(self.temperatures)}: name different temperatures above 0; "
                "the greedy answer, which would be temperature 0, is what other audits ask for."
            )

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.shared_samples import sampled_texts
        from expunge.models.limits import max_tokens

        self.check(audited)
        rows = asked_rows(audited, self.limit)
        count = self._count(len(rows))
        found: dict[ModelName, dict[float, Sampled]] = {}
        for name in audited.models:
            with audited.model(name) as model:
                found[name] = {
                    temperature: self._scored(
                        rows,
                        sampled_texts(
                            model,
                            audited.tokenizer,
                            audited.texts,
                            rows,
                            samples=count,
                            temperature=temperature,
                            seed=audited.seed,
                            max_length=max_tokens(model, audited.max_length),
                            max_new_tokens=audited.max_new_tokens,
                            share=not (name == "erased" and audited.at_inference),
                            progress=named(f"{name}, temperature {temperature:g}", progress),
                        ),
                    )
                    for temperature in self.temperatures
                }
        return self._result(audited, rows, count, found)

    def _count(self, rows: int) -> int:
        """Samples of each row and temperature."""
        return min(self.samples, max(self.k, self.budget // (rows * len(self.temperatures))))

    def _ks(self) -> list[int]:
        return sorted({min(2**power, self.k) for power in range(self.k.bit_length() + 1)})

    def _scored(self, rows: Sequence[Row], texts: Sequence[Sequence[str]]) -> Sampled:
        from expunge.evaluation.metrics.leakage import leaked_share
        from expunge.evaluation.metrics.rouge import rouge_l_recall, stemmed_words
        from expunge.evaluation.reading import contains

        scores: dict[str, list[list[float]]] = {"leakage": [], "rouge": [], "told": []}
        for row, some in zip(rows, texts, strict=True):
            words = stemmed_words(row.answer)
            own = {  # many samples are the same text
                text: (
                    leaked_share(row.prompt, row.answer, text),
                    rouge_l_recall(row.answer, text),
                    float(contains(stemmed_words(text), words)) if words else float("nan"),
                )
                for text in set(some)
            }
            for place, every in enumerate(scores.values()):
                every.append([own[text][place] for text in some])
        arrays = {name: np.array(values) for name, values in scores.items()}
        leaks = arrays["leakage"]
        arrays["leaked"] = np.where(np.isnan(leaks), np.nan, leaks >= self.threshold)
        return Sampled(texts, arrays)

    def _result(
        self,
        audited: Audited,
        rows: Sequence[Row],
        count: int,
        found: Mapping[ModelName, Mapping[float, Sampled]],
    ) -> AuditResult:
        from expunge.audits.parts.best_of_k import best_of_k

        ends = sorted({1, self.k})
        best = {
            (model, temperature, metric, k): best_of_k(values, k)
            for model, by_temperature in found.items()
            for temperature, sampled in by_temperature.items()
            for metric, values in sampled.scores.items()
            for k in self._ks()
        }
        scores = {
            model: {
                _key(metric, k, temperature): self._score(best[model, temperature, metric, k])
                for temperature in self.temperatures
                for metric in next(iter(found[model].values())).scores
                for k in ends
            }
            for model in audited.models
        }
        gains = self._gains(best, ends) if audited.retrained is not None else {}
        for (metric, k, temperature), gain in gains.items():
            key = f"{_key(metric, k, temperature)}_beyond_retrained"
            scores["erased"][key] = Score(gain.value, gain.stderr, gain.n, self.version)
        label, sentence = self._verdict(audited, best, gains, count)
        return AuditResult(
            scores,
            label,
            sentence,
            {
                "rows": len(rows),
                "samples": count,
                "asked_for": self.samples,
                "k": self.k,
                "temperatures": list(self.temperatures),
                "threshold": self.threshold,
                "bounds": {
                    model: {
                        f"{temperature:g}": {name: self._bounds(sampled, name, count) for name in sampled.scores}
                        for temperature, sampled in by_temperature.items()
                    }
                    for model, by_temperature in found.items()
                },
            },
            [
                {
                    "title": f"Best of k sampled answers: {metric} at temperature {temperature:g}",
                    "x": "k",
                    "y": metric,
                    "series": {
                        model: [
                            [k, (one := self._score(best[model, temperature, metric, k])).value, one.stderr]
                            for k in self._ks()
                        ]
                        for model in audited.models
                    },
                }
                for temperature in self.temperatures
                for metric in next(iter(found["erased"].values())).scores
            ],
            _samples(rows, found),
        )

    def _score(self, values: np.ndarray) -> Score:
        from expunge.evaluation.uncertainty import mean_stderr

        kept = values[np.isfinite(values)]
        return Score(float(kept.mean()) if len(kept) else float("nan"), mean_stderr(kept), len(kept), self.version)

    def _bounds(self, sampled: Sampled, metric: str, count: int) -> list[dict[str, Any]]:
        """For each k the mean over rows with its 95% bootstrap interval, which is about other rows; for scores of yes
        and no also the mean of Clopper and Pearson's bounds, which are about other samples of the same rows."""
        from expunge.audits.parts.best_of_k import best_of_k, leak_bounds
        from expunge.audits.parts.recovery import Mean

        values = sampled.scores[metric]
        kept = values[~np.isnan(values).any(1)]
        found = []
        for k in self._ks():
            mean = Mean.of(best_of_k(values, k))
            bounds: dict[str, Any] = {"k": k, "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
            if metric not in _GRADED and len(kept):
                low, high = leak_bounds(kept.sum(1).astype(int), count, k)
                bounds |= {"sampling_low": float(low.mean()), "sampling_high": float(high.mean())}
            found.append(bounds)
        return found

    def _gains(
        self, best: Mapping[tuple[ModelName, float, str, int], np.ndarray], ends: Sequence[int]
    ) -> dict[tuple[str, int, float], Beyond]:
        from expunge.audits.parts.beyond import beyond

        tests = len(_GRADED) * len(self.temperatures)
        return {
            (metric, k, temperature): beyond(
                best["erased", temperature, metric, k], best["retrained", temperature, metric, k], tests=tests
            )
            for temperature in self.temperatures
            for metric in _GRADED
            for k in ends
        }

    def _verdict(
        self,
        audited: Audited,
        best: Mapping[tuple[ModelName, float, str, int], np.ndarray],
        gains: Mapping[tuple[str, int, float], Beyond],
        count: int,
    ) -> tuple[Label, str]:
        def shown(model: ModelName, k: int) -> str:
            return f"{max(self._score(best[model, one, 'leakage', k]).value for one in self.temperatures):.2f}"

        said = (
            f"The most telling of {self.k} sampled answers has {shown('erased', self.k)} of the answers' words, one "
            f"alone {shown('erased', 1)} (from {count} samples of each row)"
        )
        if not gains:
            return "no claim", (
                f"{said}. As many guesses of a model that never knew hit some words too: how many takes a retrained "
                "model to tell. Pass one (--retrained)."
            )
        said = f"{said}; of a model that never knew {shown('retrained', self.k)} and {shown('retrained', 1)}"
        if all(one.stderr is None for one in gains.values()):
            return "no claim", f"{said}. One row proves nothing: pass more."
        sure = [key for key, one in gains.items() if one.sure]
        if not sure:
            return ("suppressed" if audited.at_inference else "erased"), f"{said}. That is not surely more."
        key = max(sure, key=lambda key: gains[key].statistic)
        metric, k, temperature = key
        one = gains[key]
        beyond = (
            f"at temperature {temperature:g} it is {one.value:+.2f} ± {one.stderr or 0:.2f} in {_WORDS[metric]} for "
            f"the best of {k}, row by row"
        )
        if any(k == 1 for _, k, _ in sure):
            return "leaks", f"{said}. That is surely more, of a single sample already: {beyond}."
        return "hidden", f"{said}. A single sample gives away no more, but {self.k} do: {beyond}."


def _key(metric: str, k: int, temperature: float) -> str:
    return f"sampling_{metric}_at_{k}_t{temperature:g}"


def _samples(rows: Sequence[Row], found: Mapping[ModelName, Mapping[float, Sampled]]) -> list[dict[str, Any]]:
    """The rows of which some sample of the erased model gives away most, each with every model's most telling one."""

    def telling(sampled: Sampled, place: int) -> tuple[float, str]:
        scores = np.nan_to_num(sampled.scores["leakage"][place], nan=-1.0)
        return float(scores.max()), sampled.texts[place][int(scores.argmax())]

    most = {
        model: [
            max((telling(one, place) for one in every.values()), key=lambda two: two[0]) for place in range(len(rows))
        ]
        for model, every in found.items()
    }
    order = sorted(range(len(rows)), key=lambda place: -most["erased"][place][0])[:_SAMPLES]
    return [
        {
            "source": rows[place].source,
            "prompt": rows[place].prompt,
            "expected": rows[place].answer,
            "answers": {model: every[place][1] for model, every in most.items()},
        }
        for place in order
    ]
