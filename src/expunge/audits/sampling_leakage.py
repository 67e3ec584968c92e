"""Does one of many sampled answers say what the greedy one does not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, ModelName, Paper, method_fields
from expunge.audits.parts.attack import asked_rows
from expunge.errors import ConfigError, InputError
from expunge.evaluation.types import Score
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from expunge.audits.parts.beyond import Beyond

_GRADED = ("leakage", "rouge")
_IN = {"leakage": "of the answers' words", "rouge": "of the expected words in their order (ROUGE-L)"}
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
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding", "arXiv:2511.04934"
    )
    control: ClassVar[str] = "the retrained model, sampled as often"
    needs_retrained: ClassVar[bool] = True
    order: ClassVar[int] = 17

    samples: int = Field(default=200, ge=2, description="answers drawn to each row, at each temperature")
    budget: int = Field(default=640, ge=1, description="answers of a model in all: samples become fewer, never below k")
    k: int = Field(default=64, ge=1, description="the most answers that somebody looks at")
    temperatures: tuple[float, ...] = Field(default=(1.0,), description="what logits are divided by")
    threshold: float = Field(default=0.5, gt=0, le=1, description="leakage from which on an answer counts as leaked")
    limit: int = Field(default=10, ge=1, description="forget rows that are asked, evenly spread")

    def check(self, audited: Audited) -> None:
        from expunge.evaluation.metrics.rouge import stemmed_words

        rows = asked_rows(audited, self.limit)
        if not any(stemmed_words(row.answer) for row in rows):
            answers = list(dict.fromkeys(repr(row.answer[:30]) for row in rows))
            raise InputError(
                f"{self.name} counts words of ASCII letters and digits, as ROUGE does, and no expected answer has one "
                f"(rows asked: {len(rows)}, answers: {', '.join(answers)}). Pass rows whose answers do, or leave this "
                "audit out: membership and logit_lens go by the answers' probability."
            )
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
        from expunge.audits.parts.beyond import mean_score

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
                _key(metric, k, temperature): mean_score(best[model, temperature, metric, k], self.version)
                for temperature in self.temperatures
                for metric in next(iter(found[model].values())).scores
                for k in ends
            }
            for model in audited.models
        }
        gains, known = (
            (self._gains("erased", best, ends), self._gains("target", best, ends))
            if audited.retrained is not None
            else ({}, {})
        )
        for (metric, k, temperature), gain in gains.items():
            key = f"{_key(metric, k, temperature)}_beyond_retrained"
            scores["erased"][key] = Score(gain.value, gain.stderr, gain.n, self.version)
        label, sentence = self._verdict(audited, best, gains, known, len(rows), count)
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
                            [
                                k,
                                (one := mean_score(best[model, temperature, metric, k], self.version)).value,
                                one.stderr,
                            ]
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
        self, model: ModelName, best: Mapping[tuple[ModelName, float, str, int], np.ndarray], ends: Sequence[int]
    ) -> dict[tuple[str, int, float], Beyond]:
        """What ``model`` has beyond the retrained one, by score, k and temperature, all judged together."""
        from expunge.audits.parts.beyond import beyond

        tests = len(_GRADED) * len(ends) * len(self.temperatures)
        return {
            (metric, k, temperature): beyond(
                best[model, temperature, metric, k], best["retrained", temperature, metric, k], tests=tests
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
        known: Mapping[tuple[str, int, float], Beyond],
        asked: int,
        count: int,
    ) -> tuple[Label, str]:
        from expunge.audits.parts.beyond import rows_of, unproven

        def judged(score: str) -> int:
            return int(np.isfinite(best["erased", self.temperatures[0], score, 1]).sum())

        spoken = "leakage" if judged("leakage") else "rouge"  # answers of stop words alone have no leakage

        def shown(model: ModelName, k: int) -> str:
            return f"{max(np.nanmean(best[model, one, spoken, k]) for one in self.temperatures):.2f}"

        others = "" if judged(spoken) == asked else f" that have such words, {asked} asked"
        said = (
            f"The most telling of {self.k} sampled answers has {shown('erased', self.k)} {_IN[spoken]}, one alone "
            f"{shown('erased', 1)} ({rows_of(judged(spoken))}{others}, {count} samples of each)"
        )
        if not gains:
            return "no claim", (
                f"{said}. As many guesses of a model that never knew hit some words too: how many takes a retrained "
                "model to tell. Pass one (--retrained)."
            )
        said = f"{said}; of a model that never knew {shown('retrained', self.k)} and {shown('retrained', 1)}"
        if all(one.stderr is None for one in gains.values()):
            return "no claim", f"{said}. One row proves nothing: pass more."
        # more than a model that never knew is knowledge only in scores by which the target knows more
        knows = {key[0] for key, one in known.items() if one.sure}
        more = [key for key, one in gains.items() if one.sure]
        sure = [key for key in more if key[0] in knows]
        if not sure:
            by = f" in {' and '.join(_WORDS[one] for one in _GRADED if one in knows)}" if knows and more else ""
            said = f"{said}." if more and not knows else f"{said}. That is not surely more{by}."
            if (doubt := unproven(known.values())) is not None:
                return "no claim", f"{said} {doubt}"
            return audited.cleared, said
        single = [key for key in sure if key[1] == 1]
        key = max(single or sure, key=lambda key: gains[key].statistic)
        metric, k, temperature = key
        one = gains[key]
        beyond = (
            f"at temperature {temperature:g} it is {one.value:+.2f} ± {one.stderr or 0:.2f} in {_WORDS[metric]} for "
            f"{'one' if k == 1 else f'the best of {k}'}, row by row"
        )
        if single:
            return "leaks", f"{said}. That is surely more, of a single sample already: {beyond}."
        return "hidden", f"{said}. A single sample gives away surely no more, but {self.k} do: {beyond}."


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
