"""Protects the unlearning depth: values derived by hand, 0 for the target, 1 for the retrained model, any padding."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.parts.depth import Facts, depth_scores, drops, hidden_states
from expunge.data.encode import Example
from expunge.errors import ModelError
from expunge.models.anatomy import decoder_layers
from expunge.models.layer_runs import LayerRuns

EXAMPLES = [Example([5, 6, 7, 8, 9, 10], 3, False, 6), Example([9, 8, 7, 6], 2, False, 4)]
SPANS = [(3, 5), (3, 4)]
FAMILIES = (*zoo.ISSUE_FAMILIES, "falcon", "bloom", "deepseek")


def facts(**settings: Any) -> Facts:
    return Facts(EXAMPLES, SPANS, 0, **settings)


def test_the_score_by_hand() -> None:
    # Three layers, four examples; layers count where d1 > .05.
    baseline = np.array([[1.0, 2.0, 0.05, 1.0], [3.0, 0.01, -1.0, 1.0], [0.0, 2.0, 0.0, 2.0]])
    found = np.array([[0.5, 4.0, 9.0, -1.0], [3.0, 5.0, 0.0, 0.25], [7.0, 1.0, 0.0, 2.0]])
    # 1: (1 * .5 + 3 * 1) / 4 = .875. 2: (2 * clip 2 -> 1 + 2 * .5) / 4 = .75. 3: no layer counts.
    # 4: (1 * clip -1 -> 0 + 1 * .25 + 2 * 1) / 4 = .5625.
    scores = depth_scores(baseline, found)
    assert scores[[0, 1, 3]].tolist() == [0.875, 0.75, 0.5625]
    assert np.isnan(scores[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_target_has_depth_0_and_the_retrained_model_1(family: str) -> None:
    target, retrained = zoo.model(family), zoo.model(family, seed=1)
    _, baseline = drops(target, hidden_states(retrained, facts()), facts())
    _, again = drops(target, hidden_states(copy.deepcopy(retrained), facts()), facts())
    _, own = drops(target, hidden_states(copy.deepcopy(target), facts()), facts())
    assert (own == 0).all()
    assert (again == baseline).all()
    size = np.abs(baseline)  # random models know no fact, and other states may as well raise its probability
    assert (size > 0).all()
    assert depth_scores(size, np.abs(again), 0.0).tolist() == [1.0, 1.0]
    assert depth_scores(size, own, 0.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_patched_states_by_hand(family: str) -> None:
    """One example alone, a whole forward with a hook on a layer, log-probabilities of the fact's tokens."""
    target, other = zoo.model(family), zoo.model(family, seed=1)
    clean, found = drops(target, hidden_states(other, facts()), facts())
    layers = [name for name, _ in decoder_layers(target)]
    for place, (example, (begin, end)) in enumerate(zip(EXAMPLES, SPANS, strict=True)):
        ids = torch.tensor([example.input_ids])
        states: list[torch.Tensor] = []
        at = slice(begin - 1, end - 1)

        def take(_: Any, __: Any, output: Any, into: list[torch.Tensor] = states) -> None:
            into.append((output[0] if isinstance(output, tuple) else output).clone())

        def mean(model: Any, begin: int = begin, end: int = end, ids: torch.Tensor = ids) -> float:
            logps = model(input_ids=ids).logits[0].log_softmax(-1)
            return float(sum(logps[n - 1, ids[0, n]] for n in range(begin, end)) / (end - begin))

        plain = mean(target)
        assert clean[place] == pytest.approx(plain, abs=1e-5)
        for layer, name in enumerate(layers):
            states.clear()
            handle = other.get_submodule(name).register_forward_hook(take)
            other(input_ids=ids)
            handle.remove()

            def put(_: Any, __: Any, output: Any, at: slice = at, given: list[torch.Tensor] = states) -> Any:
                values = (output[0] if isinstance(output, tuple) else output).clone()
                values[:, at] = given[0][:, at]
                return (values, *output[1:]) if isinstance(output, tuple) else values

            handle = target.get_submodule(name).register_forward_hook(put)
            assert found[layer, place] == pytest.approx(plain - mean(target), abs=1e-4)
            handle.remove()


def test_padding_batches_and_whole_forwards_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    target, other = zoo.model("llama"), zoo.model("llama", seed=1)
    _, found = drops(target, hidden_states(other, facts()), facts())
    for settings in ({"side": "left"}, {"batch_tokens": 1}):
        _, same = drops(target, hidden_states(other, facts(**settings)), facts(**settings))
        np.testing.assert_allclose(same, found, atol=1e-5)
    sources = hidden_states(other, facts())
    monkeypatch.setattr(LayerRuns, "agrees", lambda *_: False)  # a family whose layers hand on more than their output
    _, whole = drops(target, sources, facts())
    np.testing.assert_allclose(whole, found, atol=1e-5)


def test_a_layer_below_what_was_changed_is_not_deep() -> None:
    target = zoo.model("llama")
    erased = copy.deepcopy(target)
    with torch.no_grad():
        erased.model.layers[1].mlp.down_proj.weight.mul_(-3)
    _, found = drops(target, hidden_states(erased, facts()), facts())
    assert (found[0] == 0).all()
    assert (found[1] != 0).all()


def test_states_of_another_shape_are_an_error() -> None:
    with pytest.raises(ModelError, match=r"2 layers of width 64.*3 of 64"):
        drops(zoo.model("llama"), hidden_states(zoo.model("llama", num_hidden_layers=3), facts()), facts())
