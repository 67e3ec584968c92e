"""Do inner layers still say the answer that the last one no longer says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, ModelName, Paper, method_fields
from expunge.errors import ModelError
from expunge.evaluation.types import Score
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from expunge.audits.parts.layer_gains import LayerGain
    from expunge.audits.parts.layer_readings import LayerReadings

_SAMPLES = 10
_LEAST = 2  # holdout rows, to be compared with
_TRIED = 4  # rows in which it is tried beforehand whether layers can be read
_SHOWN = {
    "logps": "mean log-probability of the answer's tokens",
    "first": "probability of the answer's first token",
    "ranks": "rank of the answer's first token",
}

_TWO_TRAININGS = (
    "Without holdout rows (--holdout) this may be what two trainings differ by: a model trained from another seed, "
    "that never knew either, can have as much."
)

Readings = Mapping[ModelName, "LayerReadings"]


@method_fields
class LogitLens(Audit):
    """Every layer's output through the model's own final norm and head: how likely it makes the answer."""

    name: ClassVar[str] = "logit_lens"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Eliciting Latent Predictions from Transformers with the Tuned Lens", "arXiv:2303.08112"
    )
    control: ClassVar[str] = "the retrained model's same layer, in forget and in holdout rows"
    needs_retrained: ClassVar[bool] = True
    order: ClassVar[int] = 15

    least: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="share of the target's advantage from which on a layer shows the answer",
    )
    limit: int = Field(
        default=200, ge=1, description="forget rows that are read, and as many holdout rows, evenly spread"
    )

    def check(self, audited: Audited) -> None:
        from expunge.audits.parts.fitting import fitting, shortest_context
        from expunge.audits.parts.layer_readings import check_layers
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all

        _check_layer_counts(audited)
        rows = fitting(audited, audited.request.forget)[0][:_TRIED]
        examples = encode_all(audited.tokenizer, audited.texts, rows, max_length=shortest_context(audited))
        for name in audited.models:
            if name == "erased" and audited.erased is None and not audited.at_inference:
                continue  # other weights in the target's own layers
            with audited.model(name) as model:
                check_layers(model, examples, pad_id(audited.tokenizer))

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.fitting import fitting, shortest_context
        from expunge.audits.parts.layer_gains import layer_gains
        from expunge.audits.parts.layer_readings import layer_readings
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all
        from expunge.evaluation.suite import spread

        _check_layer_counts(audited)
        rows, too_long = fitting(audited, spread(audited.request.forget, self.limit, option="limit"))
        others, _ = fitting(audited, spread(audited.request.holdout, self.limit, option="limit"))
        examples = encode_all(audited.tokenizer, audited.texts, [*rows, *others], max_length=shortest_context(audited))
        found: dict[ModelName, LayerReadings] = {}
        holdout: dict[ModelName, np.ndarray] = {}
        for name in audited.models:
            with audited.model(name) as model:
                every = layer_readings(model, examples, pad_id(audited.tokenizer), progress=named(name, progress))
            found[name], holdout[name] = every.first_rows(len(rows)), every.logps[:, len(rows) :]
        compared = len(others) if len(others) >= _LEAST else 0
        layers = layer_gains({name: one.logps for name, one in found.items()}, holdout if compared else None)
        label, sentence = self._verdict(audited, found, layers, compared)
        return AuditResult(
            {name: self._scores(one) for name, one in found.items()},
            label,
            sentence,
            {
                "rows": len(rows),
                "too_long": too_long,
                "holdout_rows": compared,
                "beyond_retrained": [
                    {
                        "layer": number,
                        "erased": one.gain.value,
                        "erased_stderr": one.gain.stderr,
                        "target": one.known.value,
                        "erased_on_holdout": one.holdout,
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

    def _verdict(
        self, audited: Audited, found: Readings, layers: Sequence[LayerGain], holdout: int
    ) -> tuple[Label, str]:
        from expunge.audits.parts.beyond import LEAST_ROWS
        from expunge.audits.parts.recovered import LIFTED, layers_text

        last, count = len(found["erased"].logps) - 1, found["erased"].logps.shape[1]
        lifted = LIFTED if audited.at_inference else ""

        def said(layer: int) -> str:
            target, erased = (float(found[name].logps[layer].mean()) for name in ("target", "erased"))
            beside = f", retrained {found['retrained'].logps[layer].mean():.2f}" if layers else ""
            return f"target {target:.2f}, erased {erased:.2f}{beside}"

        spoken = (
            f"{lifted}Mean log-probability of the answers' tokens in the last layer ({count} forget "
            f"row{'' if count == 1 else 's'}): {said(last)}"
        )
        if not layers:
            return "no claim", (
                f"{spoken}. What a layer shows of the answer in a model that never knew it takes a retrained model to "
                "tell: pass one (--retrained)."
            )
        if layers[last].gain.stderr is None:
            return "no claim", f"{spoken}. One row proves nothing: pass more."
        than = "in the retrained model" + (f", beyond what {holdout} holdout rows gain on it" if holdout else "")
        if not any(one.known.sure for one in layers):
            same = " Leave holdout rows out that ask for the same knowledge." if holdout else ""
            return "no claim", f"{spoken}. In no layer of the target are the answers surely likelier than {than}.{same}"
        telling = [number for number, one in enumerate(layers) if one.shows(self.least)]
        inner = [number for number in telling if number != last]
        doubt = "" if holdout else f" {_TWO_TRAININGS}"

        def gained(layer: int) -> str:
            return f"{layers[layer].gain.value:+.2f} beyond what {holdout} holdout rows gain" if holdout else ""

        if last in telling:
            also = f", and so {'do' if len(inner) > 1 else 'does'} {layers_text(inner)}" if inner else ""
            more = f" ({gained(last)})" if holdout else ""
            return "leaks", (
                f"{spoken}: the last layer still says more than that of a model that never knew{more}{also}.{doubt}"
            )
        if inner:
            top = max(inner, key=lambda number: layers[number].gain.statistic)
            more = f"; {gained(top)}" if holdout else ""
            return "hidden", (
                f"{spoken}, not surely more than that of a model that never knew; the answers are hidden in "
                f"{layers_text(inner)} (layer {top}: {said(top)}{more}).{doubt}"
            )
        end = f"In no layer are the answers surely likelier than {than}, by {self.least:.0%} of the target's advantage."
        if count < LEAST_ROWS:
            return (
                "no claim",
                f"{spoken}. {end} So few rows cannot prove that nothing is left: pass {LEAST_ROWS} at least.",
            )
        return audited.cleared, f"{spoken}. {end}"


def _check_layer_counts(audited: Audited) -> None:
    from expunge.models.anatomy import decoder_layers

    given = {"target": audited.target, "erased": audited.erased, "retrained": audited.retrained}
    counts = {name: len(decoder_layers(model)) for name, model in given.items() if model is not None}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ModelError(
            f"the models have different numbers of layers ({said}), and logit_lens compares layer by layer. Pass "
            "models of one architecture and size."
        )


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


def _samples(rows: Sequence[Row], found: Readings, layers: Sequence[LayerGain]) -> list[dict[str, object]]:
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
