"""The knowledge recovery score: how much of what erasing did to the logits an intervention undoes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.evaluation.uncertainty import mean_stderr, resampled_means


def squared_errors(logits: Tensor, reference: Tensor, rows: Tensor, count: int) -> Tensor:
    """[count] float64 sums over the vocabulary of the squared differences of logits [n, V] from ``reference`` [n, V],
    added up for each of ``count`` examples; ``rows`` [n] says whose each position is."""
    sums = (logits.float() - reference.float()).square_().sum(-1, dtype=torch.float64)
    return torch.zeros(count, dtype=torch.float64, device=sums.device).index_add(0, rows, sums)


def recovery_scores(patched: np.ndarray, erased: np.ndarray, least: np.ndarray | float = 0.0) -> np.ndarray:
    """[n] 1 - MSE(patched, target) / MSE(erased, target) of each example; 1: the target's logits are back, 0: nothing
    is, below 0: they are farther off than before.

    NaN, undefined, where the erased model's own error is not above ``least``: there is nothing to recover. After Hong
    et al., "Dissecting Fine-Tuning Unlearning in Large Language Models" (arXiv:2410.06606).
    """
    defined = erased > least
    return np.where(defined, 1 - patched / np.where(defined, erased, 1.0), np.nan)


@dataclass(frozen=True)
class Mean:
    """A mean over the ``n`` examples in which it is defined, with its standard error and its 95% bootstrap interval;
    None where no example defines it (or one alone: no error). ``undefined`` counts the other examples."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    undefined: int

    @classmethod
    def of(cls, by_example: np.ndarray) -> Mean:
        """The mean of ``by_example`` [n], NaN where it is undefined."""
        kept = by_example[~np.isnan(by_example)]
        missing = len(by_example) - len(kept)
        if not len(kept):
            return cls(None, None, None, None, 0, missing)
        low, high = np.quantile(resampled_means(kept[:, None])[:, 0], [0.025, 0.975])
        return cls(float(kept.mean()), mean_stderr(kept), float(low), float(high), len(kept), missing)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))
