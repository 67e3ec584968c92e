"""Several seeds of one run, as one: medians with the smallest and the largest beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from expunge.errors import ConfigError
from expunge.evaluation.answer_judge import judged_by as answers_judged_by
from expunge.evaluation.harm import judged_by
from expunge.evaluation.verdict import judge


def summarise_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One ``scores.json`` out of those of several seeds (as read from their files).

    Every score becomes the median of its values with ``min`` and ``max``; ``stderr`` is the median of the
    seeds' own (of the examples, not of the seeds; None where one has none) and ``n`` the smallest. A score
    that not every seed has is left out with the reason. The verdict follows the same rules from the median of
    each piece of evidence that all seeds have; its reasons count the labels of the single seeds, which may
    differ. ``seconds`` are medians too. The judges of the answers, where there were any, must be the same; how they
    agree stays with the single seeds.
    """
    if not runs:
        raise ConfigError("no scores to summarise: pass those of at least one seed.")
    for name in ("schema", "suite"):
        found = sorted({str(run[name]) for run in runs})
        if len(found) > 1:
            raise ConfigError(
                f"the seeds' scores differ in their {name} ({', '.join(found)}): summarise runs of one kind."
            )
    left_out: dict[str, str] = {}
    for run in runs:
        left_out |= run["verdict"]["left_out"]
    models = [model for model in runs[0]["rows"] if all(model in run["rows"] for run in runs)]
    rows = {model: _rows([run["rows"][model] for run in runs], model, left_out) for model in models}
    labels = Counter(run["verdict"]["label"] for run in runs)
    verdict = judge(
        _medians([run["verdict"]["evidence"] for run in runs]),
        effect=runs[0]["verdict"]["effect"],
        left_out=left_out,
    ).to_json()
    counted = ", ".join(f"{label} ({count})" for label, count in labels.most_common())
    verdict["reasons"] = [
        f"Judged on the medians of {len(runs)} seeds; one by one: {counted}.",
        *verdict["reasons"],
    ]
    judged = runs[0].get("judge")
    if any(run.get("judge") != judged for run in runs):
        raise ConfigError("the seeds' answers were judged by different judges: score them with the same one.")
    if judged is not None:
        verdict["reasons"].append(judged_by(judged))
    judges = [(run.get("judges") or {}).get("answer") for run in runs]
    if any(one != judges[0] for one in judges):
        raise ConfigError("the seeds' answers were judged by different answer judges: score them with the same ones.")
    if judges[0] is not None:
        verdict["reasons"].append(answers_judged_by(judges[0]))
    return {
        "schema": runs[0]["schema"],
        "suite": runs[0]["suite"],
        "rows": rows,
        "verdict": verdict,
        "seconds": _medians([run["seconds"] for run in runs]),
        **({} if judged is None else {"judge": judged}),
        **({} if judges[0] is None else {"judges": {"answer": judges[0]}}),
    }


def _rows(runs: Sequence[Mapping[str, Any]], model: str, left_out: dict[str, str]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(key for run in runs for key in run):
        entries = [run[key] for run in runs if key in run]
        versions = sorted({entry["version"] for entry in entries})
        if len(versions) > 1:
            raise ConfigError(f"{key} has versions {versions} among the seeds: score them with the same expunge.")
        if len(entries) < len(runs):
            left_out.setdefault(key, f"{model}: only {len(entries)} of {len(runs)} seeds have a value.")
            continue
        values = [entry["value"] for entry in entries]
        errors = [entry["stderr"] for entry in entries]
        rows[key] = {
            "value": median(values),
            "stderr": None if None in errors else median(errors),
            "n": min(entry["n"] for entry in entries),
            "version": versions[0],
            "min": min(values),
            "max": max(values),
        }
    return rows


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: median(run[key] for run in runs) for key in runs[0] if all(key in run for run in runs)}
