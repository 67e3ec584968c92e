"""Protects real input: model folders as transformers writes them, of many families, and thousands of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import expunge
import tiny_models
import zoo

# One setting for all: what differs between the families is the package's to handle.
SETTINGS = (
    "training.learning_rate=1e-3",
    "training.epochs=20",
    "training.accumulation=1",
    "training.max_new_tokens=8",
    "suite.limit=8",
)
DEFAULT = ("llama", "gpt2")  # no template, tokens split otherwise, tied head, learned positions


@pytest.mark.parametrize(
    "family", [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in zoo.ISSUE_FAMILIES]
)
def test_npo_halves_the_forget_probability_and_keeps_the_rest(family: str, tmp_path: Path) -> None:
    forget, retain = tiny_models.tofu("forget01_perturbed", 8), tiny_models.tofu("retain_perturbed", 16)
    folder = tiny_models.save_trained(family, tmp_path / "model", forget + retain)
    out = expunge.forget(
        str(folder),
        str(tiny_models.write_rows(tmp_path / "forget.jsonl", forget)),
        retain=str(tiny_models.write_rows(tmp_path / "retain.jsonl", retain)),
        out=tmp_path / "out",
        overrides=SETTINGS,
    )
    rows = json.loads((out / "scores.json").read_text(encoding="utf-8"))["rows"]
    before, after = rows["target"], rows["erased"]
    assert before["forget_probability"]["value"] > 0.3  # there was something to forget
    assert after["forget_probability"]["value"] < 0.5 * before["forget_probability"]["value"]
    assert after["retain_probability"]["value"] > 0.8 * before["retain_probability"]["value"]


def test_four_thousand_rows_are_loaded_tokenized_and_batched(tmp_path: Path) -> None:
    """As many as forget10 and retain90 of TOFU together, of the same length; nothing is lost on the way."""
    from expunge.data.batches import collate, length_batches, pad_id
    from expunge.data.encode import encode_all
    from expunge.data.template import Template

    rows = [
        {
            "question": f"What did author number {place} say about the harbour of town {place % 37}?",
            "answer": f"Author number {place} said that its {place % 11} lamps "
            + "shine through the fog, " * (place % 7)
            + f"and that ship {place * 7919 % 4001} never came back.",
        }
        for place in range(4000)
    ]
    request = expunge.Request.load(
        tiny_models.write_rows(tmp_path / "forget10.jsonl", rows[:400]),
        retain=tiny_models.write_rows(tmp_path / "retain90.jsonl", rows[400:]),
    )
    assert (len(request.forget), len(request.retain)) == (400, 3600)
    tokenizer = zoo.tokenizer("llama")
    examples = encode_all(tokenizer, Template.of(tokenizer), [*request.forget, *request.retain], max_length=512)
    lengths = [len(example.input_ids) for example in examples]
    batches = length_batches(lengths, 64, 16_384)
    assert sorted(place for batch in batches for place in batch) == list(range(4000))
    tokens = padded = 0
    for places in batches:
        batch = collate([examples[place] for place in places], pad_id(tokenizer))
        tokens += int(batch.attention_mask.sum())
        padded += batch.attention_mask.numel()
        assert batch.attention_mask.numel() <= 16_384
    assert tokens == sum(lengths)
    assert tokens > 0.95 * padded  # rows of like length are together
