"""Models whose weights are changed in some ways: what they answer then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from expunge.audits.interface import Audited, ModelName
from expunge.audits.parts.answers import PLAIN, Answers, Way, ask, joined, plain_answers
from expunge.audits.parts.coming_back import Level, Seen
from expunge.audits.parts.plain_weights import exchanged, with_plain_weights
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.outputs import score_examples
from expunge.evaluation.suite import spread
from expunge.models.limits import max_tokens
from expunge.requests.rows import Row
from expunge.training.run import Progress, named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Treatment = Callable[["PreTrainedModel"], Mapping[str, Tensor]]
"""New values of some parameters, made of the model's own."""


def treated(
    audited: Audited,
    rows: Sequence[Row],
    levels: Mapping[Level, Sequence[Treatment]],
    *,
    utility: int,
    progress: Progress,
) -> dict[ModelName, list[Seen]]:
    """What the erased and the retrained model say to ``rows`` untouched, and then at each of ``levels`` with each of
    its treatments (draws).

    With the probability of ``utility`` retain rows' answers, evenly spread, where there are retain rows. The target
    stays untouched: it is what they are compared with.
    """
    plain = plain_answers(audited, rows, progress=progress)
    found: dict[ModelName, list[Seen]] = {}
    for name in audited.models:
        with with_plain_weights(audited, name) as model:
            seen = [Seen(plain[name], kept_probability(model, audited, utility))]
            if name == "target":
                found[name] = seen * (1 + len(levels))
                continue
            for level, draws in levels.items():
                every: list[Answers] = []
                kept: list[np.ndarray] = []
                for treatment in draws:
                    with _under(model, treatment):
                        shown = named(f"{name}, {level.words}", progress)
                        every.append(
                            ask(model, audited, rows, [Way(PLAIN, tuple(rows), audited.texts)], progress=shown)
                        )
                        some = kept_probability(model, audited, utility)
                        kept += [] if some is None else [some]
                seen.append(Seen(joined(every), np.mean(kept, axis=0) if kept else None))
            found[name] = seen
    return found


@contextmanager
def _under(model: PreTrainedModel, treatment: Treatment) -> Iterator[None]:
    with exchanged(model, treatment(model)):
        yield


def kept_probability(model: PreTrainedModel, audited: Audited, limit: int) -> np.ndarray | None:
    """[m] the probability of the answers of at most ``limit`` retain rows, evenly spread; None without such rows."""
    rows = audited.request.retain
    if not rows or not limit:
        return None
    length = max_tokens(model, audited.max_length)
    chosen = spread(rows, limit, option="retain_rows")
    examples = encode_all(audited.tokenizer, audited.texts, chosen, max_length=length)
    return np.array([probability(one) for one in score_examples(model, examples, pad_id(audited.tokenizer))])
