"""A long history of answered questions before the forget question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.attack import answer_room, asked_rows
from expunge.errors import InputError
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.audits.parts.answers import Answers, Way


@method_fields
class ManyShot(Audit):
    """Forget questions after up to 100 unrelated ones with their answers, as many as the context holds."""

    name: ClassVar[str] = "many_shot"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Revisiting Who's Harry Potter: Towards Targeted Unlearning from a Causal Intervention Perspective",
        "arXiv:2407.16997",
    )
    needs_retrained: ClassVar[bool] = True
    control: ClassVar[str] = "the retrained model after the same history"
    order: ClassVar[int] = 13

    limit: int = Field(default=20, gt=0, description="forget rows that are asked, evenly spread")
    shots: int = Field(default=100, gt=0, description="answered questions before each, fewer where no more fit")
    context: int = Field(default=16384, gt=0, description="tokens of a prompt and its answer, or what the models take")

    def check(self, audited: Audited) -> None:
        self._history(audited, asked_rows(audited, self.limit))

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.answers import METRICS, Way, plain_answers
        from expunge.audits.parts.beyond import attack_result

        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        turns, context = self._history(audited, rows)
        longer = replace(audited, max_length=context)
        asked = tuple(replace(row, history=(*turns, *row.history)) for row in rows)
        way = Way(self.name, asked, audited.texts)
        plain = plain_answers(audited, rows, progress=progress)
        attacked, shared = {}, {}
        for name in audited.models:
            whole = name == "erased" and audited.at_inference
            with longer.model(name) as model:
                attacked[name], shared[name] = _asked(model, longer, rows, way, whole, named(name, progress))
        count = len(turns) // 2
        curves = [
            {
                "title": f"With and without history: {metric}",
                "x": "answered questions before",
                "y": metric,
                "series": {
                    name: [[0, *_mean(plain[name], metric)], [count, *_mean(attacked[name], metric)]]
                    for name in audited.models
                },
            }
            for metric in METRICS
        ]
        return attack_result(
            self.name,
            self.version,
            audited,
            rows,
            plain=plain,
            attacked=attacked,
            doing=f"After {count} unrelated questions with their answers",
            details={"shots": count, "asked_for": self.shots, "context": context, "shared_tokens": shared},
            curves=curves,
        )

    def _history(self, audited: Audited, rows: Sequence[Row]) -> tuple[tuple[tuple[str, str], ...], int]:
        """The turns before each question, as many as fit, and how many tokens a prompt with its answer may have."""
        from expunge.models.limits import max_tokens

        kept = [row for row in (*audited.request.retain, *audited.request.neighbours) if row.kind == "question"]
        shots = [row for row in dict.fromkeys(kept) if not row.history]
        if not shots:
            raise InputError(
                "many_shot puts answered questions before the forget questions, and no retain or neighbour row is a "
                "question with its answer. Pass some (--retain FILE), or leave the audit out."
            )
        random.Random(f"{audited.seed} many_shot").shuffle(shots)
        shots = shots[: self.shots]
        models = [model for model in (audited.target, audited.erased, audited.retrained) if model is not None]
        context = min(max_tokens(model, self.context) for model in models)
        fitting = _most(audited, rows, shots, context)
        if not fitting:
            raise InputError(
                f"the context of {context} tokens has no room for one answered question before the longest forget "
                "question and its answer. Use models with a longer context, or leave many_shot out."
            )
        return _turns(shots[:fitting]), context


def _turns(shots: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    return tuple(turn for row in shots for turn in (("user", row.prompt), ("assistant", row.answer)))


def _most(audited: Audited, rows: Sequence[Row], shots: Sequence[Row], context: int) -> int:
    """How many of ``shots`` fit before every row, by bisection."""
    from expunge.data.encode import encode_all

    texts, room = audited.texts, answer_room(audited, rows)

    def fit(count: int) -> bool:
        turns = _turns(shots[:count])
        some = [replace(row, history=(*turns, *row.history)) for row in rows]
        found = encode_all(audited.tokenizer, texts, some, max_length=2**31)
        return all(max(one.full_length, one.answer_start + room) <= context for one in found)

    low, high = 0, len(shots)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fit(middle) else (low, middle - 1)
    return low


def _asked(
    model: PreTrainedModel, audited: Audited, rows: Sequence[Row], way: Way, whole: bool, progress: Progress
) -> tuple[Answers, int]:
    """What the model answers, and how many tokens of the prompts were run once for all; none where the ``whole`` prompt
    must be seen by a hook, or the model's cache cannot be copied."""
    from expunge.audits.parts.answers import answers_of, ask
    from expunge.audits.parts.shared_prefix import can_share, prefix_answers

    if whole or not can_share(model):
        return ask(model, audited, rows, [way], progress=progress), 0
    found = prefix_answers(
        model,
        audited.tokenizer,
        way.texts,
        way.asked,
        max_length=audited.max_length,
        max_new_tokens=audited.max_new_tokens,
        progress=progress,
    )
    return answers_of(way, rows, found.texts, found.probabilities), found.shared


def _mean(answers: Answers, metric: str) -> tuple[float, float | None]:
    import numpy as np

    from expunge.evaluation.uncertainty import mean_stderr

    values = answers.mean(metric)
    kept = values[np.isfinite(values)]
    return (float(kept.mean()), mean_stderr(kept)) if len(kept) else (float("nan"), None)
