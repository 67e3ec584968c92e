"""Protects PDU's flattening loss, the weight of its retain term, and when and where its dual variable moves."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.pdu import PDU, dual_step, pdu_loss
from fake_step import gradient, made_logits, scored, side, step, total


def test_value_and_gradient_by_hand() -> None:
    # z (4, 1, 1): max 4, mean 2, m = 2, loss 4. By the largest logit 2 m (1 - 1/3) = 8/3, by others -2 m / 3 = -4/3.
    logits = torch.tensor([[4.0, 1.0, 1.0]], requires_grad=True)
    loss = pdu_loss(logits, torch.tensor([1]))
    loss.sum().backward()
    assert loss.tolist() == [4.0]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([8 / 3, -4 / 3, -4 / 3])


def test_flat_logits_lose_nothing_and_no_label_matters() -> None:
    flat = torch.full((2, 5), 3.0)
    assert pdu_loss(flat, torch.tensor([0, 4])).tolist() == [0.0, 0.0]
    logits = made_logits(2)
    assert torch.equal(pdu_loss(logits, torch.tensor([0, 0])), pdu_loss(logits, torch.tensor([6, 3])))


def test_terms_by_hand_and_what_is_observed() -> None:
    # forget mean(4, 0) = 2; retain nll mean(1, 2) = 1.5, lambda 3: 4.5; the plain 1.5 is reported beside it.
    forget = side(torch.tensor([[4.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), [0, 0])
    now = step(forget, retain=scored([-1.0, -2.0]), state={"lambda": 3.0})
    terms = PDU(eps=1.0).loss(now)
    assert {name: term.item() for name, term in terms.items()} == {"forget_loss": 2.0, "retain_loss": 4.5}
    assert {name: value.item() for name, value in now.observed.items()} == {"retain_nll": 1.5}


def test_the_retain_nll_is_observed_while_its_weight_is_zero() -> None:
    now = step(scored([-1.0]), retain=scored([-1.0, -2.0]), state={"lambda": 0.0})
    assert list(PDU(eps=1.0).loss(now)) == ["forget_loss"]
    assert now.observed["retain_nll"].item() == 1.5
    assert PDU(eps=1.0).sides(0) == {"forget", "retain"}


def test_dual_variable_by_hand() -> None:
    assert dual_step(50.0, retain_nll=1.2, eps=1.0, eta=5.0) == pytest.approx(51.0)  # above its bound: up by 5 * .2
    assert dual_step(50.0, retain_nll=0.8, eps=1.0, eta=5.0) == pytest.approx(49.0)
    assert dual_step(1.0, retain_nll=0.5, eps=1.0, eta=5.0) == 0.0  # 1 - 2.5, but never below 0
    assert dual_step(0.0, retain_nll=1.5, eps=1.0, eta=5.0) == 2.5  # and up again


def test_it_moves_after_the_warm_up_only() -> None:
    method = PDU(eps=1.0)
    state = method.initial_state()
    assert state == {"lambda": 50.0}
    terms = {"forget_loss": 9.0, "retain_loss": 60.0, "retain_nll": 1.2}
    assert method.after_step(state, terms, epoch=4.9) == {"lambda": 50.0}
    assert method.after_step(state, terms, epoch=5.0) == pytest.approx({"lambda": 51.0})
    assert state == {"lambda": 50.0}
    assert PDU(eps=1.0, warmup_epochs=0, initial=2.0).after_step({"lambda": 2.0}, terms, epoch=0.1) == pytest.approx(
        {"lambda": 3.0}
    )


def test_a_run_in_which_it_never_moves_is_remarked() -> None:
    # After epoch 5 of 5 the variable moves, and no step follows.
    said = PDU(eps=1.0).remark(5.0)
    assert said is not None
    assert "method.warmup_epochs=5 and 5 epochs are planned" in said
    assert PDU(eps=1.0).remark(5.2) is None
    assert PDU(eps=1.0, eta=0.0).remark(5.0) is None  # a weight that is meant to stay


def test_it_equals_the_definition_with_whole_logits() -> None:
    forget, retain, y_r = made_logits(4), made_logits(3, seed=1), [2, 0, 5]
    terms = PDU(eps=1.0).loss(
        step(side(forget, [0, 1, 2, 3], [1, 3]), retain=side(retain, y_r), state={"lambda": 50.0})
    )
    flat = sum((max(z.tolist()) - sum(z.tolist()) / 7) ** 2 for z in forget) / 4
    nll = -sum((z.exp() / z.exp().sum())[y].log() for z, y in zip(retain, y_r, strict=True)) / 3
    torch.testing.assert_close(total(terms), flat + 50 * nll)
    assert bool(gradient(terms, forget).any())


def test_eps_has_no_default() -> None:
    with pytest.raises(
        ConfigError, match=r"^method\.eps is required: bound on the nll of .* a token\. Pass method\.eps=\.\.$"
    ):
        PDU.from_values({})
    with pytest.raises(ConfigError, match=r"method\.eta=-1"):
        PDU.from_values({"eps": 1, "eta": -1})
