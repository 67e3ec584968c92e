"""An erasure that replaces weights: the new values of the tensors that changed, and only those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors.torch import load_file

from expunge.erasures.manifest import Manifest, check_target, save_erasure, save_tensors
from expunge.errors import ErasureError
from expunge.methods.interface import Erasure, Kind
from expunge.models.fingerprint import fingerprint, memory_digest
from expunge.models.quantised import check_same_quantization
from expunge.models.state import marked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FILE = "weights.safetensors"


class WeightChange(Erasure):
    """New values by parameter name, in the precision of the target they were made for.

    ``manifest.details`` holds a digest of the values they replace, so that a model whose weights were changed in memory
    is refused even when its files are the right ones.
    """

    kind: ClassVar[Kind] = "weights"

    def __init__(self, manifest: Manifest, tensors: dict[str, torch.Tensor], tokenizer: Any = None) -> None:
        self.manifest, self.tensors, self.tokenizer = manifest, tensors, tokenizer

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Self:
        return cls(manifest, load_file(folder / _FILE))

    def save(self, folder: str | Path) -> None:
        self.manifest = save_erasure(folder, self.manifest, lambda to: save_tensors(self.tensors, to / _FILE))

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[PreTrainedModel]:
        parameters = self._matching(model)
        self._check_identity(model, parameters)
        # in host memory: on a GPU there may be no room for a second copy
        kept = {name: parameters[name].detach().to("cpu", copy=True) for name in self.tensors}
        try:
            for name, value in self.tensors.items():
                parameters[name].data.copy_(value)
            with marked(model, self.kind):
                yield model
        finally:
            for name, value in kept.items():
                parameters[name].data.copy_(value)

    def _matching(self, model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
        parameters = dict(model.named_parameters())
        problems = []
        for name, value in self.tensors.items():
            if name not in parameters:
                problems.append(f"{name} is not in the model")
            elif parameters[name].is_meta:
                problems.append(f"{name} is offloaded; load the model without offloading")
            elif parameters[name].shape != value.shape:
                problems.append(f"{name} has shape {tuple(parameters[name].shape)}, not {tuple(value.shape)}")
            elif not parameters[name].is_floating_point():
                problems.append(f"{name} is quantised; apply to the model before it is quantised")
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ErasureError(f"this erasure does not fit the model: {'; '.join(problems[:5])}{more}.")
        return parameters

    def _check_identity(self, model: PreTrainedModel, parameters: dict[str, torch.nn.Parameter]) -> None:
        target = self.manifest.target
        found_target = fingerprint_like(model, self.manifest, self.tokenizer)
        check_target(self.manifest, found_target)
        check_same_quantization(target, found_target)
        if str(model.dtype).removeprefix("torch.") == target.dtype:
            found = memory_digest({name: parameters[name] for name in self.tensors})
            if found != self.manifest.details["replaced_sha256"]:
                raise ErasureError(
                    "this erasure was made for other weights: the model's values differ from those it replaces "
                    "(another model of the same shape, or one that was changed after loading, or already erased). "
                    "Apply it to the model it was made for, freshly loaded."
                )


def fingerprint_like(model: PreTrainedModel, manifest: Manifest, tokenizer: Any = None) -> Any:
    """The model's fingerprint for comparison with a manifest; without a tokenizer that part is taken as given."""
    if tokenizer is not None:
        return fingerprint(model, tokenizer)
    return fingerprint(model, None, tokenizer_digest_as=manifest.target.tokenizer)


def _squared_norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def changed_tensors(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of ``after`` that are not bit for bit those of ``before``, and figures for the manifest.

    ``after`` is rounded to the precision of ``before``; ``rounding_norm`` is the norm of what that loses of the update.
    """
    tensors: dict[str, torch.Tensor] = {}
    exact = lost = 0.0
    elements = total = 0
    for name, old in before.items():
        trained = after[name].detach().to(old.device)
        new = trained.to(old.dtype)
        total += old.numel()
        difference = new != old
        exact += _squared_norm(trained - old)
        lost += _squared_norm(trained - new)
        if bool(difference.any()):
            elements += int(difference.sum())
            tensors[name] = new.cpu().contiguous()
    details = {
        "tensors_changed": len(tensors),
        "tensors_trained": len(before),
        "elements_changed": elements,
        "elements_trained": total,
        "update_norm": exact**0.5,
        "rounding_norm": lost**0.5,
        "replaced_sha256": memory_digest({name: before[name] for name in tensors}),
    }
    return tensors, details
