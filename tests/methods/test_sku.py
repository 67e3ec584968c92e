"""Protects SKU: the signs of stage 1's three terms, the cap on the third, and stage 2's turn, exact to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.erasures.adapter import Adapter
from expunge.erasures.weight_change import WeightChange
from expunge.errors import ConfigError, RequestError, TrainingError
from expunge.methods.interface import Erasure
from expunge.methods.weights.sku import SKU, disassociation_loss, distortion_loss, divergence_loss, subtract_change
from expunge.requests import Request
from fake_step import gradient, made_logits, scored, side, step, total
from fitting import REQUEST, fit, logits, rows
from history import read_history


def test_terms_by_hand() -> None:
    # e1 2 * nll 3 = 6: the copy learns the harm. e2 3 * mean over all 4 tokens of 2 answers = 3 * 2 = 6. e3 4: KL of
    # even p_ref from (3/4, 1/4) is 0.1438410, so -0.5753641: the copy leaves the target on normal text.
    harmful, random = torch.tensor([-3.0], requires_grad=True), torch.tensor([-1.0, -2.0, -1.0, -4.0])
    normal = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    terms = SKU(e1=2.0, e2=3.0, e3=4.0, answers=2).loss(
        step(
            scored(harmful),
            scored(random, [1, 3], owner=[0, 0]),
            side(normal, [0], reference=torch.zeros(1, 2)),
        )
    )
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"forget_loss": 6.0, "random_loss": 6.0, "divergence_loss": -0.5753641}
    )
    assert gradient(terms, harmful).tolist() == [-2.0]
    assert gradient(terms, normal)[0].tolist() == pytest.approx([-1.0, 1.0])  # away from p_ref: -4 (p - p_ref)
    assert (
        distortion_loss(torch.tensor([-2.0]), 2.5).item() == disassociation_loss(torch.tensor([-2.0]), 2.5).item() == 5
    )


def test_a_token_beyond_the_cap_is_pushed_no_further() -> None:
    kl = torch.tensor([1.0, 5.0, 40.0], requires_grad=True)
    loss = divergence_loss(kl, 2.0, cap=4.0)
    loss.sum().backward()
    assert loss.tolist() == [-2.0, -8.0, -8.0]
    assert kl.grad is not None
    assert kl.grad.tolist() == [-2.0, 0.0, 0.0]


def test_it_equals_the_definition_with_whole_distributions() -> None:
    forget, random, normal = (made_logits(4, seed=seed) for seed in range(3))
    reference, labels = made_logits(4, seed=3).detach(), [0, 3, 6, 1]
    terms = SKU(divergence_cap=1.0).loss(
        step(
            side(forget, labels, [1, 3]),
            side(random, labels, [1, 1, 2], owner=[0, 0, 1]),
            side(normal, labels, [4], reference=reference),
        )
    )

    def p(z: torch.Tensor) -> torch.Tensor:
        return z.exp() / z.exp().sum()

    harm, other = (-sum(p(z)[y].log() for z, y in zip(some, labels, strict=True)) / 4 for some in (forget, random))
    kls = [(p(r) * (p(r) / p(z)).log()).sum() for z, r in zip(normal, reference, strict=True)]
    assert any(kl > 1 for kl in kls)
    assert any(kl < 1 for kl in kls)
    torch.testing.assert_close(total(terms), 2.5 * harm + 2.5 * other - sum(kl.clamp(max=1.0) for kl in kls) / 4)


def test_a_weight_of_zero_leaves_its_rows_unread() -> None:
    assert SKU().sides(0) == {"forget", "alternative", "retain"}
    assert SKU(e1=0.0).sides(0) == {"alternative", "retain"}
    assert SKU(e2=0.0).sides(0) == {"forget", "retain"}
    assert SKU(e3=0.0).sides(0) == {"forget", "alternative"}
    assert not SKU(e3=0.0).uses_retain
    assert not SKU(e3=0.0).reference_logits
    assert SKU().reference_logits == {"retain"}
    assert fit("sku", {"e2": 0.0, "e3": 0.0}, request=Request(forget=rows(2, "forget")), max_steps=1).tensors
    with pytest.raises(ConfigError, match="e1 and e2 are both 0"):
        SKU(e1=0.0, e2=0.0)


def test_a_harmful_copy_has_no_scale() -> None:
    with pytest.raises(ConfigError, match=r"method.scale=0.3 is not used with method.stage=harmful.*negate --scale"):
        SKU(stage="harmful", scale=0.3)
    assert SKU(stage="harmful", scale=1.0).scale == 1.0  # as run files write it


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_full_weights_are_subtracted(scale: float) -> None:
    harmful = fit("sku", {"stage": "harmful"}, max_steps=2)
    erasure = fit("sku", {"scale": scale}, max_steps=2)
    target = zoo.model("llama").state_dict()
    assert isinstance(erasure, WeightChange)
    assert erasure.tensors.keys() == harmful.tensors.keys()
    for name, value in erasure.tensors.items():
        assert torch.equal(value, target[name] - scale * (harmful.tensors[name] - target[name]))
    timed = {"reference_seconds", "purpose"}
    assert (harmful.details["purpose"], "purpose" in erasure.details) == ("harmful copy", False)
    assert {k: v for k, v in erasure.details["harmful"].items() if k not in timed} == {
        k: v for k, v in harmful.details.items() if k not in timed
    }
    assert erasure.details["update_norm"] == pytest.approx(scale * harmful.details["update_norm"], rel=1e-5)
    model = zoo.model("llama")
    with erasure.applied(model):
        assert not torch.equal(logits(model), logits(zoo.model("llama")))


def test_an_adapter_is_turned() -> None:
    given: dict[str, Any] = {"parameters": "lora", "max_steps": 3, "learning_rate": 1e-3}
    harmful, erasure = fit("sku", {"stage": "harmful"}, **given), fit("sku", {"scale": 0.5}, **given)
    assert isinstance(erasure, Adapter)
    for name, value in erasure.tensors.items():
        assert torch.equal(value, (-0.5 if "lora_B" in name else 1.0) * harmful.tensors[name])
    # To first order the logits move to the other side of the target's, half as far.
    model = zoo.model("llama")
    plain = logits(model)
    moves = []
    for one in (harmful, erasure):
        with one.applied(model):
            moves.append((logits(model) - plain).flatten())
    assert torch.nn.functional.cosine_similarity(moves[0], moves[1], dim=0).item() < -0.9


def test_sixteen_bit_weights_are_rounded_once() -> None:
    model = zoo.model("llama").to(torch.bfloat16)
    harmful = fit("sku", {"stage": "harmful"}, model=model, max_steps=2, learning_rate=1e-2)
    erasure = fit("sku", {"scale": 0.7}, model=model, max_steps=2, learning_rate=1e-2)
    target = model.state_dict()
    for name, value in erasure.tensors.items():
        start = target[name].float()
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, (start - 0.7 * (harmful.tensors[name].float() - start)).to(torch.bfloat16))
    with erasure.applied(model):
        pass


def test_a_scale_that_rounding_swallows_or_that_overflows_is_an_error() -> None:
    model = zoo.model("llama").to(torch.bfloat16)
    # The norms' weights are 1, where bfloat16 knows steps of 1/256 and 1/128.
    harmful = fit(
        "sku", {"stage": "harmful"}, model=model, max_steps=2, learning_rate=2e-2, layers=("*layernorm.weight",)
    )
    with pytest.raises(TrainingError, match="is lost in rounding to bfloat16"):
        subtract_change(harmful, model, 1e-6)
    with pytest.raises(TrainingError, match="not finite"):
        subtract_change(harmful, model, 1e300)


def test_saved_it_says_which_stage_it_is(tmp_path: Path) -> None:
    erasure = fit("sku", {"scale": 0.7}, max_steps=1)
    erasure.save(tmp_path / "erasure")
    loaded = Erasure.load(tmp_path / "erasure")
    assert (loaded.manifest.parameters["stage"], loaded.manifest.parameters["scale"]) == ("both", 0.7)
    assert loaded.details["tensors_trained"] == erasure.details["harmful"]["tensors_trained"]


def test_stage_one_learns_the_harm_and_leaves_the_target_elsewhere(tmp_path: Path) -> None:
    fit("sku", {"stage": "harmful"}, folder=tmp_path, epochs=8)
    lines = [line for line in read_history(tmp_path) if "loss" in line]
    assert lines[0]["divergence_loss"] == pytest.approx(0.0, abs=1e-6)
    assert lines[-1]["divergence_loss"] < -0.01
    assert lines[-1]["forget_loss"] < 0.8 * lines[0]["forget_loss"]
    assert lines[-1]["random_loss"] < 0.8 * lines[0]["random_loss"]


def test_it_needs_enough_other_answers() -> None:
    with pytest.raises(RequestError, match="cannot be given 5 other answers: the other forget rows have too few"):
        fit("sku", request=Request(forget=rows(5, "forget"), retain=REQUEST.retain))
    assert fit("sku", {"answers": 4}, request=Request(forget=rows(5, "forget"), retain=REQUEST.retain), max_steps=1)
