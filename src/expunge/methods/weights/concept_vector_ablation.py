"""Concept vector ablation: noise on the value vectors that hold a concept, as an oracle of what removal does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.errors import ConfigError, ModelError, TrainingError
from expunge.methods.interface import Kind, Paper, method_fields
from expunge.methods.untrained import Subject, UntrainedMethod

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.erasures.manifest import Manifest
    from expunge.erasures.weight_change import WeightChange
    from expunge.models.value_vectors import Projection, ValueMatrix

log = logging.getLogger("expunge")

_TOP_TOKENS = 10


@method_fields
class ConceptVectorAblation(UntrainedMethod):
    """Adds Gaussian noise to a concept's value vectors: named by layer and neuron, or found by the concept's words."""

    name: ClassVar[str] = "concept_vector_ablation"
    family: ClassVar[Kind] = "weights"
    format: ClassVar[str] = "weight_change"
    paper: ClassVar[Paper] = Paper(
        "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces", "arXiv 2406.11614"
    )

    layer: int | None = Field(
        default=None, ge=0, description="decoder layer of the vectors, from 0; with words, the only one looked through"
    )
    neurons: tuple[int, ...] = Field(default=(), description="the vectors' places in that layer, from 0; or give words")
    words: tuple[str, ...] = Field(
        default=(), description="words of the concept: the vectors that raise their logits most are taken"
    )
    vectors: int = Field(default=1, ge=1, description="how many vectors are taken by words")
    noise: float = Field(default=0.1, gt=0, description="standard deviation of the noise added to each value")
    seed: int = Field(default=0, ge=0, description="of the noise")

    def __post_init__(self) -> None:
        problem = ""
        if bool(self.neurons) == bool(self.words):
            given = "both method.neurons and method.words were" if self.neurons else "neither was"
            problem = f"{given} given. Name the vectors (method.layer, method.neurons) or words of the concept"
        elif self.neurons and self.layer is None:
            problem = f"method.neurons={list(self.neurons)} are places in one layer. Name it (method.layer)"
        elif self.neurons and self.vectors != 1:
            problem = f"method.vectors={self.vectors} counts vectors found by words. Leave it out with method.neurons"
        elif len(set(self.neurons)) < len(self.neurons):
            problem = f"method.neurons={list(self.neurons)} names one twice. Name each once"
        if problem:
            raise ConfigError(f"{self.name}: {problem}.")

    def check_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from expunge.erasures.adapter import carries_adapter
        from expunge.models.value_vectors import output_head, value_matrix, word_tokens

        if carries_adapter(model):
            raise ModelError("the model carries a PEFT adapter. Leave the context that applied it, or merge it.")
        if self.words:
            word_tokens(tokenizer, self.words)
            output_head(model)
            layers = self._searched(model)
            vectors = sum(value_matrix(model, layer).columns.shape[1] for layer in layers)
            if self.vectors > vectors:
                where = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
                raise ModelError(
                    f"{self.name}: method.vectors={self.vectors} are more than there are in {where} of "
                    f"{type(model).__name__}: {vectors}. Take fewer."
                )
            return
        width = value_matrix(model, self.layer or 0).columns.shape[1]
        beyond = [neuron for neuron in self.neurons if not 0 <= neuron < width]
        if beyond:
            raise ModelError(
                f"{self.name}: layer {self.layer} of {type(model).__name__} has no neurons "
                f"{', '.join(map(str, beyond))}: it has 0 to {width - 1}. Vectors are those of one model; another has "
                "them elsewhere (method.words finds them)."
            )

    def erasure(self, subject: Subject, manifest: Manifest) -> WeightChange:
        import torch

        from expunge.erasures.weight_change import WeightChange, changed_tensors
        from expunge.models.value_vectors import value_matrix

        chosen, facts = self._chosen(subject)
        generator = torch.Generator().manual_seed(self.seed)
        before: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}
        for layer, neurons in chosen.items():
            matrix = value_matrix(subject.model, layer)
            before[matrix.name] = matrix.parameter.detach().cpu()
            after[matrix.name] = _noised(matrix, neurons, self.noise, generator)
        tensors, details = changed_tensors(before, after)
        if not tensors:
            coarse = any(one.dtype.itemsize < torch.float32.itemsize for one in before.values())
            finer = ", or load the target with model.dtype=float32" if coarse else ""
            raise TrainingError(
                f"{self.name}: noise of {self.noise:g} is lost in rounding to {manifest.target.dtype}. Raise "
                f"method.noise{finer}."
            )
        subject.details.update(details, value_vectors=facts)
        return WeightChange(manifest, tensors)

    def _chosen(self, subject: Subject) -> tuple[dict[int, list[int]], list[dict[str, Any]]]:
        """The neurons by layer, and of each vector what the manifest tells."""
        from expunge.models.value_vectors import Projection, output_head, value_matrix

        try:
            projection: Projection | None = Projection.of(output_head(subject.model))
        except ModelError:
            if self.words:
                raise
            projection = None  # vectors that are named need no head: it only says what they hold
        if self.words and projection is not None:
            found = self._found(subject, projection)
        else:
            found = [(self.layer or 0, neuron, None) for neuron in self.neurons]
        facts = []
        chosen: dict[int, list[int]] = {}
        for layer, neuron, raised in found:
            chosen.setdefault(layer, []).append(neuron)
            fact: dict[str, Any] = {"layer": layer, "neuron": neuron}
            if raised is not None:
                fact["raises_words"] = raised
            if projection is not None:
                vector = value_matrix(subject.model, layer).columns[:, neuron]
                tokens = projection.top_tokens(vector, min(_TOP_TOKENS, len(projection.head)))
                fact["top_tokens"] = [str(subject.tokenizer.decode([token])) for token in tokens]
            facts.append(fact)
        return chosen, facts

    def _searched(self, model: PreTrainedModel) -> list[int]:
        """The layers that are looked through for the words: the one that was named, else all that are dense."""
        from expunge.models.value_vectors import dense_layers

        layers = dense_layers(model) if self.layer is None else [self.layer]
        if not layers:
            raise ModelError(
                f"{self.name}: no layer of {type(model).__name__} has one dense down projection, whose value vectors "
                "method.words could be looked for in: all are mixtures of experts, or have no MLP that is recognised. "
                "Take a dense model."
            )
        return layers

    def _found(self, subject: Subject, projection: Projection) -> list[tuple[int, int, float | None]]:
        """Layer, neuron and score of the vectors that raise the words most, best first."""
        from expunge.models.anatomy import decoder_layers
        from expunge.models.value_vectors import value_matrix, word_tokens

        words = word_tokens(subject.tokenizer, self.words)
        layers = self._searched(subject.model)
        if self.layer is None:
            skipped = sorted(set(range(len(decoder_layers(subject.model)))) - set(layers))
            if skipped:
                subject.details["layers_not_searched"] = skipped
                log.warning(
                    "%s: not looked through for the words, since they are mixtures of experts or have no MLP that is "
                    "recognised: layers %s.",
                    self.name,
                    ", ".join(map(str, skipped)),
                )
        best: list[tuple[float, int, int]] = []
        for done, layer in enumerate(layers, 1):
            scores = projection.raised(value_matrix(subject.model, layer).columns, words)
            top = scores.topk(min(self.vectors, len(scores)))
            best += [
                (score, layer, neuron) for score, neuron in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
            subject.run.progress(done, len(layers), "layers")
        best.sort(key=lambda one: -one[0])
        return [(layer, neuron, score) for score, layer, neuron in best[: self.vectors]]


def _noised(matrix: ValueMatrix, neurons: list[int], noise: float, generator: Any) -> Tensor:
    """The parameter in float32 with noise on the value vectors of ``neurons``: drawn on the CPU, a vector at a time in
    their order, so that it is the same on every device."""
    import torch

    values = matrix.parameter.detach().to("cpu", torch.float32, copy=True)
    columns = values.T if matrix.transposed else values
    for neuron in neurons:
        columns[:, neuron] += noise * torch.randn(len(columns), generator=generator)
    return values
