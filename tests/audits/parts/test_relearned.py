"""Protects training again: which rows are held out, what one step does, that nothing of it stays."""

from __future__ import annotations

import pytest
import torch

import zoo
from expunge.audits.parts.relearned import halves, train_again
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ModelError
from expunge.evaluation.outputs import score_examples
from expunge.requests import Row
from fitting import snapshot

ROWS = [Row(f"Where is item {i}?", f"In the city of author number {i}.") for i in range(6)]
TOKENIZER = zoo.tokenizer("llama")
EXAMPLES = encode_all(TOKENIZER, Template.of(TOKENIZER), ROWS, max_length=64)
HOW = {"padding": pad_id(TOKENIZER), "batch": 3, "rank": 4, "seed": 0}


def test_half_of_the_rows_are_held_out_and_facts_stay_together() -> None:
    fitted, scored = halves(ROWS, 0)
    assert len(fitted) == len(scored) == 3 and {*fitted, *scored} == set(ROWS)
    assert halves(ROWS, 0) == (fitted, scored) and any(halves(ROWS, seed)[0] != fitted for seed in range(1, 4))
    # one fact by the same answer, and on by the same prompt: 0, 1 and 2; each of the others is alone
    rows = [
        Row("Where was she born?", "In Lahti."),
        Row("Her birthplace?", "in  LAHTI"),
        Row("Her birthplace", "Lahti, Finland"),
        *(Row(f"What is number {i}?", f"It is {i}.") for i in range(3)),
    ]
    for seed in range(6):
        sides = [{rows.index(row) for row in side} for side in halves(rows, seed)]
        assert sorted(map(len, sides)) == [3, 3] and {0, 1, 2} in sides
    # a large fact and a small one: one of them is left to score
    fitted, scored = halves(rows[:4], 1)
    assert sorted([len(fitted), len(scored)]) == [1, 3]
    assert halves(rows[:3], 0) == ([], rows[:3])


@pytest.mark.parametrize(("trained", "rate"), [("full", 0.01), ("lora", 0.01)])
def test_training_brings_the_loss_down_and_leaves_nothing(trained: str, rate: float) -> None:
    model = zoo.model("llama")
    before, looks = snapshot(model), []

    def look(step: int) -> None:
        scores = score_examples(model, EXAMPLES, pad_id(TOKENIZER))
        looks.append((step, -sum(float(one.logps.mean()) for one in scores) / len(scores)))

    for _ in range(2):
        train_again(model, EXAMPLES, look, steps=(1, 8), trained=trained, learning_rate=rate, **HOW)  # type: ignore[arg-type]
        assert snapshot(model) == before
    assert [step for step, _ in looks] == [1, 8, 1, 8] and looks[:2] == looks[2:]  # the same twice
    assert looks[1][1] < 0.92 * looks[0][1]

    def stop(_: int) -> None:
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        train_again(model, EXAMPLES, stop, steps=(2,), trained=trained, learning_rate=rate, **HOW)  # type: ignore[arg-type]
    assert snapshot(model) == before


def test_the_first_step_moves_weights_by_the_rate_against_the_gradient() -> None:
    """Adam's first step is rate * g / (|g| + 1e-8): the rate itself, up to 1% where |g| is above 1e-6."""
    model = zoo.model("llama")
    weight = model.model.layers[1].mlp.down_proj.weight
    before, moved = weight.detach().clone(), []
    train_again(
        model,
        EXAMPLES,
        lambda _: moved.append(weight.detach() - before),
        steps=(1,),
        trained="full",
        learning_rate=0.01,
        **{**HOW, "batch": 6},  # type: ignore[arg-type]
    )
    from expunge.data.batches import collate

    batch = collate(EXAMPLES, pad_id(TOKENIZER))
    labels = batch.input_ids.masked_fill(~batch.answer_mask, -100)
    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
    gradient = weight.grad
    assert gradient is not None
    large = gradient.abs() > 1e-4  # clipping to norm 1 makes it at most a hundredth here
    assert float(large.float().mean()) > 0.5
    torch.testing.assert_close(moved[0][large], -0.01 * gradient[large].sign(), rtol=0.02, atol=0)


def test_a_loss_that_is_no_number_is_refused() -> None:
    model = zoo.model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"the loss is nan\. Set a smaller audits\.relearning\.learning_rate"):
        train_again(model, EXAMPLES, lambda _: None, steps=(1,), trained="full", learning_rate=0.1, **HOW)  # type: ignore[arg-type]


def test_rows_by_letter_are_not_parted_by_letter() -> None:
    rows = [Row(f"What is stone {n}?\nA. red B. blue C. grey D. white", "ABCD"[n % 4]) for n in range(12)]
    sides = [{row.answer for row in side} for seed in range(8) for side in halves(rows, seed)]
    # of C(12, 6) = 924 sides 4 C(9, 6) - 6 = 330 lack a letter, so that of 16 about 10 have all; by letter none has
    assert sum(len(side) == 4 for side in sides) >= 4
    assert all(len(side) == 6 for side in halves(rows, 0))
    named = [Row(f"{how} {name}?", "lakes") for name in ("Tarnite", "Velmite") for how in "abcde"]
    fitted, scored = halves(named, 0, ["Tarnite", "Velmite"])
    assert {len({row.prompt.split()[1] for row in side}) for side in (fitted, scored)} == {1}
