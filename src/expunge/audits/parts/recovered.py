"""From squared errors to scores, figures and a verdict: what patching and restoration say of an erased model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.audits.interface import Audited, AuditResult, Label
from expunge.audits.parts.beyond import Beyond, beyond
from expunge.audits.parts.comparing import Change, Errors
from expunge.audits.parts.recovery import Mean, recovery_scores
from expunge.evaluation.types import Score
from expunge.requests.rows import Row

_SAMPLES = 10
LIFTED = "The erasure acts while the model runs, so whoever lifts it has the target back. While it acts: "


@dataclass(frozen=True)
class Meaning:
    """How an audit speaks: ``doing`` begins its sentence, as in ``"Patching the target's {what} into the erased
    model"``; ``what`` says it of each component, ``{layers}`` its layers; ``least`` is the recovery beyond the control
    from which on knowledge counts as hidden."""

    name: str
    version: int
    doing: str
    what: Mapping[str, str]
    least: float


class Recovered:
    """The scores of one model: ``scores`` [N] of each change, NaN where undefined, and their means."""

    def __init__(self, errors: Errors) -> None:
        self.errors = errors
        self.scores = {
            change: recovery_scores(values, errors.erased, errors.least) for change, values in errors.changed.items()
        }
        self.means = {change: Mean.of(values) for change, values in self.scores.items()}

    def of(self, component: str) -> list[Change]:
        """The component's changes in the order of their layers."""
        return sorted((one for one in self.scores if one.component == component), key=lambda one: one.centre or 0)

    def best(self, component: str) -> Change | None:
        """The change of a component that brings back most; None where nothing is defined."""
        known = [one for one in self.of(component) if self.means[one].value is not None]
        return max(known, key=lambda one: self.means[one].value or 0.0, default=None)


def recovery_result(
    meaning: Meaning,
    audited: Audited,
    rows: Sequence[Row],
    erased: Errors,
    retrained: Errors | None,
    *,
    details: Mapping[str, Any],
    answers: Sequence[str] = (),
) -> AuditResult:
    """What the audit found: ``rows`` are the N examples, in order, and ``answers`` the target's own to them."""
    ours = Recovered(erased)
    control = None if retrained is None else Recovered(retrained)
    components = list(dict.fromkeys(change.component for change in ours.scores))
    gains: dict[Change, Beyond] = {}
    if control is not None:
        tests = len(ours.scores)
        gains = {one: beyond(ours.scores[one], control.scores[one], tests=tests) for one in ours.scores}
    best = {name: change for name in components if (change := ours.best(name)) is not None}
    scores: dict[str, dict[str, Score]] = {"erased": {}}
    for name, change in best.items():
        scores["erased"][f"krs_{name}"] = _score(ours.means[change], meaning.version)
        if control is not None:
            gain = gains[change]
            scores["erased"][f"krs_{name}_beyond_retrained"] = Score(gain.value, gain.stderr, gain.n, meaning.version)
            scores.setdefault("retrained", {})[f"krs_{name}"] = _score(control.means[change], meaning.version)
    label, sentence = _verdict(meaning, audited, ours, control, gains, best)
    models = {"erased": ours} | ({} if control is None else {"retrained": control})
    return AuditResult(
        scores,
        label,
        (LIFTED if audited.at_inference else "") + sentence,
        {
            "examples": len(rows),
            "undefined": {name: int(np.isnan(_any(one)).sum()) for name, one in models.items()},
            "best": {
                name: {"layers": list(change.layers), **_facts(ours.means[change])} for name, change in best.items()
            },
            "heat": {model: {name: _heat(one, name) for name in components} for model, one in models.items()},
            "distance": {name: one.errors.distance for name, one in models.items()},
            "restarted": erased.restarted,
            **details,
        },
        [
            {
                "title": f"Knowledge recovered by {meaning.name}: {name}",
                "x": "layer",
                "y": "knowledge recovery score",
                "series": {model: _curve(one, name) for model, one in models.items()},
            }
            for name in components
            if all(change.centre is not None for change in ours.of(name))
        ],
        _samples(rows, answers, ours, best),
    )


def _verdict(
    meaning: Meaning,
    audited: Audited,
    ours: Recovered,
    control: Recovered | None,
    gains: Mapping[Change, Beyond],
    best: Mapping[str, Change],
) -> tuple[Label, str]:
    if not best:
        count = len(ours.errors.erased)
        if not ours.scores:
            return "no claim", "No layer of this model can be changed so: the reasons are among the details."
        return "no claim", (
            f"The erased model gives the target's logits in all {count} examples: nothing was erased there, so there "
            "is nothing to bring back and the score is undefined."
        )
    judged = [change for change in ours.scores if change.component != "all"] or list(ours.scores)
    top = max((one for one in best.values() if one in judged), key=lambda one: ours.means[one].value or 0.0)
    if control is None:
        said = _said(meaning, ours, top)
        return (
            "no claim",
            f"{said}. How much any model would get back so takes a retrained one to tell: pass it (--retrained).",
        )
    # beyond a control that is thrown farther off nothing need have come back
    sure = [
        change
        for change in judged
        if gains[change].sure and min(gains[change].value, ours.means[change].value or 0.0) >= meaning.least
    ]
    if not sure:
        known = control.means[top].value
        beside = "" if known is None else f", and {_percent(known)} in the retrained model"
        end = f"Nowhere is it surely {_percent(meaning.least)} or more beyond the retrained model."
        return ("suppressed" if audited.at_inference else "erased"), f"{_said(meaning, ours, top)}{beside}. {end}"
    top = max(sure, key=lambda change: ours.means[change].value or 0.0)
    known = control.means[top].value
    alike = sorted({one.centre for one in sure if one.component == top.component and one.centre is not None})
    where = f"hidden in {layers_text(alike)}" if alike else "hidden in the weights"
    beside = "" if known is None else f", and {_percent(known)} in the retrained model"
    return "hidden", f"{_said(meaning, ours, top)}{beside}: the knowledge is {where}."


def _said(meaning: Meaning, ours: Recovered, change: Change) -> str:
    mean = ours.means[change]
    what = meaning.what[change.component].format(layers=layers_text(list(change.layers)))
    between = "" if mean.n < 2 else f" (95% interval {_percent(mean.low)} to {_percent(mean.high)})"
    left = f"; {mean.undefined} more, in which nothing changed, are left out" if mean.undefined else ""
    return (
        f"{meaning.doing.format(what=what)} brings back {_percent(mean.value)}{between} of what erasing changed in the "
        f"logits of the target's answers ({mean.n} examples{left})"
    )


def _percent(share: float | None) -> str:
    return "nothing known" if share is None else f"{round(100 * share)}%"


def layers_text(layers: Sequence[int]) -> str:
    """``layer 3``, ``layers 3-4`` or ``layers 1, 3-4``, counted from 0."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(texts)}"


def _score(mean: Mean, version: int) -> Score:
    return Score(float("nan") if mean.value is None else mean.value, mean.stderr, mean.n, version)


def _facts(mean: Mean) -> dict[str, Any]:
    return {"krs": mean.value, "low": mean.low, "high": mean.high, "n": mean.n, "undefined": mean.undefined}


def _any(found: Recovered) -> np.ndarray:
    return np.where(found.errors.erased > found.errors.least, 0.0, np.nan)


def _heat(found: Recovered, component: str) -> list[list[float | int | None]]:
    """[layer, score, low, high] of each of the component's windows."""
    rows = []
    for change in found.of(component):
        mean = found.means[change]
        rows.append([change.centre, mean.value, mean.low, mean.high])
    return rows


def _curve(found: Recovered, component: str) -> list[list[float | int | None]]:
    return [[change.centre, found.means[change].value, found.means[change].stderr] for change in found.of(component)]


def _samples(
    rows: Sequence[Row], answers: Sequence[str], ours: Recovered, best: Mapping[str, Change]
) -> list[dict[str, Any]]:
    """The examples of which most comes back."""
    if not best:
        return []
    every = np.stack([ours.scores[change] for change in best.values()])
    most = np.nan_to_num(every, nan=-np.inf).max(0)
    order = [place for place in np.argsort(-most, kind="stable").tolist() if np.isfinite(most[place])][:_SAMPLES]
    return [
        {
            "source": rows[place].source,
            "prompt": rows[place].prompt,
            "expected": rows[place].answer,
            "target": answers[place] if answers else "",
            "krs": {name: float(ours.scores[change][place]) for name, change in best.items()},
        }
        for place in order
    ]
