"""Model folders to negate, and what the result must be by the formula on models in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import zoo
from expunge.models.loading import load_model
from fitting import logits


def save(
    folder: Path, family: str = "llama", *, moved: float = 0.0, seed: int = 1, shard: str = "5GB", **shape: Any
) -> Path:
    """A model of ``family`` whose weights are ``moved`` from their seed's by so much noise, and its tokenizer."""
    dtype = shape.pop("dtype", torch.float32)
    made: Any = zoo.model(family, **shape).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * moved).to(dtype))
    made.save_pretrained(folder, max_shard_size=shard)
    zoo.tokenizer(family).save_pretrained(folder)
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's files."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def formula(target: Path, harmful: list[Path], scale: float) -> torch.Tensor:
    """Logits of the negated model, made in memory by the textbook line."""
    model = load_model(target)
    vectors = [
        {name: p.data - dict(model.named_parameters())[name].data for name, p in load_model(h).named_parameters()}
        for h in harmful
    ]
    for name, parameter in model.named_parameters():
        parameter.data -= scale * sum(vector[name] for vector in vectors)
    return logits(model)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lora(target: Path, folder: Path, *, seed: int = 0, **config: Any) -> tuple[Path, torch.Tensor]:
    """A PEFT adapter with random matrices, and the logits of its model."""
    model = get_peft_model(load_model(target), LoraConfig(task_type="CAUSAL_LM", **config))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    return folder, logits(model)  # type: ignore[arg-type]
