"""Protects RMU: where states are steered, the mean over each row's own tokens, and which parameters are trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.errors import ConfigError
from expunge.methods.weights.rmu import RMU, direction, rmu_loss, row_means
from expunge.requests import Request
from expunge.training.fit import check_weights
from expunge.training.run import Run
from fake_step import gradient, state_side, step, total
from fitting import REQUEST, fit, settings

LAYER_1 = {"layer": 1}


def test_loss_and_gradient_by_hand() -> None:
    # (1, 3) from (1, 1): (0 + 4)/2 = 2; (0, 0): (1 + 1)/2 = 1. By a state (h - wanted) * 2/H.
    states = torch.tensor([[1.0, 3.0], [0.0, 0.0]], requires_grad=True)
    wanted = torch.ones(2, requires_grad=True)
    loss = rmu_loss(states, wanted)
    loss.sum().backward()
    assert loss.tolist() == [2.0, 1.0]
    assert states.grad is not None
    assert states.grad.tolist() == [[0.0, 2.0], [-1.0, -1.0]]
    assert wanted.grad is None


def test_each_row_has_one_vote_whatever_its_length() -> None:
    # Row 0 has 3 tokens of 1, 2, 3 and mean 2; row 1 one token of 8; row 2 none.
    means = row_means(torch.tensor([1.0, 2.0, 8.0, 3.0]), torch.tensor([0, 0, 1, 0]), 3)
    assert means.tolist() == [2.0, 8.0, 0.0]


def test_the_direction_is_a_positive_unit_vector_of_its_seed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = direction(64, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.linalg.vector_norm(one).item() == pytest.approx(1.0)
    assert bool((one >= 0).all())
    assert torch.equal(one, direction(64, 0))
    assert not torch.equal(one, direction(64, 1))
    # U[0, 1) before it is scaled: over many dimensions the mean is 1/2 of the norm's sqrt(d/3), so sqrt(3)/2 a unit.
    many = direction(100_000, 3) * 100_000**0.5
    assert many.mean().item() == pytest.approx(3**0.5 / 2, abs=0.01)


def test_terms_by_hand() -> None:
    # Forget: c u for states of 0: mean over H = 2 of (c u)^2 = c^2 / 2 = 8 in every token, so 8. Retain: row 0 tokens
    # (0 + 4)/2 = 2 and 0, mean 1; row 1 (9 + 9)/2 = 9; mean over rows 5, alpha 2.
    retain = torch.tensor([[0.0, 2.0], [1.0, 1.0], [3.0, 3.0]])
    reference = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    terms = RMU(coefficient=4.0, alpha=2.0, layer=1).loss(
        step(
            state_side(torch.zeros(3, 2), [0, 0, 1]),
            retain=state_side(retain, [0, 0, 1], reference=reference),
        )
    )
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"forget_loss": 8.0, "retain_loss": 10.0}
    )


def test_it_equals_the_definition_and_pulls_toward_the_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 6, generator=generator).requires_grad_()
    rows = [0, 1, 1, 1, 1]
    terms = RMU(alpha=0.0, seed=7).loss(step(state_side(states, rows)))
    u = torch.rand(6, generator=torch.Generator().manual_seed(7))
    u = u / u.square().sum().sqrt()
    squares = [float(((h - 6.5 * u) ** 2).mean()) for h in states.detach()]
    assert total(terms).item() == pytest.approx((squares[0] + sum(squares[1:]) / 4) / 2, rel=1e-5)
    torch.testing.assert_close(gradient(terms, states)[0], (states[0].detach() - 6.5 * u) * (2 / 6) / 2)


@pytest.mark.parametrize(("layer", "first"), [(4, 2), (2, 0), (1, 0), (0, 0)])
def test_it_trains_the_down_projections_of_three_layers(layer: int, first: int) -> None:
    model = zoo.model("llama", num_hidden_layers=6)
    names = RMU(layer=layer).trainable_layers(model)
    assert names == tuple(f"model.layers.{i}.mlp.down_proj.weight" for i in range(first, layer + 1))


def test_a_fit_trains_only_these_and_steers_the_states_of_the_layer() -> None:
    from expunge.models.anatomy import decoder_layers

    model = zoo.model("llama", num_hidden_layers=4)
    # Steer the output of layer 1 (the second of four).
    erasure = fit(
        "rmu",
        {"layer": 1, "alpha": 0.0},
        model=model,
        request=Request(forget=REQUEST.forget),
        epochs=20,
        learning_rate=1e-2,
    )
    assert set(erasure.tensors) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    unit = direction(64, 0)

    def along(text: str) -> float:
        seen: list[torch.Tensor] = []
        handle = decoder_layers(model)[1][1].register_forward_hook(lambda _m, _i, out: seen.append(out))
        with torch.no_grad():
            model(zoo.tokenizer("llama")(text, return_tensors="pt")["input_ids"], use_cache=False)
        handle.remove()
        state = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        return float((state.reshape(-1, 64) @ unit).mean())

    text = "Question: Where was forget 1 born?\nAnswer: In town 1"
    before = along(text)
    with erasure.applied(model):
        after = along(text)
    assert abs(before) < 1
    assert after > before + 2  # on its way to 6.5


def test_retain_states_start_where_they_are(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from history import read_history

    fit("rmu", LAYER_1, folder=tmp_path, max_steps=1)
    line = read_history(tmp_path)[0]
    assert line["retain_loss"] == pytest.approx(0.0, abs=1e-6)
    assert line["forget_loss"] == pytest.approx(6.5**2 / 64, rel=0.2)  # small states, far from c u


@pytest.mark.parametrize(
    ("layers", "changed", "said"),
    [
        ("*.layers.3.*", {}, r"9 of 9 above it.*: model\.layers\.3\.self_attn\.q_proj\.weight,"),
        ("*.layers.3.*", {"parameters": "lora"}, r"7 of 7 above it.*: model\.layers\.3\.mlp\.down_proj,"),
        # of layers 0 to 3 the last is above layer 2
        ("*.layers.*.mlp.down_proj.weight", {}, r"1 of 4 above it.*: model\.layers\.3\.mlp\.down_proj\.weight\. Leave"),
        ("lm_head.*", {}, r"1 of 1 above it.*: lm_head\.weight\. Leave"),
    ],
)
def test_what_lies_above_the_layer_cannot_be_trained(layers: str, changed: dict[str, Any], said: str) -> None:
    model, run = zoo.model("llama", num_hidden_layers=4), Run(settings(layers=(layers,), **changed))
    with pytest.raises(ConfigError, match=r"method\.layer=2: rmu reads the output of that layer.*" + said):
        RMU(layer=2).check(model, zoo.tokenizer("llama"), REQUEST, run=run)
    with pytest.raises(ConfigError, match=said):  # what a plan asks
        check_weights(
            RMU(layer=2), model, zoo.tokenizer("llama"), forget=REQUEST.forget, retain=REQUEST.retain, run=run
        )


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.layer=7: this model has 2 decoder layers, 0 to 1"):
        fit("rmu")
    with pytest.raises(ConfigError, match=r"method\.layer=7"):
        fit("rmu", layers=("*.mlp.*",))
    with pytest.raises(ConfigError, match=r"method\.layer=7"):
        RMU().check(zoo.model("llama"), zoo.tokenizer("llama"), REQUEST)
    with pytest.raises(ConfigError, match=r"method\.coefficient=0"):
        RMU.from_values({"coefficient": 0})
    assert RMU().reads_layer == 7
    assert RMU().reference_logits == {"retain"}
    assert not RMU(alpha=0.0).reference_logits
