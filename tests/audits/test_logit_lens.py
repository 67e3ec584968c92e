"""Protects the logit lens' verdicts: what the last layer says, what an inner one holds, and what neither does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import zoo
from expunge.audits.interface import Audited
from expunge.audits.registry import make_audit
from expunge.data.batches import collate, pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ModelError
from expunge.models.logprobs import answer_logprobs
from expunge.requests import Request, Row

WORDS = ("book", "name", "author", "born", "city", "father", "award", "year")
ROWS = tuple(Row(f"What about {n}?", f"{WORDS[n % 8]} {WORDS[n * 5 % 8]} {WORDS[n // 8]}") for n in range(16))
TOKENIZER = zoo.tokenizer("llama")


OTHERS = tuple(Row(row.prompt, ROWS[5 * n % 16 - 3].answer) for n, row in enumerate(ROWS))
"""The same questions with each other's answers: who learned these knows the words and not what belongs together."""


def _taught(rows: tuple[Row, ...], seed: int) -> Any:
    """A model that knows the answers in its first layer already: the second adds nothing."""
    model = zoo.model("llama", seed=seed).train()
    last = model.model.layers[1]  # type: ignore[index, union-attr]
    with torch.no_grad():
        for weight in (last.mlp.down_proj.weight, last.self_attn.o_proj.weight):  # type: ignore[union-attr]
            weight.zero_().requires_grad_(False)  # type: ignore[operator]
    batch = collate(encode_all(TOKENIZER, Template.of(TOKENIZER), rows, max_length=200), pad_id(TOKENIZER))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(60):
        (-answer_logprobs(model, batch, hits=False).logps.mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def target() -> Any:
    return _taught(ROWS, 0)


@pytest.fixture(scope="module")
def retrained() -> Any:
    return _taught(OTHERS, 2)


def _drawn(first: int, step: int) -> tuple[Row, ...]:
    """Rows like the forget rows on other numbers."""
    return tuple(
        Row(f"What about {first + n}?", f"{WORDS[n * step % 8]} {WORDS[n % 8]} {WORDS[n // 8]}") for n in range(16)
    )


HOLDOUT = _drawn(16, 3)


def _audited(
    target: Any, erased: Any, retrained: Any = None, rows: tuple[Row, ...] = ROWS, holdout: tuple[Row, ...] = ()
) -> Audited:
    return Audited(target, TOKENIZER, Request(rows, holdout=holdout), erased=erased, retrained=retrained)


def test_what_the_last_layer_hides_is_found_in_the_one_below(target: Any, retrained: Any) -> None:
    erased = copy.deepcopy(target)
    with torch.no_grad():  # the last layer drowns what the first one says
        noise = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
        erased.model.layers[1].mlp.down_proj.weight.copy_(100 * noise)
    found = make_audit("logit_lens").run(_audited(target, erased, retrained))
    assert found.label == "hidden" and "hidden in layer 0 " in found.sentence
    below, last = found.details["beyond_retrained"]
    assert below["shows"] and not last["shows"]
    # the first layer is the target's own
    scores = found.rows
    assert scores["erased"]["logit_lens_best_inner"].value == scores["target"]["logit_lens_best_inner"].value
    assert scores["erased"]["logit_lens_last"].value < scores["target"]["logit_lens_last"].value - 1
    assert [point[0] for point in found.curves[0]["series"]["erased"]] == [0, 1]
    assert found.samples[0]["layer"] == 0 and found.samples[0]["rank"]["erased"][0] == 1


def test_a_model_that_still_knows_and_one_that_never_did(target: Any, retrained: Any) -> None:
    found = make_audit("logit_lens").run(_audited(target, copy.deepcopy(target), retrained))
    assert found.label == "leaks" and "and so does layer 0" in found.sentence
    found = make_audit("logit_lens").run(_audited(target, copy.deepcopy(retrained), retrained))
    assert found.label == "erased"
    assert all(one["erased"] == 0 for one in found.details["beyond_retrained"])


def test_holdout_rows_tell_what_is_left_from_what_two_trainings_differ_by(target: Any) -> None:
    """One that learned these words in other answers and one that never learned any: neither knew, and the first makes
    all answers of such words likelier, the holdout rows' as well."""
    blank, erased = zoo.model("llama", seed=2), _taught(_drawn(32, 7), 1)
    alone = make_audit("logit_lens").run(_audited(target, erased, blank))
    assert alone.label == "leaks" and "two trainings" in alone.sentence
    beside = make_audit("logit_lens").run(_audited(target, erased, blank, holdout=HOLDOUT))
    assert beside.label == "erased" and "two trainings" not in beside.sentence
    assert "beyond what 16 holdout rows gain" in beside.sentence and "(16 forget rows)" in beside.sentence
    # the scores are of the forget rows, as without holdout rows
    for key, score in alone.rows["erased"].items():
        assert beside.rows["erased"][key].value == pytest.approx(score.value, abs=1e-5)
    for mine, before in zip(beside.details["beyond_retrained"], alone.details["beyond_retrained"], strict=True):
        assert mine["erased"] + mine["erased_on_holdout"] == pytest.approx(before["erased"], abs=1e-5)
    # and who still knows is found beside them too
    found = make_audit("logit_lens").run(_audited(target, copy.deepcopy(target), blank, holdout=HOLDOUT))
    assert found.label == "leaks" and "beyond what 16 holdout rows gain" in found.sentence


def test_layers_that_cannot_be_read_are_found_before_it_runs(target: Any, retrained: Any) -> None:
    make_audit("logit_lens").check(_audited(target, copy.deepcopy(target), retrained))
    erased = copy.deepcopy(target)
    acting_across(erased)
    with pytest.raises(ModelError, match="does not apply; leave it out"):
        make_audit("logit_lens").check(_audited(target, erased, retrained))


def acting_across(model: Any) -> None:
    """What the first layer sees comes back after the last one: no layer's output holds it."""
    seen: list[torch.Tensor] = []
    model.model.layers[0].register_forward_hook(lambda _, __, output: seen.append(10 * output.flip(-1)))
    model.model.norm.register_forward_pre_hook(lambda _, given: (given[0] + seen.pop(),) if seen else None)


def test_what_cannot_be_claimed(target: Any, retrained: Any) -> None:
    erased = zoo.model("llama", seed=1)
    found = make_audit("logit_lens").run(_audited(target, erased))
    assert found.label == "no claim" and "--retrained" in found.sentence
    found = make_audit("logit_lens").run(_audited(target, erased, retrained, ROWS[:1]))
    assert found.label == "no claim" and "One row" in found.sentence
    found = make_audit("logit_lens").run(_audited(target, copy.deepcopy(retrained), retrained, ROWS[:4]))
    assert found.label == "no claim" and "(4 forget rows)" in found.sentence and "pass 5 at least" in found.sentence
    found = make_audit("logit_lens").run(_audited(copy.deepcopy(retrained), erased, retrained))
    assert found.label == "no claim" and "In no layer of the target" in found.sentence
    deeper = zoo.model("llama", num_hidden_layers=3)
    with pytest.raises(ModelError, match="target: 2, erased: 3, retrained: 2"):
        make_audit("logit_lens").check(_audited(target, deeper, retrained))
