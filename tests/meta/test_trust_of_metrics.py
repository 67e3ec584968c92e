"""Protects the table of metrics: AUCs, rank correlations, which way a metric points, and the order of the rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.errors import ConfigError
from expunge.meta.pool import KNOWING, UNKNOWING, Member, PoolRecipe, members
from expunge.meta.trust import auc, markdown, spearman, trusts


def test_auc_counts_pairs_and_half_of_the_ties() -> None:
    # 0.9 is above 0.1, 0.4 and 0.5: 3 of 3; 0.4 is above 0.1, ties with 0.4, is below 0.5: 1.5 of 3
    found = auc(np.array([0.9, 0.4]), np.array([0.1, 0.4, 0.5]))
    assert found.value == pytest.approx(4.5 / 6)
    # draws of 0.9 alone have 1, of 0.4 against 0.5 alone 0
    assert 0 <= found.low < found.value < found.high <= 1
    apart = auc(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    # apart in two pairs that share no model: Clopper and Pearson's lower end of 2 in 2
    assert (apart.value, apart.low, apart.high) == (1, pytest.approx(0.025**0.5), 1)


def test_auc_leaves_out_what_is_undefined() -> None:
    # without the NaNs: 1 above 0, and 1 below 2
    assert auc(np.array([1.0, np.nan]), np.array([0.0, 2.0, np.nan])).value == 0.5
    assert math.isnan(auc(np.array([np.nan]), np.array([1.0])).value)


def test_spearman_is_the_correlation_of_ranks() -> None:
    # ranks 1 2 3 4 and 2 1 4 3: all differences are 1, so 1 - 6 * 4 / (4 * 15)
    found = spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([20.0, 10.0, 900.0, 30.0]))
    assert found.value == pytest.approx(0.6)
    assert found.low <= 0.6 <= found.high
    # ties share their mean rank: 1 2.5 2.5 4 against 1 2 3 4 have covariance sum 4.5 and squares 4.5 and 5
    tied = spearman(np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tied.value == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([6.0, 5.0, 4.0])).value == pytest.approx(-1)


def test_spearman_without_an_order_is_undefined() -> None:
    assert math.isnan(spearman(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])).value)
    assert math.isnan(spearman(np.array([1.0, np.nan]), np.array([1.0, 2.0])).value)
    # the pair with the NaN is left out; the others are in order
    assert spearman(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 0.0])).value == pytest.approx(1)


def _values(plain: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    return {"plain": plain, "held_out": plain, "relearned": after, "rounded": plain}


POOL = [
    Member("000", "as asked", 0, 1),
    Member("001", "nothing", 0, 1),
    Member("002", "reworded", 0, 1),
    Member("003", "false facts", 0, 1),
]


def test_metrics_are_judged_by_what_they_say_of_a_pool() -> None:
    words = [0.9, 0.1, 0.2, 0.3]  # the reworded one is below the one that was told false facts
    ratio = [0.2, 0.9, 0.1, 0.8]  # truth ratio: those that know have less of it
    turned = [0.1, 0.9, 0.8, 0.2]
    every = [
        _values({"forget_rouge": a, "forget_truth_ratio": b}, {"forget_rouge": c, "forget_truth_ratio": b})
        for a, b, c in zip(words, ratio, turned, strict=True)
    ]
    first, second = trusts(POOL, every)
    assert (first.metric, first.faithfulness.value) == ("forget_truth_ratio", 1)
    # of four pairs only reworded against false facts is the wrong way round
    assert (second.metric, second.faithfulness.value) == ("forget_rouge", 0.75)
    assert second.by_kind["reworded / false facts"] == 0
    assert second.by_kind["reworded / all"] == 0.5
    assert second.by_kind["all / false facts"] == 0.5
    assert second.by_kind["as asked / nothing"] == 1
    assert math.isnan(second.by_kind["both wordings / all"])
    # ranks 4 1 2 3 and 1 4 3 2: differences 3 3 1 1, so 1 - 6 * 20 / 60
    assert second.relearning.value == pytest.approx(-1)
    assert second.quantization.value == pytest.approx(1)
    # afterwards 0.1 and 0.8 know, 0.9 and 0.2 do not: one pair of four is right
    assert second.after["relearning"].value == 0.25
    assert second.as_dict()["by_kind"]["both wordings / all"] is None


def test_the_table_shows_what_was_found() -> None:
    plain = [{"forget_rouge": value} for value in (0.9, 0.1, 0.8, None)]
    table = markdown(trusts(POOL, [_values(one, one) for one in plain])).splitlines()  # type: ignore[arg-type]
    # without the last model both that know are above the one that does not: with one such, 1 in 1, .025 at least
    assert table[2] == (
        "| `forget_rouge` | 1.00 (0.03 to 1.00) | 1.00 | undefined | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |"
    )
    assert len({line.count("|") for line in table}) == 1


def test_half_of_a_pool_knows_and_a_smaller_one_is_its_beginning() -> None:
    recipe = PoolRecipe()
    pool = members(40, recipe)
    assert sum(one.knows for one in pool) == 20
    assert members(6, recipe) == pool[:6]
    assert len({one.name for one in pool}) == 40
    for kind in (*KNOWING, *UNKNOWING):
        some = [one for one in pool if one.learned == kind]
        # no kind may be told apart by its base or by how long it was trained
        assert {one.base for one in some} == set(range(recipe.bases))
        assert {one.epochs for one in some} == set(recipe.epochs)
    for count in (3, 2, 0):
        with pytest.raises(ConfigError, match=f"models={count}"):
            members(count, recipe)


def test_the_committed_table_is_that_of_the_committed_numbers() -> None:
    root = Path(__file__).parent.parent.parent
    numbers = json.loads((root / "benchmarks" / "results" / "meta_authors.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "meta.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in page if line.startswith("| `")]
    assert len(numbers["models"]) == 40 and len(rows) == len(numbers["metrics"])
    for row, one in zip(rows, numbers["metrics"], strict=True):
        parts = (one["faithfulness"], one["robustness"]["relearning"], one["robustness"]["quantization"])
        auc_, relearned, rounded = (f"{p['value']:.2f} ({p['low']:.2f} to {p['high']:.2f})" for p in parts)
        kinds = " | ".join(f"{one['by_kind'][kind]:.2f}" for kind in ("reworded / all", "all / false facts"))
        assert row == f"| `{one['metric']}` | {auc_} | {kinds} | {relearned} | {rounded} |"
