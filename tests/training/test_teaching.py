"""Protects the loss of a taught distribution: where it counts, where it does not, and cut into parts."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import fake_step
import zoo
from expunge.data.batches import collate
from expunge.data.encode import Example
from expunge.errors import TrainingError
from expunge.methods.interface import Paper
from expunge.methods.weight_method import WeightMethod
from expunge.models.halves import Halves
from expunge.teachers.sparse_rows import SparseRows, sparse_rows
from expunge.training.rows import Rows
from expunge.training.schedule import Micro
from expunge.training.scoring import Batched, Layout, Reference, Scored, score_answers
from expunge.training.step import Step, Totals
from expunge.training.teaching import Taught, taught_divergence

LENGTHS = (5, 3, 4)  # answer tokens of two forget rows and a retain row
TAUGHT = ([0, 3], [2])  # which of the forget rows' are taught


class Learns(WeightMethod):
    """The distance to the teacher, and the retain rows' nll."""

    name: ClassVar[str] = "learns"
    paper: ClassVar[Paper] = Paper("none", "none")
    uses_retain: ClassVar[bool] = True  # type: ignore[assignment]

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught = step.forget.mean_over_taught(step.forget.teacher_kl())
        return {"taught": taught, "kept": step.retain.mean_over_tokens(-step.retain.logps)}


def examples(vocabulary: int) -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    return [
        Example(torch.randint(3, vocabulary, (4 + n,), generator=generator).tolist(), 4, True, 4 + n) for n in LENGTHS
    ]


def lessons(vocabulary: int) -> list[tuple[Tensor, SparseRows]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.tensor(places), sparse_rows(torch.randn(len(places), vocabulary, generator=generator).softmax(-1), 5)[0])
        for places in TAUGHT
    ]


def test_each_token_gets_its_distance_and_an_untaught_one_nothing() -> None:
    # Token 0 is taught (1, 0) and has (1/4, 3/4): KL = log 4. Token 2 is taught (0, 1): log(4/3). Token 1: nothing.
    taught = Taught(SparseRows.of_tokens(torch.tensor([1, 0]), 2), torch.tensor([1, -1, 0]))
    logits = torch.tensor([[1.0, 3.0]] * 3).log().requires_grad_()
    values = taught_divergence(logits, torch.zeros(3), taught)
    assert values.tolist() == pytest.approx([math.log(4), 0, math.log(4 / 3)])
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient[1].tolist() == [0, 0]
    assert gradient[0].tolist() == pytest.approx([0.25 - 1, 0.75])


def test_the_mean_is_over_the_taught_tokens_of_the_whole_batch() -> None:
    taught = Taught(SparseRows.of_tokens(torch.tensor([0]), 2), torch.tensor([0, -1]))
    logits = torch.tensor([[1.0, 3.0]] * 2).log().requires_grad_()
    side = fake_step.side(logits, [0, 0], totals=(20, 2, 8), taught=taught)
    # log 4 over the 8 taught tokens of the accumulated batch, not over its 20
    assert side.mean_over_taught(side.teacher_kl()).item() == pytest.approx(math.log(4) / 8)


def test_a_batch_brings_the_lessons_of_its_rows_in_its_order() -> None:
    some, lesson = examples(50), lessons(50)
    rows = Rows(some[:2], some[2:], taught=lesson)
    micro = Micro(forget=(1, 0), retain=(0,), visits=(0, 0))
    batch, layout = rows.batch(micro, Learns())
    assert [e.answer_length for e in batch] == [3, 5, 4]
    assert layout.taught == (1, 2)
    found = rows.lesson(micro, layout)
    assert found is not None
    assert found.at.tolist() == [-1, -1, 0, 1, -1, -1, 2, -1, -1, -1, -1, -1]
    assert torch.equal(found.targets.dense()[0], lesson[1][1].dense()[0])
    assert Rows(some[:2], some[2:]).lesson(micro, Layout((3,), (1, 0, 0))) is None


def scored(model: Any, most_tokens: int, taught: Taught | None) -> Scored:
    halves, some = Halves(model), examples(model.config.vocab_size)
    batch = collate(some, 0)
    states = halves.states(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    batched = Batched(
        method=Learns(),
        layout=Layout(LENGTHS, (2, 0, 1), forget_rows=2, taught=(2, 1)),
        labels=batch.input_ids[:, 1:][batch.answer_mask[:, 1:]],
        totals={"forget": Totals(8, 2, 3), "alternative": Totals(1, 1), "retain": Totals(4, 1)},
        reference=Reference(taught=taught),
        most_tokens=most_tokens,
    )
    return score_answers(halves, states[:, :-1][batch.answer_mask[:, 1:]], batched)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("most_tokens", [1, 2, 6, 100])
def test_cut_into_parts_it_is_the_loss_of_full_logits(
    family: str, most_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = zoo.model(family)
    vocabulary = target.config.vocab_size
    lesson = lessons(vocabulary)
    whole, parts = target, copy.deepcopy(target)
    dense = [rows.dense() for _, rows in lesson]
    loss = torch.zeros(())
    for number, example in enumerate(examples(vocabulary)):
        logits = whole(torch.tensor([example.input_ids])).logits[0, 3:-1].float()
        if number < 2:
            q = dense[number]
            z = logits[lesson[number][0]].log_softmax(-1)
            loss = loss + (q * (q.log() - z)).sum() / 3  # three taught tokens
        else:
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(example.input_ids[4:]))
    loss.backward()
    monkeypatch.setattr(SparseRows, "dense", None)  # no dense teacher is made
    found = scored(parts, most_tokens, Taught.of(LENGTHS, lesson))
    found.loss.backward()
    torch.testing.assert_close(found.loss, loss, atol=1e-5, rtol=1e-5)
    grads = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    for name, parameter in parts.named_parameters():
        if name in grads:
            torch.testing.assert_close(parameter.grad, grads[name], atol=1e-6, rtol=1e-4)


def test_a_loss_that_reads_a_teacher_says_when_there_is_none() -> None:
    with pytest.raises(TrainingError, match="teaching gave none"):
        scored(zoo.model("llama"), 100, None)
