"""How long a text a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def position_limit(model: PreTrainedModel | Any) -> int | None:
    """How many tokens the model takes at most, None where nothing limits it."""
    return config_limit(model.config)


def config_limit(config: Any) -> int | None:
    """The same from a configuration alone."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len"):  # the latter in MPT
        limit = getattr(config, name, None)
        if limit and int(limit) > 0:
            return int(limit)
    return None


def max_tokens(model: PreTrainedModel | Any, wanted: int) -> int:
    """``wanted`` tokens, or as many as the model takes."""
    limit = position_limit(model)
    return wanted if limit is None else min(wanted, limit)
