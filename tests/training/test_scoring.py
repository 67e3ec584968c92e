"""Protects the engine under every loss: gradients made part by part are those of the definition over full logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import zoo
from expunge.data.batches import collate, pad_id
from expunge.data.encode import Example
from expunge.errors import TrainingError
from expunge.methods.interface import Paper
from expunge.methods.weight_method import Sides, WeightMethod
from expunge.models.halves import Halves
from expunge.training.scoring import Batched, Layout, Reference, score_answers, score_states, scoring
from expunge.training.step import Step, Totals

# Two forget rows with 2 and 1 alternatives, three retain rows; answers of 1 to 6 tokens.
LENGTHS = (3, 6, 2, 4, 1, 2, 5, 1)
LAYOUT = Layout(lengths=LENGTHS, counts=(2, 3, 3), owner=(0, 0, 1), forget_rows=2)
TOTALS = {"forget": Totals(10.0, 3.0), "alternative": Totals(8.0, 4.0), "retain": Totals(9.0, 5.0)}


class Everything(WeightMethod):
    """A loss that reads all there is, so that one check covers every part."""

    name: ClassVar[str] = "everything"
    paper: ClassVar[Paper] = Paper("none", "none")
    reference_logps: ClassVar[Sides] = frozenset({"forget", "alternative"})  # type: ignore[assignment]
    reference_logits: ClassVar[Sides] = frozenset({"retain"})  # type: ignore[assignment]

    def loss(self, step: Step) -> dict[str, Tensor]:
        f, a, r = step.forget, step.alternative, step.retain
        assert a.owner is not None
        ratio = f.logp - f.reference_logp
        pair = (a.logp - a.reference_logp) - ratio[a.owner]
        step.observe("rows_seen", torch.tensor(float(f.count + a.count + r.count)))
        return {
            "rows": f.mean_over_rows(torch.sigmoid(ratio)),
            "pairs": a.mean_over_rows(torch.sigmoid(0.3 * pair)),
            "spread": f.mean_over_tokens(f.per_token(lambda z, _: z.var(-1)) * (f.positions + 1)),
            "kl": r.mean_over_tokens(r.kl()),
            "long": r.mean_over_rows(r.logp / r.lengths),
        }


def rows(family: str) -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    vocabulary = len(zoo.tokenizer(family))
    return [
        Example(torch.randint(3, vocabulary, (4 + length,), generator=generator).tolist(), 4, True, 4 + length)
        for length in LENGTHS
    ]


def whole(model: Any, target: Any, family: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The same loss from full logits, row by row, with autograd alone."""
    logits, given = [], []
    for example in rows(family):
        ids = torch.tensor([example.input_ids])
        logits.append(model(ids).logits[0, 3:-1].float())
        given.append(target(ids).logits[0, 3:-1].detach().float())
    labels = [torch.tensor(example.input_ids[4:]) for example in rows(family)]
    logp, reference = (
        torch.stack([z.log_softmax(-1).gather(1, y[:, None]).sum() for z, y in zip(side, labels, strict=True)])
        for side in (logits, given)
    )
    ratio = logp - reference
    pairs = ratio[2:5] - ratio[torch.tensor([0, 0, 1])]
    kl = torch.cat(
        [
            (q.softmax(-1) * (q.log_softmax(-1) - z.log_softmax(-1))).sum(-1)
            for q, z in zip(given[5:], logits[5:], strict=True)
        ]
    )
    spread = torch.cat([z.var(-1) * torch.arange(1, len(z) + 1) for z in logits[:2]])
    terms = {
        "rows": torch.sigmoid(ratio[:2]).sum() / 3,
        "pairs": torch.sigmoid(0.3 * pairs).sum() / 4,
        "spread": spread.sum() / 10,
        "kl": kl.sum() / 9,
        "long": (logp[5:] / torch.tensor(LENGTHS[5:])).sum() / 5,
    }
    return torch.stack(list(terms.values())).sum(), terms


def states_of(halves: Halves, family: str) -> tuple[Tensor, Tensor]:
    batch = collate(rows(family), pad_id(zoo.tokenizer(family)))
    states = halves.states(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return states[:, :-1][batch.answer_mask[:, 1:]], batch.input_ids[:, 1:][batch.answer_mask[:, 1:]]


def moved(model: Any) -> Any:
    """A copy whose weights differ a little from the target's."""
    other = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.05 * torch.randn_like(p) * p.std().nan_to_num(0.1).clamp(min=0.01)
    return other


def batched(target: Any, family: str, most_tokens: int, **changed: Any) -> Batched:
    halves = Halves(target)
    with torch.no_grad():
        states, labels = states_of(halves, family)
        logits = halves.logits(states)
        tokens = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    logps = torch.stack([part.sum() for part in tokens.split(LENGTHS)])
    values: dict[str, Any] = {
        "method": Everything(),
        "layout": LAYOUT,
        "labels": labels,
        "totals": TOTALS,
        "reference": Reference(logps, states, target.get_output_embeddings().forward),
        "most_tokens": most_tokens,
    }
    return Batched(**{**values, **changed})


def gradients(model: Any) -> Mapping[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("most", [4, 7, 10**6])
def test_loss_and_every_gradient_are_those_of_full_logits(family: str, most: int) -> None:
    target = zoo.model(family)
    model, same = moved(target), moved(target)
    expected, terms = whole(same, target, family)
    expected.backward()
    halves = Halves(model)
    states, _ = states_of(halves, family)
    found = score_answers(halves, states, batched(target, family, most))
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.item(), abs=2e-5)
    for name, value in terms.items():
        assert found.terms[name].item() == pytest.approx(value.item(), abs=2e-5), name
    assert found.observed["rows_seen"].item() == 8  # each row in one part
    ours, others = gradients(model), gradients(same)
    assert ours.keys() == others.keys()
    largest = max(float(g.abs().max()) for g in others.values())
    for name, gradient in others.items():
        torch.testing.assert_close(
            ours[name], gradient, atol=1e-5 * max(1.0, largest), rtol=1e-4, msg=f"{family} {name}"
        )


@pytest.mark.parametrize("trained", ["head", "body"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(trained: str) -> None:
    target = zoo.model("llama")
    model, same = moved(target), moved(target)
    for one in (model, same):
        for name, p in one.named_parameters():
            p.requires_grad_(("lm_head" in name) == (trained == "head"))
    whole(same, target, "llama")[0].backward()
    halves = Halves(model)
    states, _ = states_of(halves, "llama")
    score_answers(halves, states, batched(target, "llama", 5)).loss.backward()
    ours, others = gradients(model), gradients(same)
    assert ours.keys() == others.keys()
    for name, gradient in others.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-5, rtol=1e-4)


def test_a_factor_on_the_loss_scales_the_gradient() -> None:
    target = zoo.model("llama")
    found = []
    for factor in (1.0, 2.0):
        model = moved(target)
        halves = Halves(model)
        states, _ = states_of(halves, "llama")
        (factor * score_answers(halves, states, batched(target, "llama", 6)).loss).backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], 2 * gradient)


def test_parts_keep_a_forget_row_with_its_alternatives() -> None:
    # Answers: forget 3, 6; alternatives 2, 4 (of row 0), 1 (of row 1); retain 2, 5, 1. Row 0 with its two is 9 tokens.
    assert list(LAYOUT.parts(10)) == [((0, 1), (2, 4), (5, 5)), ((1, 2), (4, 5), (5, 6)), ((2, 2), (5, 5), (6, 8))]
    assert list(LAYOUT.parts(1)) == [
        ((0, 1), (2, 4), (5, 5)),
        ((1, 2), (4, 5), (5, 5)),
        ((2, 2), (5, 5), (5, 6)),
        ((2, 2), (5, 5), (6, 7)),
        ((2, 2), (5, 5), (7, 8)),
    ]
    assert list(LAYOUT.parts(10**6)) == [((0, 2), (2, 5), (5, 8))]
    alone = Layout(lengths=(2, 4, 1), counts=(0, 3, 0), owner=(0, 0, 1), forget_rows=2)
    assert list(alone.parts(6)) == [((0, 0), (0, 2), (3, 3)), ((0, 0), (2, 3), (3, 3))]


def test_owners_count_from_the_first_forget_row_of_their_part() -> None:
    target = zoo.model("llama")
    seen: list[Any] = []

    class Looks(Everything):
        def loss(self, step: Step) -> dict[str, Tensor]:
            assert step.alternative.owner is not None
            seen.append((step.forget.count, step.alternative.owner.tolist(), step.retain.count))
            return super().loss(step)

    halves = Halves(target)
    states, _ = states_of(halves, "llama")
    score_answers(halves, states, batched(target, "llama", 10, method=Looks()))
    assert seen == [(1, [0, 0], 0), (1, [0], 1), (0, [], 2)]


def test_reading_what_was_not_asked_for_is_an_error() -> None:
    class Greedy(Everything):
        reference_logps: ClassVar[Sides] = frozenset()  # type: ignore[assignment]

    class Blind(Everything):
        reference_logits: ClassVar[Sides] = frozenset({"forget"})  # type: ignore[assignment]

    target = zoo.model("llama")
    halves = Halves(target)
    states, _ = states_of(halves, "llama")
    with pytest.raises(TrainingError, match="reference_logps"):
        score_answers(halves, states, batched(target, "llama", 10, method=Greedy()))
    with pytest.raises(TrainingError, match="reference_logits"):
        score_answers(halves, states, batched(target, "llama", 10, method=Blind()))


def test_states_of_a_layer_by_row() -> None:
    class Reads(WeightMethod):
        name: ClassVar[str] = "reads"
        paper: ClassVar[Paper] = Paper("none", "none")

        def loss(self, step: Step) -> dict[str, Tensor]:
            squares = ((step.retain.states - step.retain.reference_states) ** 2).sum()
            return {"forget": step.forget.states.sum(), "retain": squares}

    layout = Layout(lengths=(1, 1, 1), counts=(1, 0, 2), forget_rows=1)
    states = torch.tensor([[1.0], [2.0], [3.0], [5.0]], requires_grad=True)
    rows_of = torch.tensor([0, 0, 1, 2])
    given = Reference(layer_states=torch.tensor([[9.0], [9.0], [1.0], [2.0]]))
    one = Batched(Reads(), layout, torch.zeros(3, dtype=torch.long), TOTALS, given)  # type: ignore[arg-type]
    found = score_states(states, one, rows_of)
    # forget: 1 + 2. retain: (3 - 1)^2 + (5 - 2)^2 = 13.
    assert {name: value.item() for name, value in found.terms.items()} == {"forget": 3.0, "retain": 13.0}
    found.loss.backward()
    assert states.grad is not None
    assert states.grad[:, 0].tolist() == [1.0, 1.0, 4.0, 6.0]  # 2 * (3 - 1), 2 * (5 - 2)


def test_the_models_own_forward_is_back_afterwards() -> None:
    model = zoo.model("gpt2")
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    with pytest.raises(RuntimeError, match="inside"), scoring(model):
        assert torch.equal(model(ids).logits, before)  # without a score it is the model as it was
        found = model(input_ids=ids, score=lambda forward, inputs: (sorted(inputs), forward(**inputs).logits))
        assert found[0] == ["input_ids"]
        assert torch.equal(found[1], before)
        raise RuntimeError("inside")
    assert "forward" not in model.__dict__
