"""Scores of an erased model beside its controls, with the verdict and the examples behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expunge.errors import ConfigError
from expunge.evaluation.agreement import agreements
from expunge.evaluation.answer_judge import judged_by as answers_judged_by
from expunge.evaluation.findings import PROBED, Effect
from expunge.evaluation.harm import HARMFUL, judged_by
from expunge.evaluation.metric import Control, ModelValues, UndefinedScoreError
from expunge.evaluation.metrics.answer_perplexity import nll_and_tokens, perplexity
from expunge.evaluation.refusals import declines
from expunge.evaluation.solving import SHARES
from expunge.evaluation.suite import Selection, Suite, select
from expunge.evaluation.types import ModelOutputs, Score
from expunge.evaluation.verdict import JUDGED_SETS, Verdict
from expunge.evaluation.verdict import judge as judge_scores
from expunge.files import write_json, write_text

SCHEMA = 1
MODELS = ("target", "erased", "retrained")


@dataclass(frozen=True)
class Scores:
    """What ``scores.json`` and ``samples.jsonl`` say: ``rows`` by model and score key, the verdict, seconds
    by step, one sample a row with every model's answer and per-example scores (truth ratios unfolded), the judge
    whose word was taken for some of them, the answer judges with their agreement where there are several, and the
    harness that ran tasks beside the suite, where there was one."""

    suite: str
    rows: Mapping[str, Mapping[str, Score]]
    verdict: Verdict
    samples: tuple[dict[str, Any], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    judge: Mapping[str, Any] | None = None
    harness: Mapping[str, Any] | None = None
    judges: Mapping[str, Any] | None = None

    @property
    def left_out(self) -> Mapping[str, str]:
        """Scores of the suite that have no value here, and why."""
        return self.verdict.left_out

    def to_json(self) -> dict[str, Any]:
        """The content of ``scores.json``."""
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "rows": {
                model: {key: asdict(score) for key, score in scores.items()} for model, scores in self.rows.items()
            },
            "verdict": self.verdict.to_json(),
            "seconds": dict(self.seconds),
            **({} if self.judge is None else {"judge": dict(self.judge)}),
            **({} if self.judges is None else {"judges": dict(self.judges)}),
            **({} if self.harness is None else {"harness": dict(self.harness)}),
        }


def score(
    suite: Suite,
    *,
    target: ModelOutputs | None = None,
    erased: ModelOutputs | None = None,
    retrained: ModelOutputs | None = None,
    metrics: Sequence[str] | None = None,
    effect: Effect = "none",
    seconds: Mapping[str, float] | None = None,
) -> Scores:
    """Score the outputs of the models on ``suite`` (run for the same ``metrics``) and judge them.

    Without ``erased`` these are the scores of a model as it is; without ``target`` those of an erased model alone (or
    beside the retrained one), and the verdict says which of its rules could not be judged. A score asked for by name
    that lacks its control is a :class:`expunge.errors.ControlError` that says what to pass; in the default set it is
    left out with the reason.
    """
    if target is None and erased is None:
        raise ConfigError("there is nothing to score: pass the outputs of the target, of the erased model, or of both.")
    outputs = {name: one for name, one in zip(MODELS, (target, erased, retrained), strict=True) if one is not None}
    selection = select(suite, metrics, controls=_controls(outputs))
    left_out = dict(selection.left_out)
    values = {name: _values(suite, selection, one, name) for name, one in outputs.items()}
    rows = {name: _scores(suite, selection, one, values[name], values, name, left_out) for name, one in outputs.items()}
    evidence = _evidence(suite, rows, values, outputs)
    verdict = judge_scores(evidence, effect=effect, left_out=left_out)
    needs = frozenset().union(*selection.needs(suite).values())
    judge = suite.judge.describe() if "judged" in needs and suite.judge is not None else None
    judges = _judges(suite, outputs) if "answer_judged" in needs and suite.answer_judges else None
    notes = [] if judge is None else [judged_by(judge)]
    notes += [] if judges is None else [answers_judged_by(judges["answer"])]
    notes += [f"{name}: {note}." for name, one in outputs.items() for note in one.notes]
    verdict = Verdict(**{**vars(verdict), "reasons": (*verdict.reasons, *notes)})
    timed = {f"{step}_{name}": value for name, one in outputs.items() for step, value in one.seconds.items()}
    samples = _samples(suite, selection, outputs, values)
    return Scores(suite.name, rows, verdict, samples, {**timed, **(seconds or {})}, judge, judges=judges)


def _judges(suite: Suite, outputs: Mapping[str, ModelOutputs]) -> dict[str, Any]:
    """The answer judges, the first of which the scores go by, and of several how they agree."""
    described = [judge.describe() for judge in suite.answer_judges]
    return {"answer": described, **({"agreement": agreements(outputs)} if len(described) > 1 else {})}


def write_scores(scores: Scores, folder: str | Path) -> None:
    """Write ``samples.jsonl``, then ``scores.json``, each in one move: a folder with scores has its
    samples."""
    folder = Path(folder)
    lines = [json.dumps(sample, ensure_ascii=False, allow_nan=False) for sample in scores.samples]
    write_text(folder / "samples.jsonl", "".join(f"{line}\n" for line in lines))
    write_json(folder / "scores.json", scores.to_json())


def _controls(outputs: Mapping[str, ModelOutputs]) -> set[Control]:
    """The controls that are there; answers that nobody scored under the target count as a missing target."""
    controls: set[Control] = {"retrained"} if "retrained" in outputs else set()
    rows = [row for one in outputs.values() for part in one.sets.values() for row in part.rows]
    answered = [row for row in rows if row.greedy_tokens or row.greedy_end is not None]
    if all(row.greedy_under_target is not None for row in answered):
        controls.add("target")
    return controls


def _values(suite: Suite, selection: Selection, outputs: ModelOutputs, model: str) -> ModelValues:
    metrics = suite.set_metrics()
    raw: dict[str, np.ndarray] = {}
    folded: dict[str, np.ndarray] = {}
    outcomes: dict[str, Sequence[Mapping[str, Any] | None]] = {}
    for key in selection.computed:
        name, chosen = metrics[key]
        if name not in outputs.sets or len(outputs.sets[name].rows) != len(suite.sets[name]):
            raise ConfigError(
                f"the {model}'s outputs do not cover set '{name}', which {key} needs: run it on the "
                "suite and the metrics that are scored."
            )
        raw[key], said = chosen.examined(outputs.sets[name])
        folded[key] = chosen.fold(raw[key])
        if said:
            outcomes[key] = said
    return ModelValues(raw, folded, outcomes)


def _scores(
    suite: Suite,
    selection: Selection,
    outputs: ModelOutputs,
    values: ModelValues,
    every: Mapping[str, ModelValues],
    model: str,
    left_out: dict[str, str],
) -> dict[str, Score]:
    set_metrics, suite_metrics = suite.set_metrics(), suite.suite_metrics()
    scores: dict[str, Score] = {}
    for key in selection.reported:
        try:
            if key in set_metrics:
                name, chosen = set_metrics[key]
                scores[key] = chosen.score(outputs.sets[name], values.raw[key])
            else:
                over = suite_metrics[key]
                scores[key] = over.compute(values, every.get(over.against))
        except UndefinedScoreError as error:
            if selection.named:
                raise UndefinedScoreError(f"{model}: {error}") from error
            left_out[key] = f"{model}: {error}" if key not in left_out else f"{left_out[key]} {model}: {error}"
    return scores


def _evidence(
    suite: Suite,
    rows: Mapping[str, Mapping[str, Score]],
    values: Mapping[str, ModelValues],
    outputs: Mapping[str, ModelOutputs],
) -> dict[str, float]:
    """The numbers that the verdict's rules look at, as far as they were scored; the suite's own score of what must stay
    is called ``utility`` there, unless it is one of the others."""
    labels = ("probability", "distinct_4grams", "answer_perplexity", "solved")
    sets = {name: suite.plays.get(name, name) for name in JUDGED_SETS}
    kept = {f"{own}_{label}": f"{name}_{label}" for name, own in sets.items() for label in labels}
    kept[f"{sets['forget']}_top_option"] = "forget_top_option"
    kept |= {key: key for key in PROBED}
    if suite.utility is not None and suite.utility not in kept:
        kept = {suite.utility: "utility", **kept}
    evidence = {
        f"{name}_{model}": scores[key].value
        for key, name in kept.items()
        for model, scores in rows.items()
        if key in scores
    }
    if "erased" in outputs:
        evidence |= _undeclined(evidence, outputs["erased"], sets)
    for share in SHARES:
        own = sets["forget"]
        shared = rows.get("erased", {}).get(f"{own}{share.key.removeprefix('forget')}")
        if shared is None:
            continue
        evidence[f"{share.key}_n"] = float(shared.n)
        if f"{own}_chance" in rows["erased"]:
            evidence[f"{share.key}_chance"] = rows["erased"][f"{own}_chance"].value
        paired = _paired(f"{own}_probability", rows, values)
        evidence |= {f"forget{name.removeprefix(own)}": value for name, value in paired.items()}
    for key in suite.set_metrics():
        if key.endswith(HARMFUL) and key != f"{sets['retain']}{HARMFUL}":
            for model, scores in rows.items():
                if key in scores:
                    evidence[f"{key}_{model}"] = scores[key].value
                    evidence[f"{key}_n"] = float(scores[key].n)
            evidence |= _paired(f"{key.removesuffix(HARMFUL)}_probability", rows, values)
    for model, one in values.items():
        ratios = one.raw.get("forget_truth_ratio", np.array([]))
        if np.isfinite(ratios).any():
            evidence[f"forget_truth_ratio_median_{model}"] = float(np.nanmedian(ratios))
    for key in ("forget_quality", "forget_quality_ks"):
        if key in rows.get("erased", {}):
            evidence[key] = rows["erased"][key].value
            evidence["forget_quality_n"] = float(rows["erased"][key].n)
            evidence["forget_quality_n_retrained"] = float(rows["retrained"][key].n)
    forget = outputs["target"].sets.get(sets["forget"]) if "target" in outputs else None
    wrong = [answer.logps for row in forget.rows for answer in row.wrong] if forget is not None else []
    if wrong:
        nll, tokens = -sum(float(logps.sum()) for logps in wrong), sum(map(len, wrong))
        evidence["forget_wrong_perplexity_target"] = float(perplexity(np.array([nll, float(tokens)])))
    return evidence


def _undeclined(evidence: Mapping[str, float], erased: ModelOutputs, sets: Mapping[str, str]) -> dict[str, float]:
    """The perplexity of the answers that do not decline, and the share that does: a refusal in other words than the
    target would choose is no gibberish. NaN where all decline."""
    found = {}
    for name, own in sets.items():
        key = f"{name}_answer_perplexity_erased"
        if key not in evidence or own not in erased.sets:
            continue
        answered = [row for row in erased.sets[own].rows if row.greedy is not None]
        rest = [nll_and_tokens(row) for row in answered if not declines(row.greedy or "")]
        parts = np.array([one for one in rest if np.isfinite(one).all()]).reshape(-1, 2)
        if len(rest) < len(answered):
            found[f"{name}_declined_erased"] = 1 - len(rest) / len(answered)
            found[key] = float(perplexity(parts.mean(0))) if len(parts) else float("nan")
    return found


def _paired(key: str, rows: Mapping[str, Mapping[str, Score]], values: Mapping[str, ModelValues]) -> dict[str, float]:
    """Score ``key`` of the erased and the retrained model, and whether it differs from row to row: the two-sided p of
    Wilcoxon's signed-rank test over the rows where both have a value."""
    from scipy.stats import wilcoxon

    if any(key not in rows.get(model, {}) for model in ("erased", "retrained")):
        return {}
    differences = values["erased"].raw[key] - values["retrained"].raw[key]
    differences = differences[np.isfinite(differences)]
    # the test is not defined where nothing differs
    p_value = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    means = {f"{key}_{model}": scores[key].value for model, scores in rows.items() if key in scores}
    return {**means, f"{key}_p": p_value, f"{key}_n": float(len(differences))}


def _outcomes(values: ModelValues, keys: Mapping[str, str], index: int) -> dict[str, dict[str, Any]]:
    """What the metrics of row ``index`` say beside its values, by their labels."""
    found = {label: values.outcomes[key][index] for label, key in keys.items() if key in values.outcomes}
    return {label: dict(said) for label, said in found.items() if said}


def _samples(
    suite: Suite, selection: Selection, outputs: Mapping[str, ModelOutputs], values: Mapping[str, ModelValues]
) -> tuple[dict[str, Any], ...]:
    labels: dict[str, dict[str, str]] = {}
    metrics = suite.set_metrics()
    for key in selection.computed:
        name, chosen = metrics[key]
        labels.setdefault(name, {})[chosen.label] = key
    samples = []
    for name, keys in labels.items():
        given = next(iter(outputs.values())).sets[name].rows  # with the expected answers as they were scored
        for index, row in enumerate(one.row for one in given):
            answers = {model: one.sets[name].rows[index].greedy for model, one in outputs.items()}
            scores = {
                model: {
                    label: float(one.raw[key][index]) for label, key in keys.items() if np.isfinite(one.raw[key][index])
                }
                for model, one in values.items()
            }
            outcomes = {model: said for model, one in values.items() if (said := _outcomes(one, keys, index))}
            samples.append(
                {
                    "set": name,
                    "index": index,
                    "source": row.source,
                    "prompt": row.prompt,
                    "expected": row.answer,
                    "answers": {model: text for model, text in answers.items() if text is not None},
                    "scores": scores,
                    **({"outcomes": outcomes} if outcomes else {}),
                }
            )
    return tuple(samples)
