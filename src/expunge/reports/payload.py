"""What the page's scripts draw: points, distributions, curves and examples, as one JSON document."""

from __future__ import annotations

import json
from typing import Any

from expunge.reports.groups import Group
from expunge.reports.load import Run, finite

AXES = ("forget_probability", "retain_probability", "model_utility")
_LOSS = "loss"
_ALWAYS = ("step", "epoch", "learning_rate", "grad_norm")  # logged by every run, whatever the method


def payload(runs: list[Run], groups: list[Group]) -> dict[str, Any]:
    """The page's data. Lists of numbers hold None in place of NaN and infinity, which JSON does not know."""
    group_of = {run: at for at, group in enumerate(groups) for run in group.runs}
    return {
        "runs": [{"name": run.label, "group": group_of.get(at)} for at, run in enumerate(runs)],
        "groups": [
            {"title": group.title, "points": _points(group, runs), "truth": truth_ratios(group, runs)}
            for group in groups
        ],
        "training": [curves for at, run in enumerate(runs) if (curves := training_curves(at, run))],
        "examples": examples(runs, group_of),
    }


def to_script(data: Any) -> str:
    """JSON that is inert inside a ``<script>`` element: no ``<``, ``>`` or ``&`` and no line separators are
    left."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _point(row: dict[str, dict[str, Any]]) -> dict[str, Any]:
    keys = ("value", "stderr", "min", "max", "n")
    return {m: {k: finite(row[m].get(k)) for k in keys if row[m].get(k) is not None} for m in AXES if m in row}


def _points(group: Group, runs: list[Run]) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for name, row in (("target", group.target), ("retrained", group.retrained)):
        if row:
            points.append({"name": name.capitalize(), "kind": name, "metrics": _point(row), "seeds": []})
    for at in group.runs:
        if "erased" in runs[at].rows:
            seeds = [_point(seed.rows["erased"]) for seed in runs[at].seeds if "erased" in seed.rows]
            points.append(
                {
                    "name": runs[at].label,
                    "kind": "erased",
                    "run": at,
                    "metrics": _point(runs[at].rows["erased"]),
                    "seeds": seeds,
                }
            )
    return points


def truth_ratios(group: Group, runs: list[Run]) -> list[dict[str, Any]]:
    """The forget rows' truth ratios by model: ``values`` are the positive finite ones, ``left_out`` counts
    the rest."""

    def of(run: Run, model: str) -> list[object]:
        rows = [row for row in run.samples if row["set"] == "forget"]
        found = [(row.get("scores") or {}).get(model, {}).get("truth_ratio") for row in rows]
        return [value for value in found if value is not None]

    models: list[tuple[str, str, int | None, list[object]]] = []
    first = runs[group.runs[0]]
    models.append(("Target", "target", None, of(first, "target")))
    models += [(runs[at].label, "erased", at, of(runs[at], "erased")) for at in group.runs]
    models.append(("Retrained", "retrained", None, of(first, "retrained")))
    drawn = []
    for name, kind, run, found in models:
        values = [v for v in map(finite, found) if v is not None and v > 0]
        if values:
            drawn.append(
                {
                    "name": name,
                    "kind": kind,
                    "run": run,
                    "values": values,
                    "left_out": len(found) - len(values),
                }
            )
    return drawn


def training_curves(at: int, run: Run) -> dict[str, Any] | None:
    """Losses and scores over the steps, one series a seed; None for a run that trained nothing.

    ``losses`` names the loss and its terms, as the method logged them, ``state`` the method's other numbers (a dual
    variable, ..); each series has their values by these names.
    """
    logs = [seed.training for seed in run.seeds if seed.training] or ([run.training] if run.training else [])
    names = list(dict.fromkeys(name for log in logs for row in log for name in row if _is_number(row[name])))
    losses = sorted((name for name in names if name == _LOSS or name.endswith(f"_{_LOSS}")), key=_place)
    state = [name for name in names if name not in (*losses, *_ALWAYS)]
    series = []
    for log in logs:
        logged = [row for row in log if any(name in row for name in (*losses, *state))]
        scored = [row for row in log if isinstance(row.get("scores"), dict)]
        series.append(
            {
                "steps": [finite(row.get("step")) for row in logged],
                "losses": {name: [finite(row.get(name)) for row in logged] for name in losses},
                "state": {name: [finite(row.get(name)) for row in logged] for name in state},
                "scored": [finite(row.get("step")) for row in scored],
                **{name: [finite(row["scores"].get(name)) for row in scored] for name in AXES[:2]},
            }
        )
    return {"run": at, "losses": losses, "state": state, "series": series} if series else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _place(name: str) -> int:
    """The whole loss first, then the terms that most methods have."""
    first = (_LOSS, f"forget_{_LOSS}", f"retain_{_LOSS}")
    return first.index(name) if name in first else len(first)


def examples(runs: list[Run], group_of: dict[int, int]) -> list[dict[str, Any]]:
    """Every row once, with the answers of all runs that share it. Runs whose target or retrained model
    answered otherwise get an entry of their own, so that nothing is shown beside answers of another
    control."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for at, run in enumerate(runs):
        for row in run.samples:
            answers = {model: text for model, text in row["answers"].items() if text is not None}
            controls = {model: text for model, text in answers.items() if model != "erased"}
            key = (group_of.get(at), row["set"], row["index"], row["prompt"], *sorted(controls.items()))
            if key not in merged:
                merged[key] = {
                    "set": str(row["set"]),
                    "index": row["index"],
                    "source": str(row.get("source") or ""),
                    "prompt": str(row["prompt"]),
                    "expected": str(row["expected"]),
                    "controls": {model: _answer(row, model, text) for model, text in controls.items()},
                    "erased": {},
                }
            if "erased" in answers:
                merged[key]["erased"][str(at)] = _answer(row, "erased", answers["erased"])
    return list(merged.values())


def _answer(row: dict[str, Any], model: str, text: object) -> dict[str, Any]:
    """One model's answer to a row, with its scores and how its code ended, where it was run."""
    ended = [
        ": ".join(str(said[name]) for name in ("verdict", "detail") if said.get(name))
        for said in ((row.get("outcomes") or {}).get(model) or {}).values()
    ]
    scores = _scores((row.get("scores") or {}).get(model))
    return {"text": str(text), "scores": scores, **({"ended": "; ".join(ended)} if any(ended) else {})}


def _scores(scores: object) -> dict[str, float]:
    if not isinstance(scores, dict):
        return {}
    return {str(k): round(v, 6) for k, raw in scores.items() if (v := finite(raw)) is not None}
