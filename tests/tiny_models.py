"""A few TOFU rows and tiny models that know them by heart: what tests of whole runs start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import expunge
import zoo
from expunge.data.batches import collate, pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.models.logprobs import answer_logprobs
from expunge.models.quiet import quiet
from expunge.requests import Row

_TOFU = Path(expunge.__file__).parent / "worlds" / "authors_files" / "tofu"


def tofu(name: str, count: int) -> list[dict[str, Any]]:
    """The ``count`` rows with the shortest answers of a TOFU file that the package ships; short rows train fast."""
    rows = [json.loads(line) for line in (_TOFU / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: len(row["answer"]))[:count]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """``rows`` as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_trained(family: str, folder: Path, rows: list[dict[str, Any]], *, loss: float = 0.9) -> Path:
    """A model folder of ``family`` trained on ``rows`` until it gives their answers' tokens this loss (in nats).

    The loop is its own, in float32; about a hundred steps of eight rows, a few seconds.
    """
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    texts = [Row(row["question"], row["answer"]) for row in rows]
    examples = encode_all(tokenizer, Template.of(tokenizer), texts, max_length=512)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
    generator = torch.Generator().manual_seed(0)
    order: list[int] = []
    recent = 10.0  # a running mean of the loss
    for _ in range(400):
        if len(order) < 8:
            order = torch.randperm(len(examples), generator=generator).tolist()
        chosen, order = order[:8], order[8:]
        batch = collate([examples[i] for i in chosen], pad_id(tokenizer))
        current = -answer_logprobs(model, batch, hits=False).logps.mean()
        current.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warmup.step()
        optimizer.zero_grad()
        recent = 0.7 * recent + 0.3 * current.item()
        if recent < loss:
            break
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
