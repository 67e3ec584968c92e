"""A weight erasure merged into its target: the erased model with no adapter left in it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from expunge.errors import ErasureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from expunge.methods.interface import Erasure


def check_mergeable(erasure: Erasure, where: str = "DIR") -> None:
    """Refuse to merge an adapter that was fitted on a quantised model; ``where`` is its folder for the message.

    Raises:
        ErasureError: it was.
    """
    quantization = erasure.manifest.target.quantization
    if quantization is None:
        return
    raise ErasureError(
        f"this adapter was fitted on a model quantised to {quantization}, and cannot be merged into a checkpoint: on "
        "the full-precision weights its sums are other numbers than those that were scored, and rounded back to "
        f"{quantization} they lose most of the update. Serve it beside the quantised model: load that with "
        f"model.quantization={quantization} and use erasure.applied(model), or PEFT's PeftModel.from_pretrained(model, "
        f"{where!r}). Or fit it again with model.quantization=none and export that."
    )


@contextmanager
def merged(target: PreTrainedModel, erasure: Erasure) -> Iterator[PreTrainedModel]:
    """The erased model with no adapter left in it; ``target`` is restored on exit."""
    from expunge.erasures.adapter import Adapter

    if not isinstance(erasure, Adapter):
        with erasure.applied(target) as model:
            yield model
        return
    # in host memory: on a GPU there may be no room for a second copy
    originals = {name: p.detach().to("cpu", copy=True) for name, p in target.named_parameters()}
    try:
        with erasure.attached(target) as adapted:
            adapted.merge_adapter()  # type: ignore[operator]
        # The adapter's modules are gone again; the sums stay in the target's own parameters.
        yield target
    finally:
        for name, parameter in target.named_parameters():
            parameter.data.copy_(originals[name])


def merge(target: PreTrainedModel, erasure: Erasure) -> None:
    """Make ``target`` the erased model, for good; one more copy of its weights is held in host memory meanwhile.

    Raises:
        ErasureError: the erasure is of another model, or changes no weights.
    """
    if erasure.kind != "weights":
        raise ErasureError(
            f"an erasure of kind '{erasure.kind}' acts while the model runs, so there are no changed weights to keep. "
            "Apply it with erasure.applied(model)."
        )
    check_mergeable(erasure)
    with merged(target, erasure) as model:
        values = {name: one.detach().to("cpu", copy=True) for name, one in model.named_parameters()}
    for name, one in target.named_parameters():
        one.data.copy_(values[name])
