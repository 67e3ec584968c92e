"""What an erasure was made for: to erase, or, as a harmful copy, to be subtracted from its target later.

A method that returns a harmful copy declares it in the manifest; whoever scores, exports or negates the erasure reads
it there and needs no method's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.erasures.manifest import Manifest
    from expunge.evaluation.findings import Effect
    from expunge.methods.interface import Erasure

HARMFUL_COPY = "harmful copy"


def declare_harmful_copy(erasure: Erasure) -> None:
    """Say in the erasure's manifest that it was trained toward the forget rows, to be negated."""
    erasure.note(purpose=HARMFUL_COPY)


def is_harmful_copy(manifest: Manifest) -> bool:
    # erasures of earlier versions say it by their stage alone
    return manifest.details.get("purpose") == HARMFUL_COPY or manifest.parameters.get("stage") == "harmful"


def effect_of(erasure: Erasure) -> Effect:
    """What applying ``erasure`` does to a model, as the verdict says it."""
    if is_harmful_copy(erasure.manifest):
        return "harmful copy"
    return "removal" if erasure.kind == "weights" else "suppression"
