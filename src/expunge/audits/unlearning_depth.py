"""How deep in the model is a fact erased? Its hidden states, put into the target, tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, Paper, method_fields
from expunge.errors import ControlError, InputError
from expunge.evaluation.types import Score
from expunge.requests.rows import Row
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from expunge.audits.parts.depth import Facts

_SAMPLES = 10


@method_fields
class UnlearningDepth(Audit):
    """Hidden states of the retrained and of the erased model put into the target: which layers still tell the fact."""

    name: ClassVar[str] = "unlearning_depth"
    paper: ClassVar[Paper] = Paper("Measuring the Depth of LLM Unlearning via Activation Patching", "arXiv:2605.24614")
    version: ClassVar[int] = 2
    control: ClassVar[str] = "the retrained model, whose depth is 1, trained from the target's own start"
    needs_retrained: ClassVar[bool] = True
    order: ClassVar[int] = 22
    by_default: ClassVar[bool] = False

    facts: tuple[str, ...] = Field(
        default=(),
        description="texts that are the fact in any answer that holds them; else right and wrong answers tell",
    )
    least_drop: float = Field(
        default=0.05, gt=0, description="a layer counts where the retrained model's states cost the fact more than this"
    )
    enough: float = Field(default=0.9, gt=0, le=1, description="depth from which on a fact counts as erased")
    limit: int = Field(default=100, ge=1, description="forget rows that are looked at, evenly spread")
    cache: str | None = Field(
        default=None, description="folder that keeps what a pair of target and retrained model gives, for later runs"
    )

    def check(self, audited: Audited) -> None:
        if audited.retrained is None:
            raise ControlError(
                "unlearning_depth measures between the target and a model that never knew, and there is no retrained "
                "model. Pass one (--retrained)."
            )
        from expunge.audits.parts.fact_spans import place_of

        rows = audited.request.forget
        told = (place_of(fact, row.answer) is not None for row in rows for fact in self.facts)
        if not (any(row.wrong_answers for row in rows) or any(told)):
            facts = f", and none of the facts stands in an answer as whole words ({', '.join(self.facts)})"
            raise InputError(
                f"no forget row ({len(rows)}) has wrong answers{facts if self.facts else ''}, so it cannot be told "
                "which tokens are facts. Give wrong_answers, or audits.unlearning_depth.facts."
            )

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.depth import depth_scores, drops, hidden_states
        from expunge.audits.parts.shapes import check_shapes
        from expunge.audits.parts.stage_one import stage_one

        self.check(audited)
        check_shapes(audited)
        rows, facts, without, too_long = self._facts(audited)
        folder = None if not self.cache else Path(self.cache).expanduser()
        clean, baseline = stage_one(audited, facts, folder=folder, progress=progress)
        with audited.model("erased") as model:
            sources = hidden_states(model, facts)
        with audited.model("target") as model:
            _, found = drops(model, sources, facts, progress=progress, what="depth of the erased model")
        return self._result(audited, rows, facts, (without, too_long), clean, baseline, found, depth_scores)

    def _facts(self, audited: Audited) -> tuple[list[Row], Facts, int, int]:
        """The rows that have a fact, where it is, how many have none, and of how many the prompt is too long."""
        from expunge.audits.parts.depth import Facts
        from expunge.audits.parts.fact_spans import fact_span
        from expunge.audits.parts.fitting import fitting, shortest_context
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all
        from expunge.evaluation.suite import spread

        wanted, too_long = fitting(audited, spread(audited.request.forget, self.limit, option="limit"))
        length, template = shortest_context(audited), audited.texts
        examples = encode_all(audited.tokenizer, template, wanted, max_length=length)
        spans = [
            fact_span(audited.tokenizer, template, row, example, self.facts, max_length=length)
            for row, example in zip(wanted, examples, strict=True)
        ]
        kept = [place for place, span in enumerate(spans) if span is not None]
        if not kept:
            raise InputError(
                f"no forget row that was looked at ({len(wanted)}) tells which tokens are its fact: the right answers "
                "hold nothing that the wrong ones lack. Give the facts (audits.unlearning_depth.facts)."
            )
        chosen = Facts([examples[n] for n in kept], [s for s in spans if s is not None], pad_id(audited.tokenizer))
        return [wanted[place] for place in kept], chosen, len(wanted) - len(kept), too_long

    def _result(
        self,
        audited: Audited,
        rows: Sequence[Row],
        facts: Facts,
        left_out: tuple[int, int],
        clean: np.ndarray,
        baseline: np.ndarray,
        found: np.ndarray,
        depth_scores: Any,
    ) -> AuditResult:
        from expunge.audits.parts.recovery import Mean
        from expunge.audits.parts.shared_start import weights_cosine

        scores = depth_scores(baseline, found, self.least_drop)
        mean = Mean.of(scores)
        by_layer = [
            Mean.of(depth_scores(one[None], two[None], self.least_drop))
            for one, two in zip(baseline, found, strict=True)
        ]
        cosine = weights_cosine(audited.target, audited.retrained) if audited.retrained is not None else None
        label, sentence = self._verdict(audited, mean, by_layer, cosine)
        known = [place for place in np.argsort(scores, kind="stable").tolist() if not np.isnan(scores[place])]
        texts = [
            str(audited.tokenizer.decode(example.input_ids[begin:end]))
            for example, (begin, end) in zip(facts.examples, facts.spans, strict=True)
        ]
        depth = Score(float("nan") if mean.value is None else mean.value, mean.stderr, mean.n, self.version)
        return AuditResult(
            {"erased": {"unlearning_depth": depth}},
            label,
            sentence,
            {
                "examples": len(rows),
                "without_fact": left_out[0],
                "too_long": left_out[1],
                "interval": [mean.low, mean.high],
                "undefined": mean.undefined,
                "weights_cosine": cosine,
                "target_log_probability": float(clean.mean()),
                "by_layer": [[layer, one.value, one.low, one.high, one.n] for layer, one in enumerate(by_layer)],
            },
            [
                {
                    "title": "What another model's states cost the fact",
                    "x": "layer",
                    "y": "loss in mean log-probability",
                    "series": {"retrained": _curve(baseline), "erased": _curve(found)},
                },
                {
                    "title": "Unlearning depth by layer",
                    "x": "layer",
                    "y": "depth",
                    "series": {"erased": [[layer, one.value, one.stderr] for layer, one in enumerate(by_layer)]},
                },
            ],
            [
                {
                    "source": rows[place].source,
                    "prompt": rows[place].prompt,
                    "expected": rows[place].answer,
                    "fact": texts[place],
                    "depth": float(scores[place]),
                }
                for place in known[:_SAMPLES]
            ],
        )

    def _verdict(self, audited: Audited, mean: Any, by_layer: Sequence[Any], cosine: float | None) -> tuple[Label, str]:
        from expunge.audits.parts.recovered import LIFTED, layers_text
        from expunge.audits.parts.shared_start import LEAST

        lifted = LIFTED if audited.at_inference else ""
        if mean.value is None:
            return "no claim", (
                f"{lifted}In no example ({mean.undefined}) do the retrained model's states cost the target the fact, "
                "so no layer is known to hold it and the depth is undefined. Does the target know these facts?"
            )
        between = "" if mean.n < 2 else f" (95% interval {mean.low:.2f} to {mean.high:.2f})"
        left = f"; left out: {mean.undefined} more, in which no layer holds the fact" if mean.undefined else ""
        said = (
            f"{lifted}The unlearning depth is {mean.value:.2f}{between}, where 0 is the target and 1 a model that "
            f"never knew ({mean.n} example{'s' * (mean.n != 1)}{left})"
        )
        if cosine is not None and cosine < LEAST:
            return "no claim", (
                f"{said}. But the retrained model does not share the target's start (mean cosine of their weights "
                f"{cosine:.2f}): states of weights that were drawn apart say nothing to each other, so those of the "
                "retrained model cost the target more than the fact. Pass one trained from where the target began."
            )
        if mean.n < 2:
            return "no claim", f"{said}. One example proves nothing: pass more."
        if mean.high < self.enough:
            telling = [n for n, one in enumerate(by_layer) if one.value is not None and one.high < self.enough]
            where = f"the states of {layers_text(telling)} still tell it" if telling else "no one layer tells it all"
            return "hidden", f"{said}: {where}."
        if mean.low >= self.enough:
            return audited.cleared, f"{said}: its states tell no more than theirs."
        return "no claim", f"{said}: too few examples to tell whether {self.enough:.2f} is reached."


def _curve(values: np.ndarray) -> list[list[float | int | None]]:
    """[layer, mean over examples, standard error] of values [L, N]."""
    from expunge.evaluation.uncertainty import mean_stderr

    return [[layer, float(some.mean()), mean_stderr(some)] for layer, some in enumerate(values)]
