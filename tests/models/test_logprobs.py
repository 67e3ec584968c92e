"""Protects answer scores: equal to a log-softmax over full logits, whatever the family, batch or padding side."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import zoo
from expunge.data.batches import Batch, collate, pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.errors import ModelError
from expunge.models.logprobs import AnswerLogprobs, answer_logprobs
from expunge.requests.rows import Row

ROWS = (
    Row("Where was Mira Tolvanen born?", "In Kuopio, Finland, on 12/03/1961."),
    Row("What is 7 * 8?", "56"),
    Row("", "Zoë grew up near the sea, in São Paulo 🙂.", kind="document"),
    Row("The capital is", " Paris", kind="completion"),
    Row("And then?", "Home.", kind="chat", history=(("user", "Hi"), ("assistant", "Hello"))),
)
every_family = pytest.mark.parametrize("family", zoo.FAMILIES)
some_families = pytest.mark.parametrize("family", ["llama", "llama3", "gemma2", "gpt2", "opt", "mixtral"])


@cache
def model(family: str) -> Any:
    """The family's tiny model with weights four times as large: its predictions are far from uniform."""
    made = zoo.model(family)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return made


@cache
def examples(family: str) -> tuple[list[Example], int]:
    tokenizer = zoo.tokenizer(family)
    return encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=200), pad_id(tokenizer)


def by_hand(model: Any, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one row without padding: log-probability of each answer token and whether it is the likeliest one."""
    ids = torch.tensor([example.input_ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float()
    found = torch.log_softmax(logits, dim=-1)
    places = range(example.answer_start, len(example.input_ids))  # token t is predicted at t - 1
    logps = torch.stack([found[t - 1, example.input_ids[t]] for t in places])
    hits = torch.tensor([int(logits[t - 1].argmax()) == example.input_ids[t] for t in places])
    return logps, hits


@every_family
@torch.no_grad()
def test_equal_to_a_gather_from_full_logits_batched_and_padded_on_either_side(family: str) -> None:
    rows, padding = examples(family)
    lm = model(family)
    wanted = [by_hand(lm, row) for row in rows]
    numbers = torch.cat([torch.full((row.answer_length,), i) for i, row in enumerate(rows)])
    assert torch.cat([logps for logps, _ in wanted]).std() > 0.1  # else every position would do

    for row, (logps, hits) in zip(rows, wanted, strict=True):  # one by one, without padding: the same numbers
        alone = answer_logprobs(lm, collate([row], padding))
        torch.testing.assert_close(alone.logps, logps, atol=1e-5, rtol=1e-5)
        assert torch.equal(alone.hits, hits)  # type: ignore[arg-type]
        assert alone.rows.tolist() == [0] * row.answer_length
    for side in ("right", "left"):
        scored = answer_logprobs(lm, collate(rows, padding, side))  # type: ignore[arg-type]
        assert scored.logps.dtype == torch.float32
        assert torch.equal(scored.rows, numbers)
        torch.testing.assert_close(scored.logps, torch.cat([logps for logps, _ in wanted]), atol=1e-4, rtol=1e-4)
        assert torch.equal(scored.hits, torch.cat([hits for _, hits in wanted]))  # type: ignore[arg-type]
        sums = torch.stack([logps.sum() for logps, _ in wanted])
        torch.testing.assert_close(scored.per_row(len(rows)), sums, atol=5e-4, rtol=1e-4)


@some_families
@pytest.mark.parametrize("side", ["right", "left"])
def test_gradients_are_those_of_the_full_logits(family: str, side: str) -> None:
    rows, padding = examples(family)
    lm = model(family)
    weights = torch.tensor([1.0, -0.5, 0.25, 2.0, -1.0])  # unlearning pushes some rows up and others down

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        named = [(n, p) for n, p in lm.named_parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, grads, strict=True)}

    wanted = gradients(sum((w * by_hand(lm, row)[0].sum() for w, row in zip(weights, rows, strict=True)), weights[0]))
    batch = collate(rows, padding, side)  # type: ignore[arg-type]
    found = gradients((weights * answer_logprobs(lm, batch).per_row(len(rows))).sum())
    largest = max(float(g.abs().max()) for g in wanted.values())
    assert largest > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * largest, rtol=1e-3, msg=lambda m, n=name: n + m)


@every_family
@torch.no_grad()
def test_the_head_sees_the_answer_positions_only(family: str) -> None:
    rows, padding = examples(family)
    lm = model(family)
    made: list[int] = []
    head = lm.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, __, output: made.append(output.numel()))
    try:
        answer_logprobs(lm, collate(rows, padding), hits=False)
    finally:
        handle.remove()
    tokens, count = sum(len(row.input_ids) for row in rows), sum(row.answer_length for row in rows)
    assert tokens > count
    padded = len(rows) * max(len(row.input_ids) for row in rows)
    # one number a place where the body's states are collected, and logits for the answers alone
    assert made == [padded, count * lm.config.vocab_size]


@every_family
@torch.no_grad()
def test_afterwards_the_head_sees_everything_again(family: str) -> None:
    rows, padding = examples(family)
    lm, batch = model(family), collate(rows, padding)
    head = lm.get_output_embeddings()
    hooks = len(head._forward_pre_hooks)
    before = lm(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    answer_logprobs(lm, batch)
    assert len(head._forward_pre_hooks) == hooks
    after = lm(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert after.shape[:2] == batch.input_ids.shape
    assert torch.equal(after, before)


def test_the_hook_goes_after_an_exception_too() -> None:
    lm = model("llama")
    head = lm.get_output_embeddings()
    outside = collate([Example([1, 10**6, 3], 1, True, 3)], 0)  # an id that the model does not have
    with pytest.raises(IndexError):
        answer_logprobs(lm, outside)
    assert len(head._forward_pre_hooks) == 0
    assert "forward" not in head.__dict__
    assert not any(module._forward_hooks for module in lm.modules())


@torch.no_grad()
def test_a_large_vocabulary_is_scored_some_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, padding = examples("gemma2")
    lm, batch = model("gemma2"), collate(rows, padding)
    whole = answer_logprobs(lm, batch)
    monkeypatch.setattr("expunge.models.logprobs._LOGIT_VALUES", 3 * lm.config.vocab_size)  # 3 tokens at a time
    parts = answer_logprobs(lm, batch)
    torch.testing.assert_close(parts.logps, whole.logps, atol=1e-5, rtol=0)
    assert parts.hits is not None
    assert whole.hits is not None
    assert torch.equal(parts.hits, whole.hits)


@torch.no_grad()
def test_hits_are_left_out_when_they_are_not_wanted() -> None:
    rows, padding = examples("llama")
    assert answer_logprobs(model("llama"), collate(rows, padding), hits=False).hits is None


@torch.no_grad()
def test_the_padding_id_makes_no_difference() -> None:
    rows, _ = examples("gpt2")
    for side in ("right", "left"):
        first, second = (answer_logprobs(model("gpt2"), collate(rows, pad, side)).logps for pad in (0, 77))  # type: ignore[arg-type]
        assert torch.equal(first, second)


@torch.no_grad()
def test_a_batch_without_answers_scores_nothing() -> None:
    ids = torch.tensor([[5, 6, 7]])
    scored = answer_logprobs(model("llama"), Batch(ids, torch.ones_like(ids), torch.zeros_like(ids).bool()))
    assert scored.logps.shape == scored.rows.shape == (0,)
    assert scored.per_row(1).tolist() == [0.0]


@torch.no_grad()
def test_half_precision_is_scored_in_float32() -> None:
    rows, padding = examples("llama")
    lm = zoo.model("llama").bfloat16()
    scored = answer_logprobs(lm, collate(rows[:1], padding))
    assert scored.logps.dtype == torch.float32
    logps, _ = by_hand(lm, rows[0])
    torch.testing.assert_close(scored.logps, logps, atol=2e-2, rtol=0)


def test_sums_per_row_by_hand() -> None:
    found = AnswerLogprobs(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 2]))
    assert found.per_row(4).tolist() == [-3.0, 0.0, -4.0, 0.0]


@some_families
@torch.no_grad()
def test_a_lora_model_is_scored_on_either_side(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    adapted: Any = get_peft_model(zoo.model(family), lora).eval()
    rows, padding = examples(family)
    wanted = torch.cat([by_hand(adapted, row)[0] for row in rows])
    for side in ("right", "left"):
        scored = answer_logprobs(adapted, collate(rows, padding, side))  # type: ignore[arg-type]
        torch.testing.assert_close(scored.logps, wanted, atol=1e-4, rtol=1e-4)


def test_a_model_without_a_head_is_an_error() -> None:
    rows, padding = examples("llama")
    with pytest.raises(ModelError, match="LlamaModel has no output embeddings"):
        answer_logprobs(model("llama").model, collate(rows, padding))
