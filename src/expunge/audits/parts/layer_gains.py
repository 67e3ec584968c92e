"""By layer, how much likelier a model makes the answers than the retrained one does, and in the forget rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expunge.audits.interface import ModelName
from expunge.audits.parts.beyond import Beyond, beyond
from expunge.evaluation.uncertainty import mean_stderr

_LEVEL = 0.05
_LEAST = 0.01  # nats; less is of no use to anybody, however sure


@dataclass(frozen=True)
class LayerGain:
    """What one layer shows: how far the answers are likelier than in the retrained model's same layer, in the erased
    model (``gain``) and in the target (``known``), in nats a token. With holdout rows it is what the forget rows have
    of it beyond those; ``holdout`` is the mean that the erased model has there."""

    gain: Beyond
    known: Beyond
    holdout: float | None

    def shows(self, least: float) -> bool:
        """Whether the erased model surely has more of the answer here, and at least the share ``least`` of what the
        target has more."""
        return self.gain.sure and self.known.sure and self.gain.value >= least * self.known.value


def layer_gains(
    forget: Mapping[ModelName, np.ndarray], holdout: Mapping[ModelName, np.ndarray] | None
) -> list[LayerGain]:
    """Each layer beside the retrained model's; empty without one.

    Args:
        forget: [L, n] the forget rows' log-probabilities by model.
        holdout: [L, m] those of rows that no model was trained on, m >= 2; None: there are none.
    """
    if "retrained" not in forget:
        return []
    count = len(forget["retrained"])

    def gained(name: ModelName, layer: int) -> Beyond:
        if holdout is None:
            return beyond(forget[name][layer], forget["retrained"][layer], tests=count)
        ours, theirs = (some[name][layer] - some["retrained"][layer] for some in (forget, holdout))
        return difference_of_differences(ours, theirs, tests=count)

    return [
        LayerGain(
            gained("erased", n),
            gained("target", n),
            None if holdout is None else float((holdout["erased"][n] - holdout["retrained"][n]).mean()),
        )
        for n in range(count)
    ]


def difference_of_differences(forget: np.ndarray, holdout: np.ndarray, *, tests: int = 1) -> Beyond:
    """How much more the forget rows gain [n] than the holdout rows [m], each gain one model's value less another's.

    What two trainings differ by in all rows alike falls out. ``sure``: it is 0.01 at least, and above 0 by Welch's
    one-sided t-test (Biometrika 34, 1947) at 5%, shared among ``tests``.
    """
    from scipy.stats import t

    value = float(forget.mean() - holdout.mean())
    errors = mean_stderr(forget), mean_stderr(holdout)
    if errors[0] is None or errors[1] is None:
        return Beyond(value, None, len(forget), False)
    first, second = errors[0] ** 2, errors[1] ** 2
    found = Beyond(value, float(np.sqrt(first + second)), len(forget), False)
    least = first**2 / (len(forget) - 1) + second**2 / (len(holdout) - 1)
    freedom = (first + second) ** 2 / least if least > 0 else min(len(forget), len(holdout)) - 1  # Satterthwaite's
    sure = value >= _LEAST and found.statistic > float(t.ppf(1 - _LEVEL / tests, freedom))
    return Beyond(value, found.stderr, len(forget), bool(sure))
