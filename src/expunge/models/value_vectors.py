"""Value vectors: what each neuron of an MLP writes to the residual stream, and which words that raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from expunge.errors import ConfigError, ModelError
from expunge.models.anatomy import decoder_layers, down_projections

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ValueMatrix:
    """The down projection of one layer: ``parameter`` is called ``name`` in the model and holds a value vector a
    neuron, as columns, or as rows where ``transposed``."""

    name: str
    parameter: nn.Parameter
    transposed: bool

    @property
    def columns(self) -> Tensor:
        """[H, W] the value vectors of all W neurons, a view of the parameter's values."""
        values = self.parameter.detach()
        return values.T if self.transposed else values


def value_matrix(model: PreTrainedModel, layer: int) -> ValueMatrix:
    """The value vectors of decoder layer ``layer``, from 0.

    Raises:
        ModelError: there is no such layer, or none with one dense down projection at hand: experts have one each,
            quantised weights are rounded, offloaded ones are not there.
    """
    names = down_projections(model, [layer])
    parameters = dict(model.named_parameters())
    parameter = parameters[names[0]]
    problem = ""
    if len(names) > 1 or parameter.ndim != 2:
        problem = "is a mixture of experts, in which a neuron is one of several MLPs'. Choose a dense layer"
    elif parameter.is_meta:
        problem = "is offloaded. Load the model without offloading"
    elif not parameter.is_floating_point():
        problem = "is quantised, and its vectors cannot be changed one by one. Load the model unquantised"
    if problem:
        raise ModelError(f"{names[0]}: layer {layer} of {type(model).__name__} {problem}.")
    module = model.get_submodule(names[0].removesuffix(".weight"))
    return ValueMatrix(names[0], parameter, hasattr(module, "nx"))  # transformers' Conv1D holds [W, H]


def dense_layers(model: PreTrainedModel) -> list[int]:
    """The decoder layers, from 0, with one down projection of their own: not those of experts, nor those in which none
    is recognised."""
    parameters = dict(model.named_parameters())
    dense = []
    for layer in range(len(decoder_layers(model))):
        try:
            names = down_projections(model, [layer])
        except ModelError:
            continue  # hybrid models have layers without an MLP
        if len(names) == 1 and parameters[names[0]].ndim == 2:
            dense.append(layer)
    return dense


def output_head(model: PreTrainedModel) -> Tensor:
    """[V, H] the weights that turn the last hidden state into logits.

    Raises:
        ModelError: there is no such matrix, or it reads states of another width than the layers write.
    """
    head = getattr(model.get_output_embeddings(), "weight", None)
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    if head is None or head.ndim != 2 or head.shape[1] != width or not head.is_floating_point():
        found = "has no output head" if head is None else f"has an output head of shape {tuple(head.shape)}"
        raise ModelError(
            f"{type(model).__name__} {found}, onto which value vectors of width {width} cannot be projected. Name the "
            "vectors by layer and neuron."
        )
    found_head: Tensor = head.detach()
    return found_head


def word_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[list[int]]]:
    """For each word the tokens of its spellings: by itself, and after a space.

    Raises:
        ConfigError: words without any token.
    """
    found = []
    for word in words:
        ways = [tokenizer(way, add_special_tokens=False)["input_ids"] for way in (word, f" {word}")]
        found.append([list(tokens) for tokens in ways if tokens and word.strip()])
    empty = [repr(word) for word, ways in zip(words, found, strict=True) if not ways]
    if empty:
        raise ConfigError(f"words {', '.join(empty)} have no tokens. Name words of the concept.")
    return found


@dataclass(frozen=True)
class Projection:
    """The output head, with what standardises logits: ``head`` [V, H] in float32, ``mean`` [H] of its rows and their
    ``covariance`` [H, H], worked out once for all layers."""

    head: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, head: Tensor) -> Projection:
        wide = head.float()
        mean = wide.mean(0)
        return cls(wide, mean, wide.T @ wide / len(wide) - torch.outer(mean, mean))

    def raised(self, columns: Tensor, words: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """[W] by how many standard deviations of its logits over the vocabulary each value vector of ``columns`` [H, W]
        raises the ``words`` (see :func:`word_tokens`): the mean over a spelling's tokens, of the spelling that is
        raised most, and over the words.

        The vectors are projected straight onto the head, without the final norm, as in Geva et al. (arXiv 2203.14680).
        """
        values = columns.to(self.head.device, torch.float32)
        spread = (values * (self.covariance @ values)).sum(0).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        each = [
            torch.stack([self.head[tokens].mean(0) - self.mean for tokens in ways]) @ values for ways in words
        ]  # [spellings, W]
        return torch.stack([found.amax(0) for found in each]).mean(0) / spread

    def top_tokens(self, vector: Tensor, count: int) -> list[int]:
        """The ``count`` tokens whose logits a value vector [H] raises most."""
        found: list[int] = (self.head @ vector.to(self.head.device, torch.float32)).topk(count).indices.tolist()
        return found
