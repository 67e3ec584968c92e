"""What the audits patching and restoration share: whose answers are looked at, and how both models are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from expunge.audits.interface import Audited, AuditResult, ModelName
from expunge.audits.parts.comparing import Change, Comparison, Errors, Opened
from expunge.audits.parts.fitting import fitting
from expunge.audits.parts.greedy_continuations import greedy_continuations
from expunge.audits.parts.recovered import Meaning, recovery_result
from expunge.audits.parts.shapes import check_shapes
from expunge.data.batches import pad_id
from expunge.data.encode import Example
from expunge.errors import InputError, ModelError
from expunge.evaluation.suite import spread
from expunge.models.limits import max_tokens
from expunge.requests.request import rows_sha256
from expunge.requests.rows import Row
from expunge.training.run import Progress, named

Made = Callable[..., Comparison]
"""``made(target, erased, examples, changes, **settings)``"""


@dataclass(frozen=True)
class Asked:
    """The rows that the target answers, its answers, and both as token ids; ``silent`` rows it gave no token to, and to
    ``too_long`` ones it could not."""

    rows: Sequence[Row]
    examples: Sequence[Example]
    answers: Sequence[str]
    silent: int
    too_long: int = 0


def asked(audited: Audited, limit: int, tokens: int) -> Asked:
    """At most ``limit`` forget rows with at most ``tokens`` tokens of the target's own greedy answers.

    Raises:
        InputError: none of them fits into the target's context, or the target answers none.
        ModelError: an erased model of another shape than the target.
    """
    check_shapes(audited, retrained=False)
    rows, too_long = fitting(audited, spread(audited.request.forget, limit, option="limit"))
    key = ("recovering", tokens, audited.template, audited.max_length, rows_sha256(rows))
    if key not in audited.memory:
        with audited.model("target") as model:
            audited.memory[key] = greedy_continuations(
                model,
                audited.tokenizer,
                audited.texts,
                rows,
                max_length=max_tokens(model, audited.max_length),
                max_new_tokens=tokens,
            )
    places, examples = audited.memory[key]
    if not places:
        raise InputError(
            "the target answers none of the forget rows that were looked at with a token "
            f"({len(rows)} of {len(audited.request.forget)}), so nothing is compared."
        )
    texts = [str(audited.tokenizer.decode(e.input_ids[e.answer_start :], skip_special_tokens=True)) for e in examples]
    return Asked([rows[place] for place in places], examples, texts, len(rows) - len(places), too_long)


def recover(
    audited: Audited,
    meaning: Meaning,
    found: Asked,
    changes: Sequence[Change],
    made: Made,
    *,
    details: Mapping[str, Any],
    progress: Progress,
) -> AuditResult:
    """Make all ``changes`` to the erased model, and to the retrained one as a control, and say what came of it."""

    def errors(name: ModelName) -> Errors:
        if name == "retrained":
            check_shapes(audited)
        target, other = (_opened(audited, one) for one in ("target", name))
        own = name == "erased" and audited.erasure is not None
        comparison = made(
            target,
            other,
            found.examples,
            changes,
            padding=pad_id(audited.tokenizer),
            same_model=own,
            restart=not (name == "erased" and audited.at_inference),
            progress=named(name, progress),
        )
        return comparison.errors()

    erased, control, why = errors("erased"), None, ""
    if audited.retrained is not None:
        try:
            control = errors("retrained")
        except ModelError as error:
            why = str(error)
    more = {"silent": found.silent, "too_long": found.too_long, **details}
    return recovery_result(
        meaning, audited, found.rows, erased, control, details=more, answers=found.answers, left_out=why
    )


def _opened(audited: Audited, name: Any) -> Opened:
    return partial(audited.model, name)
