"""Does a guard leave the prompts that it flags readable?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, Paper, method_fields
from expunge.errors import InputError
from expunge.evaluation.types import Score
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from expunge.audits.parts.repetition import Repetition

_SURE = 1.96
_LOOKED_UP = {
    "cosine": "by direction (cosine)",
    "euclidean": "by distance",
    "coordinates": "by the coordinates that are the same",
}
_READ = 0.5  # share of the flagged tokens whose nearest token is their own: the prompt can be read off


@method_fields
class RepeatPrompt(Audit):
    """The guarded model is asked to repeat its prompts, and corrupted embeddings are looked up in the vocabulary."""

    name: ClassVar[str] = "repeat_prompt"
    paper: ClassVar[Paper] = Paper(
        "Large Language Model Unlearning via Embedding-Corrupted Prompts", "arXiv:2406.07933"
    )
    control: ClassVar[str] = "what the answer to another prompt repeats; the target"
    order: ClassVar[int] = 30

    tokens: int = Field(default=128, gt=0, description="tokens of a repetition")

    def check(self, audited: Audited) -> None:
        if audited.kind != "inputs":
            raise InputError(
                "repeat_prompt asks whether a guard leaves prompts readable, and there is no guard here: the erasure "
                f"{'is another model' if audited.kind is None else f'acts on {audited.kind}'}. Leave it out."
            )
        if not any(row.prompt.strip() for row in audited.request.forget):
            raise InputError("no forget row has a prompt that could be repeated. Pass rows that ask something.")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.beyond import rows_of
        from expunge.audits.parts.repetition import repeat_prompt

        progress(0, 1, "repeat prompt")
        found = repeat_prompt(
            audited.target if audited.erased is None else audited.erased,  # which carries its guard
            audited.tokenizer,
            [row for row in audited.request.forget if row.prompt.strip()],
            erasure=audited.erasure,
            max_new_tokens=self.tokens,
            template=audited.template,
            max_length=audited.max_length,
        )
        models = {"erased": found.audited}
        if found.target is not None:
            models = {"target": found.target, **models}
        own, nearest = found.audited, found.nearest
        beyond = own.words - (own.words_chance or 0.0)
        repeats = own.words_stderr is not None and beyond > _SURE * own.words_stderr
        shares = {} if nearest is None else nearest.as_dict()
        way = max(_LOOKED_UP, key=lambda one: shares.get(one, 0.0))
        best = shares.get(way, 0.0)
        label: Label = "hidden" if repeats or best > _READ else "suppressed"
        chance = "" if own.words_chance is None else f", where the answer to another prompt has {own.words_chance:.2f}"
        looked_up = (
            "No embedding was corrupted."
            if nearest is None
            else f"Looked up {_LOOKED_UP[way]}, the best of three ways, {100 * best:.0f}% of {nearest.tokens} "
            "corrupted embeddings are nearest to the token that they were. That takes access to the embeddings inside "
            "the model, which its callers do not see."
        )
        return AuditResult(
            {name: _scores(one, self.version) for name, one in models.items()},
            label,
            f"Asked to repeat what it was asked, the guarded model gives back {own.words:.2f} of the words{chance} "
            f"({rows_of(own.rows)}). {looked_up}",
            found.as_dict(),
        )


def _scores(found: Repetition, version: int) -> dict[str, Score]:
    return {
        "repeated_words": Score(found.words, found.words_stderr, found.rows, version),
        "repeated_rouge": Score(found.rouge, found.rouge_stderr, found.rows, version),
    }
