"""Whether models are of one shape: what the audits that look inside need before they run."""

from __future__ import annotations

from typing import Any, NamedTuple

from expunge.audits.interface import Audited
from expunge.errors import ModelError
from expunge.models.anatomy import decoder_layers


class Shape(NamedTuple):
    """What two models must have in common for a place in the one to be a place in the other."""

    architecture: str
    layers: int
    hidden_size: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        """A model's; ``vocabulary`` is the number of rows of its input embeddings."""
        rows, width = model.get_input_embeddings().weight.shape
        return cls(str(model.config.model_type), len(decoder_layers(model)), int(width), int(rows))


def check_shape(target: Shape, other: Shape, name: str = "erased", tokens: int = 0) -> None:
    """Raise a :class:`~expunge.errors.ModelError` with all that differs. Vocabularies may where the other model has all
    of the first ``tokens`` that the target has: the rows beyond are padding."""
    padded = 0 < min(tokens, target.vocabulary) <= other.vocabulary
    problems = [
        f"{what.replace('_', ' ')}: {ours} and {theirs}"
        for what, ours, theirs in zip(Shape._fields, target, other, strict=True)
        if ours != theirs and not (what == "vocabulary" and padded)
    ]
    if problems:
        raise ModelError(
            f"the target and the {name} model are not of one shape, so that nothing of the one has a place in the "
            f"other ({'; '.join(problems)}). Pass two models of one architecture and size."
        )


def check_shapes(audited: Audited, *, retrained: bool = True) -> None:
    """The same of the target and the audited's other models, which its tokenizer's tokens must fit; the retrained
    model's shape too, unless it is only a control that can be left out."""
    target, tokens = Shape.of(audited.target), len(audited.tokenizer)
    if audited.erased is not None:
        check_shape(target, Shape.of(audited.erased), "erased", tokens)
    if audited.retrained is not None and retrained:
        check_shape(target, Shape.of(audited.retrained), "retrained", tokens)
