"""Models whose linear layers are held in 8 or 4 bits by bitsandbytes: how they are loaded, and what they can do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, get_args

from expunge.errors import ErasureError, ModelError
from expunge.extras import require

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from expunge.models.fingerprint import Fingerprint

Quantization = Literal["none", "int8", "nf4"]

BITSANDBYTES_AT_LEAST = "0.46.1"


def quantization_config(name: Quantization, dtype: torch.dtype, *, role: str = "model") -> Any:
    """transformers' configuration for ``int8`` (LLM.int8(), arXiv 2208.07339) or ``nf4`` (4-bit NormalFloat with
    doubly quantised scales, arXiv 2305.14314; products are taken in ``dtype``).

    Raises:
        ConfigError: bitsandbytes is missing or too old.
    """
    require(
        "bitsandbytes",
        at_least=BITSANDBYTES_AT_LEAST,
        extra="quant",
        wanted_by=f"{role}.quantization={name}",
        otherwise=f"set {role}.quantization=none",
    )
    from transformers import BitsAndBytesConfig

    # It logs a line for every product of every layer: that inputs are rounded to float16, which is the method.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_differentiable(model: nn.Module) -> None:
    """Keep 4-bit layers on a CPU in the form that gradients flow through.

    On processors with bfloat16 instructions bitsandbytes repacks a layer's weight in place at its first forward in
    evaluation mode, for good, and no gradient flows through the packed form: an adapter below it would be trained on
    wrong gradients.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_differentiable(model: PreTrainedModel) -> None:
    """Refuse to train on a model whose 4-bit layers were packed for CPU inference (see :func:`keep_differentiable`).

    Raises:
        ModelError: there is such a layer.
    """
    packed = [
        name
        for name, parameter in model.named_parameters()
        if getattr(getattr(parameter, "quant_state", None), "packing_format_for_cpu", False)
    ]
    if packed:
        raise ModelError(
            f"{len(packed)} of the model's 4-bit layers ({packed[0]}, ..) were packed for inference on this CPU by an "
            "earlier forward, and no gradient flows through them. Load the model anew with expunge.load_model, which "
            "keeps them trainable."
        )
    keep_differentiable(model)


def check_same_quantization(made_for: Fingerprint, found: Fingerprint) -> None:
    """Refuse a weight erasure on the same model in other bits: quantisation moves weights by as much as an erasure
    does, so that nothing that was measured would hold.

    Raises:
        ErasureError: the model is quantised otherwise than the one the erasure was fitted on.
    """
    if made_for.quantization == found.quantization:
        return
    wanted, got = made_for.quantization, found.quantization
    raise ErasureError(
        f"this erasure was fitted on the model {in_words(wanted)} and was given the model {in_words(got)}. A change of "
        "weights holds only for the weights it was fitted on, and rounding them to fewer bits moves them about as far. "
        f"Load the model {in_words(wanted)}{_setting(wanted)}, or fit a new erasure on this one."
    )


def in_words(quantization: str | None) -> str:
    """A fingerprint's ``quantization`` for a message."""
    return "without quantisation" if quantization is None else f"quantised to {quantization}"


def _setting(quantization: str | None) -> str:
    """What to set for it, where there is a setting."""
    name = "none" if quantization is None else quantization
    return f" (model.quantization={name})" if name in get_args(Quantization) else ""
