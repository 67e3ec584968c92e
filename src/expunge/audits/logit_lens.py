"""Do inner layers still say the answer that the last one no longer says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, ModelName, Paper, method_fields
from expunge.errors import ModelError
from expunge.evaluation.types import Score
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from expunge.audits.parts.beyond import Beyond
    from expunge.audits.parts.layer_readings import LayerReadings

_SAMPLES = 10
_SHOWN = {
    "logps": "mean log-probability of the answer's tokens",
    "first": "probability of the answer's first token",
    "ranks": "rank of the answer's first token",
}

Readings = Mapping[ModelName, "LayerReadings"]


@dataclass(frozen=True)
class Layer:
    """What one layer shows: how far the answers are likelier than in the retrained model, in the erased model
    (``gain``) and in the target (``known``)."""

    gain: Beyond
    known: Beyond

    def shows(self, least: float) -> bool:
        """Whether the erased model surely has more of the answer here, and at least the share ``least`` of what the
        target has more."""
        return self.gain.sure and self.known.sure and self.gain.value >= least * self.known.value


@method_fields
class LogitLens(Audit):
    """Every layer's output through the model's own final norm and head: how likely it makes the answer."""

    name: ClassVar[str] = "logit_lens"
    paper: ClassVar[Paper] = Paper(
        "Eliciting Latent Predictions from Transformers with the Tuned Lens", "arXiv:2303.08112"
    )
    control: ClassVar[str] = "the retrained model's same layer"
    needs_retrained: ClassVar[bool] = True
    order: ClassVar[int] = 10

    least: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="share of the target's advantage from which on a layer shows the answer",
    )
    limit: int = Field(default=200, ge=1, description="forget rows that are read, evenly spread")

    def check(self, audited: Audited) -> None:
        from expunge.models.anatomy import decoder_layers

        given = {"target": audited.target, "erased": audited.erased, "retrained": audited.retrained}
        counts = {name: len(decoder_layers(model)) for name, model in given.items() if model is not None}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name}: {count}" for name, count in counts.items())
            raise ModelError(
                f"the models have different numbers of layers ({said}), and logit_lens compares layer by layer. Pass "
                "models of one architecture and size."
            )

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.layer_readings import layer_readings
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all
        from expunge.evaluation.suite import spread
        from expunge.models.limits import max_tokens

        self.check(audited)
        rows = spread(audited.request.forget, self.limit, option="limit")
        found: dict[ModelName, LayerReadings] = {}
        for name in audited.models:
            with audited.model(name) as model:
                examples = encode_all(
                    audited.tokenizer, audited.texts, rows, max_length=max_tokens(model, audited.max_length)
                )
                found[name] = layer_readings(model, examples, pad_id(audited.tokenizer), progress=named(name, progress))
        layers = _layers(found)
        label, sentence = self._verdict(audited, found, layers)
        return AuditResult(
            {name: self._scores(one) for name, one in found.items()},
            label,
            sentence,
            {
                "rows": len(rows),
                "beyond_retrained": [
                    {
                        "layer": number,
                        "erased": one.gain.value,
                        "erased_stderr": one.gain.stderr,
                        "target": one.known.value,
                        "shows": one.shows(self.least),
                    }
                    for number, one in enumerate(layers)
                ],
            },
            [
                {"title": f"Layers read out: {what}", "x": "layer", "y": what, "series": _series(found, field)}
                for field, what in _SHOWN.items()
            ],
            _samples(rows, found, layers),
        )

    def _scores(self, found: LayerReadings) -> dict[str, Score]:
        from expunge.evaluation.uncertainty import mean_stderr

        inner = found.first[:-1].max(0) if len(found.first) > 1 else found.first[-1]
        values = {
            "logit_lens_last": found.logps[-1],
            "logit_lens_best_inner": found.logps[:-1].max(0) if len(found.logps) > 1 else found.logps[-1],
            "logit_lens_first_token_last": found.first[-1],
            "logit_lens_first_token_best_inner": inner,
        }
        return {
            name: Score(float(some.mean()), mean_stderr(some), len(some), self.version) for name, some in values.items()
        }

    def _verdict(self, audited: Audited, found: Readings, layers: Sequence[Layer]) -> tuple[Label, str]:
        from expunge.audits.parts.recovered import LIFTED, layers_text

        last = len(found["erased"].logps) - 1
        lifted = LIFTED if audited.at_inference else ""

        def said(layer: int) -> str:
            target, erased = (float(found[name].logps[layer].mean()) for name in ("target", "erased"))
            beside = f", retrained {found['retrained'].logps[layer].mean():.2f}" if layers else ""
            return f"target {target:.2f}, erased {erased:.2f}{beside}"

        spoken = f"{lifted}Mean log-probability of the answers' tokens in the last layer: {said(last)}"
        if not layers:
            return "no claim", (
                f"{spoken}. What a layer shows of the answer in a model that never knew it takes a retrained model to "
                "tell: pass one (--retrained)."
            )
        if layers[last].gain.stderr is None:
            return "no claim", f"{spoken}. One row proves nothing: pass more."
        if not any(one.known.sure for one in layers):
            return (
                "no claim",
                f"{spoken}. No layer of the target shows the answers surely more than the retrained model's.",
            )
        telling = [number for number, one in enumerate(layers) if one.shows(self.least)]
        inner = [number for number in telling if number != last]
        if last in telling:
            also = f", and so {'do' if len(inner) > 1 else 'does'} {layers_text(inner)}" if inner else ""
            return "leaks", f"{spoken}: the last layer still says more than that of a model that never knew{also}."
        if inner:
            top = max(inner, key=lambda number: layers[number].gain.statistic)
            return "hidden", (
                f"{spoken}, no more than that of a model that never knew; the answers are hidden in "
                f"{layers_text(inner)} (layer {top}: {said(top)})."
            )
        end = "No layer shows the answers surely more than in a model that never knew them."
        return ("suppressed" if audited.at_inference else "erased"), f"{spoken}. {end}"


def _layers(found: Readings) -> list[Layer]:
    """Each layer beside the retrained model's; empty without one."""
    from expunge.audits.parts.beyond import beyond

    if "retrained" not in found:
        return []
    control = found["retrained"].logps
    count = len(control)
    return [
        Layer(*(beyond(found[name].logps[n], control[n], tests=count) for name in ("erased", "target")))
        for n in range(count)
    ]


def _series(found: Readings, field: str) -> dict[str, list[list[float | int | None]]]:
    """[layer, mean (of ranks the median), standard error] by model."""
    from expunge.evaluation.uncertainty import mean_stderr

    return {
        name: [
            [n, float(np.median(row)), None] if field == "ranks" else [n, float(row.mean()), mean_stderr(row)]
            for n, row in enumerate(getattr(one, field))
        ]
        for name, one in found.items()
    }


def _samples(rows: Sequence[Row], found: Readings, layers: Sequence[Layer]) -> list[dict[str, object]]:
    """The rows whose answer an inner layer of the erased model makes likeliest beyond the retrained model's."""
    erased = found["erased"].logps[:-1]
    if not len(erased):
        return []
    shown = erased - found["retrained"].logps[:-1] if layers else erased
    order = np.argsort(-shown.max(0), kind="stable")[:_SAMPLES].tolist()
    return [
        {
            "source": rows[place].source,
            "prompt": rows[place].prompt,
            "expected": rows[place].answer,
            "layer": int(shown[:, place].argmax()),
            "log_probability": {name: one.logps[:, place].tolist() for name, one in found.items()},
            "rank": {name: one.ranks[:, place].astype(int).tolist() for name, one in found.items()},
        }
        for place in order
    ]
