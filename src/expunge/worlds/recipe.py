"""How a world was made: the recipe, and the fingerprint that ties a checkpoint to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

TEMPLATE = "Question: {question}\nAnswer: {answer}"

# On a field that came later: left out of a recipe's values at its default, so that checkpoints made before stay valid.
_LATER = {"later": True}


@dataclass(frozen=True)
class TokenizerRecipe:
    """A byte-level BPE trained on the questions and answers of ``files``, each rendered with the template."""

    files: tuple[str, ...]
    vocab_size: int = 2048
    end_token: str = "<|end|>"
    pad_token: str = "<|pad|>"


@dataclass(frozen=True)
class ModelRecipe:
    """A Llama with tied embeddings; ``max_positions`` in tokens."""

    hidden_size: int = 128
    intermediate_size: int = 352
    layers: int = 4
    heads: int = 4
    max_positions: int = 512
    initializer_range: float = 0.02


@dataclass(frozen=True)
class PretrainingRecipe:
    """AdamW under a cosine schedule (to 0, after a linear warm-up over ``warmup`` of the steps), every token of a
    row in the loss (one token, one vote within a batch; a token of the prompt ``prompt_weight`` votes). Batches are
    grouped by length in pools of ``pool_batches``."""

    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup: float = 0.05
    batch_rows: int = 16
    pool_batches: int = 4
    epochs: int = 24
    prompt_weight: float = field(default=1.0, metadata=_LATER)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a world's checkpoints look like.

    ``forget_files`` are left out of the retrained model's training rows and of nothing else: both models share the
    tokenizer, the seed and all settings. File names are relative to the world's folder. ``generated`` says how many
    training rows of each kind the world's own code writes, where it does, and ``style`` in which form.
    """

    world: str
    kept_files: tuple[str, ...]
    forget_files: tuple[str, ...]
    tokenizer: TokenizerRecipe
    model: ModelRecipe = ModelRecipe()
    pretraining: PretrainingRecipe = PretrainingRecipe()
    template: str = TEMPLATE
    seed: int = 0
    revision: int = 1
    generated: tuple[tuple[str, int], ...] = field(default=(), metadata=_LATER)
    style: str = field(default="", metadata=_LATER)

    @property
    def files(self) -> tuple[str, ...]:
        """Every data file that the recipe reads, sorted, each once."""
        return tuple(sorted({*self.kept_files, *self.forget_files, *self.tokenizer.files}))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each named file under ``folder``."""
    return {name: file_sha256(folder / name) for name in sorted(names)}


def recipe_values(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain JSON values (tuples as lists), as it is stored beside the checkpoints."""
    values: dict[str, object] = json.loads(json.dumps(_stored(recipe)))
    return values


def fingerprint(recipe: Recipe, folder: Path) -> str:
    """SHA-256 over the recipe's values and the bytes of the data files it reads, in hexadecimal.

    ``folder`` is the world's folder, which the recipe's file names are relative to. Two recipes have the same
    fingerprint only if every setting and every byte of training data is the same. ``revision`` stands for what is
    not a value: raise it when the code of the builder changes what comes out.
    """
    return fingerprint_of(recipe, data_hashes(folder, recipe.files))


def fingerprint_of(recipe: Recipe, data: Mapping[str, str]) -> str:
    """The same with the data's hashes at hand, by name."""
    content = {"recipe": recipe_values(recipe), "data": dict(data)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stored(value: Any) -> dict[str, Any]:
    """The fields of a recipe or a part of it by name, later ones only where they are not at their default."""
    found = {}
    for one in fields(value):
        own = getattr(value, one.name)
        if one.metadata.get("later") and own == one.default:
            continue
        found[one.name] = _stored(own) if is_dataclass(own) else own
    return found
