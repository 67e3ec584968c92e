"""Protects what every loss promises the training loop: sums over rows, zero from no rows, no NaN, parts that add up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fake_step
from expunge.methods.registry import get_method, make_method, method_names
from expunge.methods.weight_method import WeightMethod

REQUIRED: dict[str, dict[str, Any]] = {"pdu": {"eps": 1.0}}
LOSSES = [name for name in method_names() if issubclass(get_method(name), WeightMethod)]


def made(name: str, **fields: Any) -> Any:
    return make_method(name, {**REQUIRED.get(name, {}), **fields})


def settings() -> list[Any]:
    """Every method at its defaults, and with KL as retain term where it has that choice; scrub's second epoch too."""
    found = []
    for name in LOSSES:
        found.append(pytest.param(made(name), 0, id=name))
        if {"retain", "alpha"} <= {field["name"] for field in get_method(name).parameters()}:
            found.append(pytest.param(made(name, retain="kl", alpha=0.5), 0, id=f"{name}-kl"))
    return [*found, pytest.param(made("scrub"), 1, id="scrub-min")]


every_loss = pytest.mark.parametrize(("method", "epoch"), settings())


@every_loss
def test_parts_of_a_batch_add_up_to_it(method: Any, epoch: int) -> None:
    rows = fake_step.Rows.made()
    whole = method.loss(rows.step(method, epoch=epoch))
    parts = [method.loss(rows.step(method, part, epoch=epoch)) for part in ((0,), (1, 2))]
    assert whole.keys() == parts[0].keys() == parts[1].keys()
    for name, term in whole.items():
        assert term.ndim == 0
        torch.testing.assert_close(sum(part[name] for part in parts), term, atol=1e-9, rtol=1e-6)
    added = sum(fake_step.total(part) for part in parts)
    for one, other in zip(
        rows.gradients(fake_step.total(whole)),
        rows.gradients(added),  # type: ignore[arg-type]
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


@every_loss
def test_only_the_sides_that_are_named_are_read(method: Any, epoch: int) -> None:
    # All others are empty, and without reference where none is asked for; a loss that reads more fails or gives 0.
    rows = fake_step.Rows.made()
    whole = rows.step(method, epoch=epoch)
    for name in ("forget", "alternative", "retain"):
        side = getattr(whole, name)
        if name not in method.reference_logps:
            object.__setattr__(side, "reference", None)
        if name not in method.reference_logits and side.logits is not None:
            side.logits.reference = None
    gradients = iter(rows.gradients(fake_step.total(method.loss(whole))))
    for name, leaves in rows.leaves.items():
        touched = [bool(next(gradients).any()) for _ in leaves]
        assert any(touched) == (name in method.sides(epoch))


@every_loss
def test_no_rows_give_zero_with_a_gradient(method: Any, epoch: int) -> None:
    if method.reads_layer is None:
        step = fake_step.step(epoch=epoch, state=method.initial_state())
    else:
        nothing = [torch.zeros(0, 5, requires_grad=True) for _ in range(2)]
        sides = [fake_step.state_side(n, [], reference=torch.zeros(0, 5), totals=(10, 2)) for n in nothing]
        step = fake_step.step(sides[0], None, sides[1])
    loss = fake_step.total(method.loss(step))
    assert loss.item() == 0
    assert loss.requires_grad
    loss.backward()


@every_loss
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_logits_of_any_size_give_finite_losses_and_gradients(method: Any, epoch: int, scale: float) -> None:
    rows = fake_step.Rows.made(scale=scale)
    loss = fake_step.total(method.loss(rows.step(method, epoch=epoch)))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in rows.gradients(loss))


@every_loss
def test_float32_is_enough(method: Any, epoch: int) -> None:
    rows = fake_step.Rows.made()
    exact = fake_step.total(method.loss(rows.step(method, epoch=epoch)))
    single = fake_step.Rows(
        {name: [leaf.detach().float().requires_grad_() for leaf in some] for name, some in rows.leaves.items()},
        rows.labels,
        {name: [one.float() for one in some] for name, some in rows.references.items()},
        rows.owner,
    )
    loss = fake_step.total(method.loss(single.step(method, epoch=epoch)))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
