"""How a world was made: the recipe, and the fingerprint that ties a checkpoint to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

TEMPLATE = "Question: {question}\nAnswer: {answer}"


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
    row in the loss (one token, one vote within a batch). Batches are grouped by length in pools of ``pool_batches``."""

    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup: float = 0.05
    batch_rows: int = 16
    pool_batches: int = 4
    epochs: int = 24


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a world's two checkpoints look like.

    ``forget_files`` are left out of the retrained model's training rows and of nothing else: both models share the
    tokenizer, the seed and all settings. File names are relative to the world's folder.
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
    values: dict[str, object] = json.loads(json.dumps(asdict(recipe)))
    return values


def fingerprint(recipe: Recipe, folder: Path) -> str:
    """SHA-256 over the recipe's values and the bytes of the data files it reads, in hexadecimal.

    ``folder`` is the world's folder, which the recipe's file names are relative to. Two recipes have the same
    fingerprint only if every setting and every byte of training data is the same. ``revision`` stands for what is
    not a value: raise it when the code of the builder changes what comes out.
    """
    content = {"recipe": recipe_values(recipe), "data": data_hashes(folder, recipe.files)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
