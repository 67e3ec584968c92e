"""A probe on disk: ``probe.json`` says of what the statistics are, ``statistics.safetensors`` holds them."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from expunge.errors import CacheError
from expunge.files import new_folder, sha256, write_json
from expunge.models.fingerprint import Fingerprint, fingerprint, values_digest
from expunge.models.roles import Site
from expunge.probing.result import ProbeResult, Scope
from expunge.probing.statistics import Moments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("expunge")

SCHEMA = 1
FACTS, TENSORS = "probe.json", "statistics.safetensors"


def save_probe(result: ProbeResult, folder: str | Path) -> None:
    """Write a probe into ``folder``, which appears whole or not at all (a probe that was there is replaced)."""
    facts = {
        "schema": SCHEMA,
        "scope": asdict(result.scope),
        "target": result.target.as_dict(),
        "values": result.values,
        "sites": [{**asdict(site), "count": moments.count} for site, moments in result.moments.items()],
    }
    tensors = {
        f"{site.key}.{name}": getattr(moments, name).contiguous()
        for site, moments in result.moments.items()
        for name in moments.kept
    }
    with new_folder(Path(folder)) as temporary:
        save_file(tensors, temporary / TENSORS)
        facts["tensors_sha256"] = sha256(temporary / TENSORS)
        write_json(temporary / FACTS, {**facts, "sha256": _digest(facts)})


def load_probe(
    folder: str | Path, model: PreTrainedModel | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> ProbeResult:
    """Read and check what :func:`save_probe` wrote.

    Given a model (and its tokenizer), a probe of another one is refused. The same model in another precision or in 8 or
    4 bits is not another; its weights must then come from the same files.

    Raises:
        CacheError: there is no probe, it is damaged, or it is of another model.
    """
    path = Path(folder)
    if not (path / FACTS).is_file():
        raise CacheError(f"{path} holds no probe: there is no {FACTS}. Pass the folder that a probe was saved in.")
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("it holds no object")
    except ValueError as error:  # of JSON and of text, too
        raise CacheError(f"{path / FACTS} is damaged: {error}. Copy it again or probe again.") from error
    told, schema = facts.pop("sha256", None), facts.get("schema")
    if schema != SCHEMA:
        raise CacheError(
            f"{path / FACTS} has schema {schema!r}, this version of expunge reads schema {SCHEMA}. Probe again, or use "
            "the version that wrote it."
        )
    if told != _digest(facts):
        raise CacheError(
            f"{path / FACTS} is not what was saved: its content and its own sha256 differ. Copy it again or probe "
            "again."
        )
    if not (path / TENSORS).is_file() or sha256(path / TENSORS) != facts["tensors_sha256"]:
        what = "is not the file that was saved (its sha256 differs)" if (path / TENSORS).is_file() else "is missing"
        raise CacheError(f"the probe in {path} is damaged: {TENSORS} {what}. Copy it again or probe again.")
    result = _read(path, facts)
    if model is not None:
        check_model(result, model, tokenizer)
    return result


def check_model(result: ProbeResult, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuse a probe of another model; without a tokenizer that part is not compared.

    Raises:
        CacheError: configuration, tokenizer or weights are others.
    """
    target = result.target
    found = fingerprint(model, tokenizer, tokenizer_digest_as=target.tokenizer)
    parts = found.differences(target)
    alike = (found.dtype, found.quantization) == (target.dtype, target.quantization)
    same_values = alike and values_digest(model.named_parameters()) == result.values
    if same_values and found.basis != target.basis and "weights" in parts:
        parts.remove("weights")  # digests of files and of memory cannot be compared, the values themselves can
    if parts == ["config"] and (same_values or found.basis == target.basis):
        # releases of transformers write one configuration in several ways
        log.warning("the model's configuration is written differently from the probed one's; its weights are the same.")
        parts = []
    if parts:
        raise CacheError(
            f"this is a probe of another model: {' and '.join(parts)} differ "
            f"(probed {target.source or 'a model in memory'}, weights {target.weights[:12]}; "
            f"given {found.source or 'a model in memory'}, weights {found.weights[:12]}). Probe this model."
        )
    if alike and not same_values:
        raise CacheError(
            "this is a probe of the same model with other weights in memory: either was changed after it was loaded. "
            "Leave the context that applied an erasure, or probe this model."
        )


def _read(path: Path, facts: dict[str, Any]) -> ProbeResult:
    try:
        tensors = load_file(path / TENSORS)
        moments = {}
        for entry in facts["sites"]:
            count = entry.pop("count")
            site = Site(**entry)
            names = [name for name in Moments.__dataclass_fields__ if f"{site.key}.{name}" in tensors]
            moments[site] = Moments(count, **{name: tensors[f"{site.key}.{name}"] for name in names})
        return ProbeResult(moments, Scope(**facts["scope"]), Fingerprint(**facts["target"]), facts["values"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise CacheError(f"the probe in {path} cannot be read: {error}. Probe again.") from error


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
