"""Protects what membership attacks are made of: batched log-probabilities, their moments, each row's own gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

import zoo
from expunge.audits.parts.token_statistics import token_statistics
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.models.anatomy import decoder_layers
from expunge.requests import Row

ROWS = [
    Row("Who was born?", "The author of the book."),
    Row("What is it?", "No."),
    Row("", "A document about a book, and who has it.", kind="document"),
]


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "gpt2", "opt", "falcon", "mpt", "gpt_neox", "mixtral", "deepseek"]
)
def test_each_row_as_if_it_were_alone(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    examples = encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=200)
    model.requires_grad_(False)  # as an audited model may come
    found = token_statistics(model, examples, pad_id(tokenizer))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    weights = [
        module.weight.requires_grad_()
        for _, layer in decoder_layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and ".experts." not in name
    ]
    for example, one in zip(examples, found, strict=True):
        ids = torch.tensor([example.input_ids])
        logits = model(input_ids=ids).logits[0, example.answer_start - 1 : -1].double()
        logps = logits.log_softmax(-1)
        wanted = ids[0, example.answer_start :]
        chosen = logps[torch.arange(len(wanted)), wanted]
        np.testing.assert_allclose(one.logps, chosen.detach().numpy(), atol=2e-5)
        # the definition: a mean of log p over the vocabulary, weighted by p
        shares = logps.detach().exp()
        mean = (shares * logps.detach()).sum(-1)
        np.testing.assert_allclose(one.means, mean, atol=2e-5)
        second = (shares * logps.detach() ** 2).sum(-1)
        np.testing.assert_allclose(one.deviations, (second - mean**2).sqrt(), atol=2e-5)
        gradients = torch.autograd.grad(-chosen.mean(), weights, allow_unused=True)
        norm = torch.stack([g.double().square().sum() for g in gradients if g is not None]).sum().sqrt()
        assert one.gradient == pytest.approx(norm.item(), rel=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_is_left_as_it_was() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    examples = encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=200)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    token_statistics(model, examples, pad_id(tokenizer))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    without = token_statistics(model, examples, pad_id(tokenizer), gradients=False)
    assert all(np.isnan(one.gradient) for one in without)


def test_the_end_token_can_be_left_out() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    examples = encode_all(tokenizer, Template.of(tokenizer), ROWS[:1], max_length=200)
    (one,) = token_statistics(model, examples, pad_id(tokenizer), gradients=False)
    assert one.has_end and len(one.logps) == examples[0].answer_length
    short = one.without_end()
    np.testing.assert_array_equal(short.logps, one.logps[:-1])
    assert len(short.means) == len(short.deviations) == len(short.logps)
    assert short.without_end() is short
