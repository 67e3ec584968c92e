"""``expunge export``: a plain checkpoint that any engine loads."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.erasures.check import PROBE, probe_logits
from expunge.erasures.merging import check_mergeable, merged
from expunge.erasures.of_run import find_erasure, target_path
from expunge.erasures.purpose import is_harmful_copy
from expunge.errors import ErasureError, InputError, OutputError
from expunge.files import new_folder
from expunge.methods.interface import Erasure
from expunge.models.quiet import quiet
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("expunge")

MERGE_TOLERANCE = 1e-5

_LISTED = 5
_WRITTEN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|(vocab|merges)\.txt|chat_template\.jinja|[^.].*\.model"
)
"""The files that ``save_pretrained`` of a model and its tokenizer writes."""


@dataclass(frozen=True)
class Exported:
    """What was written: its ``folder``, by which ``method``, into which ``target``, and whether it is a
    ``harmful_copy`` instead of an erased model."""

    folder: Path
    method: str
    target: str
    harmful_copy: bool


def export(
    folder: str | Path,
    to: str | Path,
    *,
    model: str | None = None,
    overwrite: bool = False,
    harmful_copy: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write the erased model of a run folder as a checkpoint of its own; returns its folder.

    ``folder`` is a run folder (its run.yaml names the model) or an erasure's folder together with ``model``. The
    written checkpoint is loaded again and must give the same logits: bit for bit, or within 1e-5 in float32 where a
    LoRA adapter was merged into the weights. A harmful copy, which is no erased model, is written with ``harmful_copy``
    only.

    Raises:
        InputError: a harmful copy without ``harmful_copy``.
        ErasureError: an erasure that is no weight change (hooks and guards cannot be written into a checkpoint), an
            adapter that was fitted on a quantised model, or a checkpoint whose logits differ.
        OutputError: ``to`` exists and ``overwrite`` was not given, or it is no checkpoint, which ``overwrite`` does not
            delete, or it is the target's own folder.
    """
    return write(folder, to, model=model, overwrite=overwrite, harmful_copy=harmful_copy, progress=progress).folder


def write(
    folder: str | Path,
    to: str | Path,
    *,
    model: str | None = None,
    overwrite: bool = False,
    harmful_copy: bool = False,
    progress: Progress = silent,
) -> Exported:
    """:func:`export`, saying what it did."""
    from expunge.models.loading import load_model, load_tokenizer, resolve

    source, spec = find_erasure(Path(folder), model)
    erasure = Erasure.load(source)
    if erasure.kind != "weights":
        raise ErasureError(
            f"{source} holds an erasure of kind '{erasure.kind}', which acts while the model runs and cannot be "
            "written into a checkpoint. Apply it in Python with erasure.applied(model)."
        )
    is_harmful = is_harmful_copy(erasure.manifest)
    if is_harmful and not harmful_copy:
        raise InputError(
            f"{source} is a harmful copy, not an erasure: the checkpoint would do more harm than the target. Subtract "
            "it with expunge negate, which takes it as it is, or pass --harmful-copy (in Python harmful_copy=True) to "
            "write it all the same."
        )
    check_mergeable(erasure, str(source))
    to = Path(to).expanduser().resolve()
    _check_place(to, resolve(target_path(spec.path), role="target"), overwrite=overwrite)
    progress(0, 3, "loading")
    spec = spec.model_copy(update={"dtype": erasure.manifest.target.dtype})
    tokenizer = load_tokenizer(spec)
    erasure.tokenizer = tokenizer  # so that a target with another tokenizer is refused too
    target = load_model(spec)
    progress(1, 3, "writing")
    write_checkpoint(target, tokenizer, erasure, to)
    progress(3, 3, "checked")
    return Exported(to, erasure.manifest.method, spec.path, is_harmful)


def write_checkpoint(target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, erasure: Erasure, to: Path) -> None:
    """Apply ``erasure`` to ``target``, write the result to ``to`` and check that it loads with the same logits."""
    check_mergeable(erasure)
    import torch
    from transformers import AutoModelForCausalLM

    probe = tokenizer(PROBE, return_tensors="pt")["input_ids"][:, :16]
    with erasure.applied(target) as erased:
        expected = probe_logits(erased, probe)
    tolerance = 0.0
    if erasure.manifest.format == "adapter":
        tolerance = MERGE_TOLERANCE if target.dtype == torch.float32 else float("inf")
    with new_folder(to) as temporary, quiet():
        with merged(target, erasure) as model:
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        # The target is itself again and its backup is gone: with the written one two models are in memory.
        written: Any = AutoModelForCausalLM.from_pretrained(temporary, dtype=target.dtype)
        written = written.to(target.device).eval()
        difference = float((probe_logits(written, probe) - expected).abs().max())
        if not difference <= tolerance:
            raise ErasureError(
                f"the checkpoint's logits differ from the erased model's by {difference:g} (allowed: {tolerance:g}); "
                "it was not kept. Report this with the model's architecture."
            )
        if tolerance == float("inf"):
            log.warning("the adapter was merged in %s: logits moved by up to %g by rounding.", target.dtype, difference)


def foreign(folder: Path) -> list[str]:
    """Names in ``folder`` that are no regular files of a checkpoint, sorted."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_symlink() or not entry.is_file() or not _WRITTEN.fullmatch(entry.name)
    )


def _check_place(to: Path, source: str, *, overwrite: bool) -> None:
    """Refuse a place where something would be lost that is no earlier export."""
    if to == Path(source).resolve():
        raise OutputError(f"{to} is the target's own folder. Choose another one.")
    if to == Path.cwd():
        raise OutputError(f"{to} is the current folder, which cannot be replaced. Name a folder in it.")
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not to.is_dir():
        raise OutputError(f"{to} is a file. Choose a folder.")
    strangers = foreign(to)
    if not (to / "config.json").is_file():
        raise OutputError(
            f"{to} exists and holds no checkpoint (there is no config.json in it), so nothing in it is touched. "
            "Choose another folder."
        )
    if strangers:
        more = f" and {len(strangers) - _LISTED} more" if len(strangers) > _LISTED else ""
        raise OutputError(
            f"{to} holds more than a checkpoint ({', '.join(strangers[:_LISTED])}{more}), so nothing in it is touched. "
            "Choose another folder."
        )
    if not overwrite:
        raise OutputError(f"{to} exists. Choose another folder, or pass --overwrite to replace that checkpoint.")
