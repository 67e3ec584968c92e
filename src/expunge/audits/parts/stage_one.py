"""What the retrained model's states do to the target: computed once for a pair of models and a set of facts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from expunge.audits.interface import Audited
from expunge.audits.parts.depth import VERSION, Facts, drops, hidden_states
from expunge.errors import CacheError
from expunge.files import write_json
from expunge.models.fingerprint import fingerprint, values_digest
from expunge.training.run import Progress


def stage_one(
    audited: Audited, facts: Facts, *, folder: Path | None, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """[N] the target's mean log-probability of each fact, [L, N] how far it falls with the retrained model's states.

    Looked up among what the session has computed of these models, under the facts' tokens, and in ``folder`` where one
    is given, under the fingerprints of both models and the values of their weights in memory as well.

    Raises:
        CacheError: the folder's file is damaged.
    """
    asked = _facts(facts)
    key = "" if folder is None else _digest([*asked, *_models(audited)])
    path = None if folder is None else folder / f"depth-{key[:32]}.json"
    place = ("stage_one", _digest(asked))
    known = audited.memory.get(place)
    if known is None and path is not None and path.is_file():
        known = _read(path, key, len(facts.examples))
    if known is None:
        with audited.model("retrained") as model:
            sources = hidden_states(model, facts)
        with audited.model("target") as model:
            known = drops(model, sources, facts, progress=progress, what="depth of the retrained model")
    if path is not None and not path.is_file():
        write_json(path, {"key": key, "clean": known[0].tolist(), "drops": known[1].tolist()})
    audited.memory[place] = known
    return known


def _facts(facts: Facts) -> list[Any]:
    spans = [list(span) for span in facts.spans]
    return [VERSION, facts.side, facts.batch_tokens, spans, [example.input_ids for example in facts.examples]]


def _models(audited: Audited) -> list[Any]:
    """What tells both models from others. All their weights are read for it."""
    parts: list[Any] = []
    for name in ("target", "retrained"):
        with audited.model(name) as model:  # type: ignore[arg-type]
            print_of = fingerprint(model, audited.tokenizer)
            parts += [print_of.config, print_of.tokenizer, print_of.weights, print_of.dtype, print_of.quantization]
            parts += [values_digest(model.named_parameters()), str(model.device.type)]
    return parts


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(path: Path, key: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        clean, found = np.array(kept["clean"], dtype=np.float64), np.array(kept["drops"], dtype=np.float64)
        if kept["key"] != key or clean.shape != (count,) or found.shape[1:] != (count,):
            raise ValueError("of something else")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CacheError(
            f"{path} cannot be read as a cache of unlearning depths ({error}). Delete it; it will be computed again."
        ) from error
    return clean, found
