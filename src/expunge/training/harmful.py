"""The two sides of a negation, opened without loading them: a target's files, and what a harmful model changes in them.

A harmful model is a full checkpoint, a LoRA adapter as PEFT saves it, or a harmful copy of this package (its erasure or
run folder) made from the target.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.erasures.manifest import check_target, read_manifest
from expunge.erasures.purpose import is_harmful_copy
from expunge.errors import ErasureError, InputError, ModelError
from expunge.models.fingerprint import SOURCE_FOLDER, fingerprint, hub_folder
from expunge.models.loading import check_folder, load_tokenizer, resolve
from expunge.models.quiet import quiet
from expunge.models.shards import Stored, checkpoint_shards, read_shard
from expunge.training.task_vectors import Factors, LowRank, NewValues, TaskVector

if TYPE_CHECKING:
    from expunge.erasures.manifest import Manifest

log = logging.getLogger("expunge")

_ADAPTER, _ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")  # of old checkpoints; transformers does not load them
_LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$")
_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")  # all others start by changing the base weights
_FINE_TUNED = ("finetune",)
"""Methods that learn rows instead of erasing them: which rows those were is the user's to know."""
_HARMLESS = re.compile(
    r"alpha_pattern|auto_mapping|base_model_name_or_path|ensure_weight_tying|eva_config|exclude_modules|fan_in_fan_out"
    r"|inference_mode|init_lora_weights|layers_pattern|layers_to_transform|lora_alpha|lora_dropout|megatron_core"
    r"|peft_type|peft_version|qalora_group_size|r|rank_pattern|revision|target_modules|task_type|use_rslora"
)
"""What an adapter_config.json may say and still describe plain LoRA; anything else must be unset."""


class Checkpoint:
    """A model folder with its tensors by name, as they lie in its safetensors files."""

    def __init__(self, folder: Path, *, role: str) -> None:
        self.folder, self.role = folder, role
        self.config = _read_json(folder / "config.json")
        self.shards = checkpoint_shards(folder, role=role)
        self.tensors = {stored.name: stored for shard in self.shards for stored in shard.tensors}
        quantised = self.config.get("quantization_config")
        if quantised:
            method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
            raise ModelError(
                f"the {role} model in {folder} is quantised{f' ({method})' if method else ''}, and quantised weights "
                "cannot be subtracted. Use the model before quantisation."
            )

    @cached_property
    def model(self) -> Any:
        """The architecture without its weights, on torch's meta device."""
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            with quiet(), torch.device("meta"):
                made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.folder))
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError, AttributeError) as error:
            text = str(error).strip().split("\n")[0]
            raise ModelError(
                f"the architecture of the {self.role} model in {self.folder} is needed to tell which of its tensors "
                f"are which, and transformers cannot make it: {text}"
            ) from error
        setattr(made, SOURCE_FOLDER, str(self.folder))
        return made

    @cached_property
    def ties(self) -> dict[str, str]:
        """Names of weights that are one with another, and that other's name."""
        return dict(getattr(self.model, "all_tied_weights_keys", None) or {})

    @cached_property
    def known(self) -> dict[str, Stored]:
        """The tensors by the model's own names, which may begin with the body's name where the files' do not."""
        body, own = self.model.base_model_prefix + ".", set(self.model.state_dict())
        return {
            (body + found if found not in own and body + found in own else found): stored
            for found, stored in self.tensors.items()
        }

    def unloaded(self, name: str) -> bool:
        """Whether transformers leaves a tensor of this name in the file (masks and other buffers of old versions)."""
        patterns = [*_BUFFERS, *(getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or ())]
        return any(re.search(pattern, name) for pattern in patterns)


def local_folder(path: str, *, role: str) -> Path:
    """The folder of a path, a hub id (as the local cache holds it) or a world."""
    source = resolve(path, role=role)
    folder = Path(source)
    if source and folder.is_dir():
        return folder.resolve()
    check_folder(source, role=role)
    found = hub_folder(source) or _hub_adapter(source)
    if found is None:
        raise ModelError(
            f"there is no folder {path!r} for the {role} model, and no hub model of that name in the local cache. "
            f"Pass a folder, or download it first: hf download {path}"
        )
    return found


def open_target(path: str) -> Checkpoint:
    """The model that is subtracted from."""
    folder = local_folder(path, role="target")
    check_folder(str(folder), role="target")
    return Checkpoint(folder, role="target")


def find_harmful(path: str) -> Path:
    """The folder that holds a harmful model's tensors: for a run folder its erasure."""
    if path.startswith("world:"):
        raise InputError(f"{path} cannot be a harmful model: a world has a target and its retrained twin only.")
    folder = local_folder(path, role="harmful")
    if (folder / "manifest.json").is_file() or not ((folder / "run.yaml").is_file() or (folder / "erasure").is_dir()):
        return folder
    seeds = sorted(folder.glob("seed-*/erasure"))
    if not (folder / "erasure").is_dir():
        if seeds:
            raise InputError(f"{folder} holds {len(seeds)} seeds. Pass one of them, such as {seeds[0].parent}.")
        raise InputError(f"{folder} holds a run without an erasure: it is not finished. Finish it first.")
    return folder / "erasure"


def open_harmful(folder: Path, target: Checkpoint) -> tuple[TaskVector, list[str]]:
    """What the harmful model in ``folder`` changes, and every tensor of it that does not fit the target, in words."""
    adapter = (folder / _ADAPTER_CONFIG).is_file()
    if (folder / "manifest.json").is_file() and not (folder / "config.json").is_file():
        manifest = read_manifest(folder)
        if not is_harmful_copy(manifest) and manifest.method not in _FINE_TUNED:
            raise InputError(
                f"{folder} is an erasure by {manifest.method}, not a harmful model: it leads away from the forget "
                "rows, and subtracting it would lead toward them. Pass a harmful copy (expunge forget --method sku "
                "method.stage=harmful, or a model fine-tuned on the harm). A plain checkpoint is always taken: if "
                "this one is meant, expunge export it and pass that."
            )
        _check_made_from(manifest, folder, target)
        if manifest.format == "adapter":
            return _adapter(folder, target)
        if manifest.format != "weight_change":
            raise ErasureError(
                f"{folder} holds an erasure of format {manifest.format!r}, which changes no weights and cannot be "
                "negated. Pass one of format weight_change or adapter."
            )
        return _new_values(folder, manifest, target)
    if adapter and (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds both an adapter ({_ADAPTER_CONFIG}) and a model (config.json). Move one of them into a "
            "folder of its own, and pass the one that is meant."
        )
    if adapter:
        return _adapter(folder, target)
    check_folder(str(folder), role="harmful")
    return _checkpoint(Checkpoint(folder, role="harmful"), target)


def _checkpoint(harmful: Checkpoint, target: Checkpoint) -> tuple[TaskVector, list[str]]:
    label = str(harmful.folder)
    ours, theirs = target.config.get("model_type"), harmful.config.get("model_type")
    if ours != theirs:
        raise ModelError(f"{label} is a model of type {theirs!r} and the target one of type {ours!r}. They must match.")
    if target.tensors.keys() == harmful.tensors.keys():
        matched, problems = dict(harmful.tensors), list[str]()
    else:
        matched, problems = _by_name(harmful, target)
    places = {}
    for name, stored in matched.items():
        problem = _misfit(target.tensors[name], stored)
        if problem:
            problems.append(f"{name} {problem}")
        places[name] = stored
    coarser = [n for n, s in places.items() if s.is_float and s.size < target.tensors[n].size]
    if coarser and not problems:
        log.warning(
            "%s is held in a lower precision than the target (%s is %s, not %s): its rounding counts as change.",
            label, coarser[0], places[coarser[0]].dtype, target.tensors[coarser[0]].dtype,
        )  # fmt: skip
    return NewValues(label, places), problems


def _by_name(harmful: Checkpoint, target: Checkpoint) -> tuple[dict[str, Stored], list[str]]:
    """The harmful tensor for each of the target's where names differ: by the body's prefix, or by ties."""
    try:
        ties = target.ties if target.ties == harmful.ties else {}
        target.known, harmful.known  # noqa: B018 - both architectures are needed
    except ModelError as error:
        ours, theirs = target.tensors.keys(), harmful.tensors.keys()
        problems = [f"{name} is in the target alone" for name in sorted(ours - theirs)]
        problems += [f"{name} is in the harmful model alone" for name in sorted(theirs - ours)]
        return {name: harmful.tensors[name] for name in ours & theirs}, [*problems, str(error)]
    roots = {ties.get(name, name): stored for name, stored in harmful.known.items()}
    wanted = {ties.get(name, name) for name in target.known}
    matched, problems = {}, []
    for name, stored in target.known.items():
        found = harmful.known.get(name) or roots.get(ties.get(name, name))
        if found is not None:
            matched[stored.name] = found
        elif not target.unloaded(name):
            problems.append(f"{stored.name} is in the target alone")
    problems += [
        f"{stored.name} is in the harmful model alone"
        for name, stored in harmful.known.items()
        if ties.get(name, name) not in wanted and not harmful.unloaded(name)
    ]
    return matched, problems


def _new_values(folder: Path, manifest: Manifest, target: Checkpoint) -> tuple[TaskVector, list[str]]:
    changed = {stored.name: stored for stored in read_shard(folder / "weights.safetensors").tensors}
    # a tied weight has one name in the erasure and may lie under another, or under both, in the files
    roots = {target.ties.get(name, name): stored for name, stored in changed.items()}
    places, problems, placed = {}, [], set()
    for name, stored in target.known.items():
        root = target.ties.get(name, name)
        if root in roots:
            placed.add(root)
            places[stored.name] = roots[root]
            problem = _misfit(stored, roots[root])
            if problem:
                problems.append(f"{stored.name} {problem}")
    problems += [_elsewhere(stored.name) for root, stored in roots.items() if root not in placed]
    return NewValues(str(folder), places, getattr(torch, manifest.target.dtype)), problems


def _adapter(folder: Path, target: Checkpoint) -> tuple[TaskVector, list[str]]:
    config = _read_json(folder / _ADAPTER_CONFIG)
    _check_plain(config, folder)
    if not (folder / _ADAPTER).is_file():
        raise ModelError(
            f"the adapter in {folder} has no {_ADAPTER}. Weights in other files (.bin) are not read: load it with PEFT "
            "and save it again with save_pretrained."
        )
    pairs: dict[str, dict[str, Stored]] = {}
    problems = []
    for stored in read_shard(folder / _ADAPTER).tensors:
        found = _LORA.match(stored.name)
        if found is None or not stored.is_float or len(stored.shape) != 2:
            problems.append(f"{stored.name} is no LoRA matrix")
        else:
            pairs.setdefault(found[1], {})[found[3]] = stored
    places = {}
    for module, pair in pairs.items():
        weight, factors = _factors(module, pair, config, target)
        if isinstance(factors, str):
            problems.append(f"{module} {factors}" if weight is None else f"{weight.name} {factors}")
        elif weight is not None:
            places[weight.name] = factors
    return LowRank(str(folder), places, (folder / _ADAPTER, folder / _ADAPTER_CONFIG)), problems


def _factors(
    module: str, pair: dict[str, Stored], config: Mapping[str, Any], target: Checkpoint
) -> tuple[Stored | None, Factors | str]:
    """The target's weight that a pair of LoRA matrices adds to, and what is added; or what is wrong, in words."""
    from transformers.pytorch_utils import Conv1D

    if pair.keys() != {"A", "B"}:
        return None, "has only one of its two LoRA matrices"
    name, (a, b) = f"{module}.weight", (pair["A"], pair["B"])
    weight = target.known.get(name)
    if name in target.ties or name in target.ties.values():
        return weight, "is tied to another weight, which the adapter leaves alone: merge the adapter first"
    if weight is None:
        return None, _elsewhere("")
    layer = target.model.get_submodule(module)
    if not isinstance(layer, (torch.nn.Linear, torch.nn.Embedding, Conv1D)):
        return weight, f"belongs to a {type(layer).__name__}, on which LoRA matrices cannot be negated"
    transposed = not isinstance(layer, torch.nn.Linear)
    rank = _matching(config.get("rank_pattern") or {}, module, config["r"])
    if a.shape[0] != rank or b.shape[1] != rank:
        return weight, f"has LoRA matrices {a.shape} and {b.shape}, not of rank {rank} as {_ADAPTER_CONFIG} says"
    update = (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])
    if weight.shape != update:
        return weight, f"is {update} in the harmful model, {weight.shape} in the target"
    if not weight.is_float:
        return weight, f"is {weight.dtype} in the target, which cannot be subtracted from"
    alpha = _matching(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return weight, Factors(*((a, b) if transposed else (b, a)), transposed, scaling)


def _check_plain(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse an adapter whose update of a weight is not scaling * B @ A."""
    problems = [
        f"{key}={value!r}"
        for key, value in config.items()
        if not _HARMLESS.fullmatch(key) and value not in (None, False, "none") and value not in ([], {})
    ]
    if config.get("peft_type") != "LORA":
        problems.insert(0, f"peft_type={config.get('peft_type')!r}")
    if config.get("init_lora_weights", True) not in _INITS:
        problems.append(f"init_lora_weights={config['init_lora_weights']!r}")
    if problems:
        raise ModelError(
            f"the adapter in {folder} is not plain LoRA ({', '.join(problems)}), and its update is more than a product "
            "of two matrices. Merge it into its model with PEFT (merge_and_unload), save that with save_pretrained and "
            "pass the folder."
        )
    wrong = [
        f"{key}={config.get(key)!r}"
        for key in ("r", "lora_alpha")
        if not isinstance(config.get(key), int | float) or not config[key]
    ]
    if wrong:
        raise ModelError(f"{folder / _ADAPTER_CONFIG} is damaged ({', '.join(wrong)}). Save the adapter again.")


def _check_made_from(manifest: Manifest, folder: Path, target: Checkpoint) -> None:
    """Refuse an erasure that was made from another model than the target."""
    if manifest.target.basis != "source":
        raise ErasureError(
            f"the erasure in {folder} was made from a model in memory, so nothing tells whether these files are that "
            "model. Export it (expunge export) and pass the exported folder."
        )
    found = fingerprint(target.model, load_tokenizer(target.folder))
    try:
        check_target(manifest, found)
    except ErasureError as error:
        raise ErasureError(f"{folder}: {error}") from error
    if manifest.target.quantization:
        raise ErasureError(
            f"the erasure in {folder} was made from a copy of the target in {manifest.target.quantization}, so what "
            "it learned belongs to the rounded weights and not to these. Fit the harmful copy on the target in full "
            "precision."
        )


def _misfit(target: Stored, harmful: Stored) -> str | None:
    if target.shape != harmful.shape:
        return f"is {harmful.shape} in the harmful model, {target.shape} in the target"
    if target.dtype != harmful.dtype and not (target.is_float and harmful.is_float):
        return f"is {harmful.dtype} in the harmful model, {target.dtype} in the target"
    return None


def _elsewhere(name: str) -> str:
    """For a tensor of an erasure or adapter, by the loaded model's name, that no file of the target holds."""
    text = "has no place in the target's files, at least not by that name: merge or export the harmful model first"
    return f"{name} {text}".strip()


def _matching(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """PEFT's rule: the first pattern that is the end of the module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def _hub_adapter(hub_id: str) -> Path | None:
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(hub_id, _ADAPTER_CONFIG, local_files_only=True, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return Path(found).parent if found else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}. Save or download it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no object. Save or download it again.")
    return found
