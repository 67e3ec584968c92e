"""Loaded models as ``expunge evaluate`` takes them: whose part each plays, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.audits.interface import Audited
    from expunge.config.run_file import ModelSpec
    from expunge.methods.interface import Erasure


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


def erased_spec(path: str | Path, target: ModelSpec | PreTrainedModel) -> ModelSpec:
    """How the erased model at ``path`` is loaded: as the target is, since its weights in another precision would differ
    from the target's where nothing was erased; in the precision of a target that was passed loaded."""
    from expunge.config.run_file import ModelSpec

    if isinstance(target, ModelSpec):
        return target.model_copy(update={"path": str(path)})
    dtype = str(target.dtype).removeprefix("torch.")
    known = dtype in ("float32", "bfloat16", "float16")
    return ModelSpec.model_validate({"path": str(path), **({"dtype": dtype} if known else {})})


def identities(audited: Audited) -> dict[str, dict[str, Any]]:
    """By role what tells whether an erasure or a model beside the target is still the same, for ``environment.json``:
    hashes of the erasure's files, and of a model's values in memory, since an adapter or an edit shows in no file."""
    from expunge.models.fingerprint import values_digest

    models = {name: getattr(audited, name) for name in ("erased", "retrained")}
    found = {
        name: {"weights": values_digest((n, p) for n, p in model.named_parameters() if not p.is_meta)}
        for name, model in models.items()
        if model is not None
    }
    return found if audited.erasure is None else {"erasure": _files_of(audited.erasure), **found}


def _files_of(erasure: Erasure) -> dict[str, Any]:
    from tempfile import TemporaryDirectory

    from expunge.erasures.manifest import read_manifest

    manifest = erasure.manifest
    if not manifest.files:  # fitted in this process, and never saved
        with TemporaryDirectory() as folder:
            erasure.save(Path(folder) / "erasure")
            manifest = read_manifest(Path(folder) / "erasure")
    return {"method": manifest.method, "files": {name: entry.sha256 for name, entry in manifest.files.items()}}


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
