"""What the verdict's rules are made of: evidence, what one rule says of it, and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Label = Literal[
    "broken",
    "gibberish",
    "over-unlearned",
    "not forgotten",
    "still knows the answers",
    "indistinguishable from never trained",
    "harmful copy, not an erasure",
    "no claim",
]
Effect = Literal["removal", "suppression", "harmful copy", "none"]
Evidence = Mapping[str, float]

SIGNIFICANCE = 0.05
"""A p-value below this tells the erased model from the retrained one."""

PROBED = {"probes_leakage": "leakage", "probes_probability": "the probability of the right answer"}
"""The scores of questions about what must go, and what a sentence calls them."""


@dataclass(frozen=True)
class Finding:
    """What one rule says: whether it holds (None: cannot be judged) and the sentence for it."""

    holds: bool | None
    reason: str


def number(value: float) -> str:
    """Three significant digits, as people write them."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
