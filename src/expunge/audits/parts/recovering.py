"""What the audits patching and restoration share: whose answers are looked at, and how both models are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from expunge.audits.interface import Audited, AuditResult, ModelName
from expunge.audits.parts.comparing import Change, Comparison, Errors, Opened
from expunge.audits.parts.greedy_continuations import greedy_continuations
from expunge.audits.parts.recovered import Meaning, recovery_result
from expunge.data.batches import pad_id
from expunge.data.encode import Example
from expunge.errors import InputError, ModelError
from expunge.evaluation.suite import spread
from expunge.models.limits import max_tokens
from expunge.requests.rows import Row
from expunge.training.run import Progress, named

Made = Callable[..., Comparison]
"""``made(target, erased, examples, changes, **settings)``"""


@dataclass(frozen=True)
class Asked:
    """The rows that the target answers, its answers, and both as token ids; ``silent`` rows it gave no token to."""

    rows: Sequence[Row]
    examples: Sequence[Example]
    answers: Sequence[str]
    silent: int


def asked(audited: Audited, limit: int, tokens: int) -> Asked:
    """At most ``limit`` forget rows with at most ``tokens`` tokens of the target's own greedy answers.

    Raises:
        InputError: the target answers none of them.
    """
    rows = list(spread(audited.request.forget, limit, option="limit"))
    key = ("recovering", limit, tokens)
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
            f"the target answers none of the {len(rows)} forget rows with a token, so nothing is compared."
        )
    texts = [str(audited.tokenizer.decode(e.input_ids[e.answer_start :], skip_special_tokens=True)) for e in examples]
    return Asked([rows[place] for place in places], examples, texts, len(rows) - len(places))


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
        target, other = (_opened(audited, one) for one in ("target", name))
        own = name == "erased" and audited.erasure is not None
        comparison = made(
            target,
            other,
            found.examples,
            changes,
            padding=pad_id(audited.tokenizer),
            same_model=own,
            restart=not (own and audited.at_inference),
            progress=named(name, progress),
        )
        return comparison.errors()

    erased, control, why = errors("erased"), None, ""
    if audited.retrained is not None:
        try:
            control = errors("retrained")
        except ModelError as error:
            why = str(error)
    more = {"silent": found.silent, **({"control_left_out": why} if why else {}), **details}
    return recovery_result(meaning, audited, found.rows, erased, control, details=more, answers=found.answers)


def _opened(audited: Audited, name: Any) -> Opened:
    return partial(audited.model, name)
