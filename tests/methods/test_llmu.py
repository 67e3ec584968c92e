"""Protects LLMU's three terms: their signs, their weights, and that a weight of 0 leaves its rows unread."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.llmu import LLMU, llmu_forget_loss, llmu_random_loss
from fake_step import gradient, made_logits, scored, side, step, total
from fitting import fit
from history import read_history


def test_terms_by_hand() -> None:
    # -e1 nll_f = 0.5 * mean(-2, -4) = -1.5. e2 nll(y_rand) = 2 * 3 = 6. e3 KL = 4 * 1/2 ln(4/3) = 0.5753641 (p_ref
    # even, p = (3/4, 1/4)).
    forget, random = torch.tensor([-2.0, -4.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    logits = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    retain = side(logits, [0], reference=torch.zeros(1, 2))
    terms = LLMU(e1=0.5, e2=2.0, e3=4.0).loss(step(scored(forget), scored(random), retain))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"forget_loss": -1.5, "random_loss": 6.0, "retain_loss": 0.5753641}
    )
    assert gradient(terms, forget).tolist() == [0.25, 0.25]  # down
    assert gradient(terms, random).tolist() == [-2.0]  # up
    assert gradient(terms, logits)[0].tolist() == pytest.approx([1.0, -1.0])  # back to the target
    assert llmu_forget_loss(torch.tensor([-3.0]), 0.1).item() == pytest.approx(-0.3)
    assert llmu_random_loss(torch.tensor([-3.0]), 0.1).item() == pytest.approx(0.3)


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits = [made_logits(3, seed=seed) for seed in range(3)]
    reference, labels = made_logits(3, seed=3).detach(), [0, 3, 6]
    terms = LLMU().loss(
        step(
            side(logits[0], labels, [1, 2]),
            side(logits[1], labels, [2, 1], owner=[0, 1]),
            side(logits[2], labels, [3], reference=reference),
        )
    )

    def p(z: torch.Tensor) -> torch.Tensor:
        return z.exp() / z.exp().sum()

    nll_f, nll_rand = (-sum(p(z)[y].log() for z, y in zip(some, labels, strict=True)) / 3 for some in logits[:2])
    kl = sum((p(r) * (p(r) / p(z)).log()).sum() for z, r in zip(logits[2], reference, strict=True)) / 3
    torch.testing.assert_close(total(terms), -0.1 * nll_f + nll_rand + kl)


def test_a_weight_of_zero_leaves_its_rows_unread() -> None:
    assert LLMU().sides(0) == {"forget", "alternative", "retain"}
    assert LLMU(e1=0.0).sides(0) == {"alternative", "retain"}
    assert LLMU(e2=0.0).sides(0) == {"forget", "retain"}
    assert LLMU(e3=0.0).sides(0) == {"forget", "alternative"}
    assert LLMU(e3=0.0).uses_retain  # the random answers are theirs
    assert not LLMU(e3=0.0).reference_logits
    assert not LLMU(e2=0.0, e3=0.0).uses_retain
    assert list(LLMU(e1=0.0, e3=0.0).loss(step(alternative=scored([-1.0])))) == ["random_loss"]
    assert list(LLMU(e2=0.0, e3=0.0).loss(step(scored([-1.0])))) == ["forget_loss"]
    with pytest.raises(ConfigError, match="e1, e2 and e3 are all 0"):
        LLMU.from_values({"e1": 0, "e2": 0, "e3": 0})
    with pytest.raises(ConfigError, match=r"method\.alpha: no such field of llmu"):
        LLMU.from_values({"alpha": 1})


@pytest.mark.parametrize("fields", [{}, {"e2": 0.0}, {"e3": 0.0}])
def test_a_fit_logs_its_terms(tmp_path: Path, fields: dict[str, float]) -> None:
    fit("llmu", fields, folder=tmp_path, max_steps=1)
    line = read_history(tmp_path)[0]
    names = {"forget_loss": "e1", "random_loss": "e2", "retain_loss": "e3"}
    assert {name for name in names if name in line} == {name for name, field in names.items() if field not in fields}
    if not fields:
        assert line["retain_loss"] == pytest.approx(0.0, abs=1e-6)  # nothing has moved yet
