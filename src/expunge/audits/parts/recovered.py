"""From squared errors to scores, figures and a verdict: what patching and restoration say of an erased model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

import numpy as np

from expunge.audits.interface import Audited, AuditResult, Label
from expunge.audits.parts.beyond import Beyond, beyond, upper_end
from expunge.audits.parts.comparing import Change, Errors
from expunge.audits.parts.recovery import Mean, recovery_scores
from expunge.evaluation.types import Score
from expunge.requests.rows import Row

CHECKS = frozenset({"residual", "all"})
"""Components that bring the target's logits back by construction, whatever the erased model knows: never judged."""

_SAMPLES = 10
_REASON = 100  # characters of why windows were left out
LIFTED = "The erasure acts while the model runs, so whoever lifts it has the target back. While it acts: "


@dataclass(frozen=True)
class Meaning:
    """How an audit speaks: ``doing`` begins its sentence, as in ``"Patching the target's {what} into the erased
    model"``; ``what`` says it of each component, ``{layers}`` its layers; ``least`` is the recovery beyond the control
    from which on knowledge counts as hidden; ``skipped`` says of windows that cannot be changed (``"mlp 0"``, by
    component and centre) why."""

    name: str
    version: int
    doing: str
    what: Mapping[str, str]
    least: float
    skipped: Mapping[str, str] = field(default_factory=dict)


class Recovered:
    """The scores of one model: ``scores`` [N] of each change, NaN where undefined, and their means."""

    def __init__(self, errors: Errors) -> None:
        self.errors = errors
        self.scores = {
            change: recovery_scores(values, errors.erased, errors.least) for change, values in errors.changed.items()
        }
        self.means = {change: Mean.of(values) for change, values in self.scores.items()}
        self.undefined = int((errors.erased <= errors.least).sum())
        self.defined = len(errors.erased) - self.undefined

    def value(self, change: Change) -> float:
        """The mean score of a change; below all others where it is undefined."""
        value = self.means[change].value
        return -np.inf if value is None else value

    def of(self, component: str) -> list[Change]:
        """The component's changes in the order of their layers."""
        return sorted((one for one in self.scores if one.component == component), key=lambda one: one.centre or 0)

    def best(self, component: str) -> Change | None:
        """The change of a component that brings back most; None where nothing is defined."""
        known = [one for one in self.of(component) if self.means[one].value is not None]
        return max(known, key=self.value, default=None)


def recovery_result(
    meaning: Meaning,
    audited: Audited,
    rows: Sequence[Row],
    erased: Errors,
    retrained: Errors | None,
    *,
    details: Mapping[str, Any],
    answers: Sequence[str] = (),
    left_out: str = "",
) -> AuditResult:
    """What the audit found: ``rows`` are the N examples, in order, and ``answers`` the target's own to them;
    ``left_out`` says why a retrained model that was passed is no control."""
    ours = Recovered(erased)
    control = None if retrained is None else Recovered(retrained)
    components = list(dict.fromkeys(change.component for change in ours.scores))
    gains: dict[Change, Beyond] = {}
    if control is not None:
        tests = max(1, len(_judged(ours)))
        gains = {one: beyond(ours.scores[one], control.scores[one], tests=tests) for one in ours.scores}
    best = {name: change for name in components if (change := ours.best(name)) is not None}
    scores: dict[str, dict[str, Score]] = {"erased": {}}
    for name, change in best.items():
        scores["erased"][f"krs_{name}"] = _score(ours.means[change], meaning.version)
        if control is not None:
            gain = gains[change]
            scores["erased"][f"krs_{name}_beyond_retrained"] = Score(gain.value, gain.stderr, gain.n, meaning.version)
            scores.setdefault("retrained", {})[f"krs_{name}"] = _score(control.means[change], meaning.version)
    label, sentence = _verdict(meaning, audited, ours, control, gains, left_out)
    models = {"erased": ours} | ({} if control is None else {"retrained": control})
    return AuditResult(
        scores,
        label,
        (LIFTED if audited.at_inference else "") + sentence,
        {
            "examples": len(rows),
            "undefined": {name: one.undefined for name, one in models.items()},
            "best": {name: _best(change, ours.means[change]) for name, change in best.items()},
            "heat": {model: {name: _heat(one, name) for name in components} for model, one in models.items()},
            "distance": {name: one.errors.distance for name, one in models.items()},
            "log_probability": {
                "target": float(erased.target_logps.mean()),
                **{name: float(one.errors.logps.mean()) for name, one in models.items()},
            },
            "restarted": erased.restarted,
            **({"control_left_out": left_out} if left_out else {}),
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


def _judged(ours: Recovered) -> list[Change]:
    return [change for change in ours.scores if change.component not in CHECKS]


def _verdict(
    meaning: Meaning,
    audited: Audited,
    ours: Recovered,
    control: Recovered | None,
    gains: Mapping[Change, Beyond],
    left_out: str,
) -> tuple[Label, str]:
    judged = _judged(ours)
    if not judged:
        names = " and ".join(dict.fromkeys(change.component for change in ours.scores))
        return "no claim", (
            f"With {names} the target's logits come back by construction, whatever the erased model knows: that is a "
            "check, and nothing follows from it. Choose other components."
        )
    plain = "" if control is None else _told_plainly(ours.errors, control.errors)
    if not ours.defined:
        return ("leaks" if plain else "no claim"), (
            f"{plain}The erased model gives the target's logits in {_examples(ours.undefined, 'all ')}: nothing was "
            "erased there, so there is nothing to bring back and the score is undefined."
        )
    top = max(judged, key=ours.value)
    said, skipped = _said(meaning, ours, top), _skipped(meaning)
    if control is None:
        why = (
            f"The retrained model is no control here: {left_out}"
            if left_out
            else "How much any model would get back so takes a retrained one to tell: pass it (--retrained)."
        )
        return "no claim", f"{said}. {why}{skipped}"
    if not control.defined:
        return "no claim", f"{said}. The retrained model gives the target's logits: is it the target?{skipped}"
    # beyond a control that is thrown farther off nothing need have come back
    sure = [one for one in judged if gains[one].sure and min(gains[one].value, ours.value(one)) >= meaning.least]
    if sure:
        top = max(sure, key=ours.value)
    said = f"{_said(meaning, ours, top)}, and {_percent(control.means[top].value)} in the retrained model"
    if plain:
        return "leaks", f"{plain}{said}.{skipped}"
    if sure:
        return "hidden", f"{said}: the knowledge is hidden {_where(meaning, top, sure)}.{skipped}"
    n = gains[top].n
    if n < 2:
        proves = "One example proves nothing" if n else "No example tells both models from the target"
        return "no claim", f"{said}. {proves}: pass more.{skipped}"
    end = f"Nowhere is it surely {_percent(meaning.least)} or more beyond the retrained model"
    if meaning.skipped:
        return "no claim", f"{said}. {end}, but not every window was looked at.{skipped}"
    if not all(_ruled_out(gains[one], ours.means[one], meaning.least, len(judged)) for one in judged):
        return "no claim", f"{said}. {end}, but {_examples(n)} are too few to rule it out: pass more."
    return audited.cleared, f"{said}. {end}."


def _told_plainly(ours: Errors, control: Errors) -> str:
    """What is said where the erased model, left as it is, gives the answers at least half of the way from the retrained
    model to the target, surely; else nothing. Less than half can be no more than two trainings differ by."""
    known, kept = beyond(ours.target_logps, control.logps), beyond(ours.logps, control.logps)
    if not (known.sure and kept.sure and kept.value >= known.value / 2):
        return ""
    return (
        f"It still gives the answers plainly (mean log-probability {ours.logps.mean():.2f}; target "
        f"{ours.target_logps.mean():.2f}, retrained {control.logps.mean():.2f}). "
    )


def _ruled_out(gain: Beyond, own: Mean, least: float, tests: int) -> bool:
    """Whether what comes back, or that beyond the control, surely stays below ``least``."""
    means = ((gain.value, gain.stderr, gain.n), (own.value, own.stderr, own.n))
    return any(value is not None and upper_end(value, stderr, n, tests=tests) < least for value, stderr, n in means)


def _where(meaning: Meaning, top: Change, sure: Sequence[Change]) -> str:
    """The layers that all sure windows of the top one's component share; those they stand around, if there are none."""
    alike = [one for one in sure if one.component == top.component]
    centres = sorted({one.centre for one in alike if one.centre is not None})
    if not centres:
        return f"in the {meaning.what[top.component]}"
    if all(len(one.layers) == 1 for one in alike):
        return f"in {layers_text(centres)}"
    shared = set.intersection(*(set(one.layers) for one in alike))
    return f"in {layers_text(sorted(shared))}" if shared else f"in windows around {layers_text(centres)}"


def _skipped(meaning: Meaning) -> str:
    """Which windows were left out, and the first reason; nothing where none was."""
    centres: dict[str, list[int]] = {}
    for window in meaning.skipped:
        name, _, centre = window.rpartition(" ")
        centres.setdefault(name, []).append(int(centre))
    if not centres:
        return ""
    parts = [meaning.what[name].format(layers=f"windows around {layers_text(at)}") for name, at in centres.items()]
    reason = shorten(next(iter(meaning.skipped.values())), _REASON, placeholder=" ..")
    return f" Left out: {'; '.join(parts)} ({reason})."


def _said(meaning: Meaning, ours: Recovered, change: Change) -> str:
    mean = ours.means[change]
    what = meaning.what[change.component].format(layers=layers_text(list(change.layers)))
    between = "" if mean.n < 2 else f" (95% interval {_percent(mean.low)} to {_percent(mean.high)})"
    are = "is" if mean.undefined == 1 else "are"
    left = f"; {mean.undefined} more, in which nothing changed, {are} left out" if mean.undefined else ""
    return (
        f"{meaning.doing.format(what=what)} brings back {_percent(mean.value)}{between} of what erasing changed in the "
        f"logits of the target's answers ({_examples(mean.n)}{left})"
    )


def _examples(n: int, every: str = "") -> str:
    """``1 example``, ``2 examples``; of all, ``the one example``."""
    if n == 1:
        return "the one example" if every else "1 example"
    return f"{every}{n} examples"


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


def _best(change: Change, mean: Mean) -> dict[str, Any]:
    return {
        "layers": list(change.layers),
        "krs": mean.value,
        "low": mean.low,
        "high": mean.high,
        "n": mean.n,
        "undefined": mean.undefined,
    }


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
