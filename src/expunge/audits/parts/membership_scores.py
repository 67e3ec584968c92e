"""Every membership attack's score of each text, from the statistics of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.audits.parts.membership_attacks import least_share, loss_score, standardised, zlib_score
from expunge.audits.parts.token_statistics import TokenStatistics

PERCENT = (20, 40)


def membership_scores(
    own: Sequence[TokenStatistics], texts: Sequence[str], reference: Sequence[TokenStatistics] | None = None
) -> dict[str, list[float]]:
    """By attack the scores of N answers, each higher for what looks more like a text that was trained on.

    ``own`` and ``texts`` are the N answers' statistics in the model and their words; ``reference`` their statistics in
    a model that never saw them, for the attack of that name.
    """
    inner = [one.without_end() for one in own]  # every answer ends so, and it says nothing of what was learned
    surprises = [standardised(one.logps, one.means, one.deviations) for one in inner]
    found = {
        "loss": [loss_score(one.logps) for one in own],
        "zlib": [zlib_score(one.logps, text) for one, text in zip(own, texts, strict=True)],
        **{f"min_k_{k}": [least_share(one.logps, k) for one in inner] for k in PERCENT},
        **{f"min_k_plus_plus_{k}": [least_share(values, k) for values in surprises] for k in PERCENT},
        "gradient_norm": [-one.gradient for one in own],
    }
    if reference is not None:
        found["reference"] = [
            loss_score(one.logps) - loss_score(other.logps) for one, other in zip(own, reference, strict=True)
        ]
    return found
