"""Loaded models as ``expunge evaluate`` takes them: whose part each plays, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_models(model: Any, target: Any, retrained: Any, *, erased: bool) -> None:
    """Refuse one model in two roles, and a control that carries an erasure."""
    from expunge.models.state import APPLIED

    for role, other in (("target", target), ("retrained", retrained)):
        if other is None or isinstance(other, str | Path):
            continue
        if other is model:
            carries = ", which carries the erasure" if erased else ""
            raise ConfigError(
                f"{role}= is the very model that is judged{carries}. Leave it out, or pass another copy of the "
                f"{role} model that was loaded by itself."
            )
        if getattr(other, APPLIED, ()):
            raise ConfigError(f"{role}= carries an erasure, so it is no control. Leave the context that applied it.")
    if target is not None and target is retrained:
        raise ConfigError("target= and retrained= are one model. Pass the one that never saw the rows as retrained=.")


def described(model: Any) -> dict[str, Any] | None:
    """A loaded model for ``run.yaml``: its class and the folder or hub id it came from."""
    if model is None:
        return None
    return {"path": str(getattr(model.config, "_name_or_path", "") or "") or None, "loaded": type(model).__name__}


def fingerprint_of(
    before: PreTrainedModel | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """The target's fingerprint; that of an erased model is the target's only where it is taken from files."""
    from expunge.models.fingerprint import fingerprint

    found = fingerprint(model if before is None else before, tokenizer)
    return found.as_dict() if before is not None or found.basis == "source" else {}
