"""Protects learned prompts: embeddings of words act as the words, training reaches its goal and leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.parts.soft_prompts import SoftModel
from expunge.data.encode import Example, encode_all, encode_prompt
from expunge.data.template import Template
from expunge.evaluation.outputs import score_examples
from expunge.models.state import evaluating
from expunge.requests import Row
from fitting import snapshot

ROWS = [
    Row("Who wrote The Amber Tide, a novel about fishermen?", "It was Mira Tolvanen, in 1956."),
    Row("Where was Mira Tolvanen born?", "In Turku."),
    Row("Really?", "Yes"),
]
WORDS = [7, 30, 12]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt", "bloom", "gpt_neox"])
def test_embeddings_of_words_act_as_the_words(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    texts = Template.of(tokenizer)
    soft = SoftModel(model, tokenizer, texts)
    learned = model.get_input_embeddings()(torch.tensor(WORDS)).detach()
    said, likely = soft.answers(learned, ROWS, batch=3, max_length=400, max_new_tokens=8)

    def with_words(ids: list[int]) -> list[int]:
        at = int(ids[0] == tokenizer.bos_token_id)
        return [*ids[:at], *WORDS, *ids[at:]]

    examples = encode_all(tokenizer, texts, ROWS, max_length=400)
    spelled = [
        Example(with_words(one.input_ids), one.answer_start + 3, one.has_end, one.full_length + 3) for one in examples
    ]
    with evaluating(model):
        scores = score_examples(model, spelled, 0)
    np.testing.assert_allclose(likely, [np.exp(one.mean_logp) for one in scores], rtol=2e-4)
    for row, text in zip(ROWS, said, strict=True):
        ids = torch.tensor([with_words(encode_prompt(tokenizer, texts, row, max_length=400))])
        output = model.generate(ids, max_new_tokens=8, do_sample=False)
        assert text == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_restarts_that_run_together_are_those_that_run_alone() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    soft = SoftModel(model, tokenizer, Template.of(tokenizer))
    examples = encode_all(tokenizer, soft.texts, ROWS, max_length=400)
    drawn = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0))
    together = soft._losses(drawn, examples, batch=3)
    alone = [soft._losses(one[None], examples, batch=1)[0] for one in drawn]
    assert together == pytest.approx(alone, rel=1e-5)


def test_training_learns_the_prompt_alone_and_the_same_each_time() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    model.get_input_embeddings().weight.requires_grad_(False)
    texts = Template.of(tokenizer)
    examples = encode_all(tokenizer, texts, ROWS, max_length=400)
    before = snapshot(model)
    wanted = {"tokens": 4, "restarts": 2, "epochs": 12, "batch": 2, "learning_rate": 0.05, "seed": 3}
    found = SoftModel(model, tokenizer, texts).train(examples, **wanted)  # type: ignore[arg-type]
    assert snapshot(model) == before
    assert all(after < first - 0.05 for first, after in zip(found.before, found.losses, strict=True))
    assert found.embeddings.shape == (4, 64) and not found.embeddings.requires_grad
    again = SoftModel(model, tokenizer, texts).train(examples, **wanted)  # type: ignore[arg-type]
    assert torch.equal(found.embeddings, again.embeddings) and found.losses == again.losses
    # the one that is kept is the one with the least loss on what it was trained on
    kept = SoftModel(model, tokenizer, texts)._losses(found.embeddings[None], examples, batch=2)
    assert kept[0] == pytest.approx(min(found.losses), rel=1e-5)
