"""Fitting a weight-changing method: rows to examples, reference, training, and what changed as an erasure."""

from __future__ import annotations

import gc
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from expunge.data.template import Template
from expunge.distributed import processes
from expunge.erasures.adapter import Adapter, base_digest, carries_adapter, lora_config, with_lora
from expunge.erasures.manifest import Manifest
from expunge.erasures.weight_change import WeightChange, changed_tensors
from expunge.errors import ConfigError, ModelError, RequestError
from expunge.files import writing
from expunge.methods.weight_method import WeightMethod
from expunge.models.fingerprint import fingerprint
from expunge.models.limits import max_tokens
from expunge.models.quantised import check_differentiable
from expunge.models.state import preserved_randomness
from expunge.training.loop import CHECKPOINTS, Loop, Rowset
from expunge.training.movement import check_moved, shares_added, shares_changed, steps_in_words
from expunge.training.optimizers import check_optimizer
from expunge.training.packing import check_packing
from expunge.training.parameters import (
    float32_copies,
    lora_values,
    select_parameters,
    widened_parameters,
)
from expunge.training.run import Run
from expunge.training.schedule import Schedule, make_schedule, worth_a_forward
from expunge.training.sharding import Whole, check_sharding, sharded_twin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.requests import Row
    from expunge.training.settings import TrainingSettings
    from expunge.training.teaching import Teaching

log = logging.getLogger("expunge")

_LEAST_TRAVEL = {"full": 1e-4, "lora": 1e-3}
"""Steps x learning rate below which a run hardly moves. Adam moves a weight by about the rate in a step at most, so
this bounds how far any goes: 1e-4 is half a percent of a weight of 0.02. An adapter's matrices are multiplied with each
other, and theirs is ten times that; both are ten steps at the default rate."""


def fit_weights(
    method: WeightMethod,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Sequence[Row],
    retain: Sequence[Row],
    run: Run | None = None,
    lead: str = "forget",
    teaching: Teaching | None = None,
) -> WeightChange | Adapter:
    """Train ``method`` on rows and return the difference; ``model`` ends exactly as it began.

    With ``run.folder`` the loop writes ``training.jsonl`` there and resumes from the last whole checkpoint of a killed
    run of the same settings. ``lead`` names the rows that make an epoch (``retain`` for plain fine-tuning on rows);
    ``teaching``, from a method that teaches distributions, the rows that stand in for the forget rows.

    Raises:
        RequestError: the method reads retain rows and there are none.
        EncodingError: rows that cannot become tensors, all of them named.
        TrainingError: NaN, infinity, a trainable parameter without gradient, or nothing that changed.
    """
    run = run or Run()
    settings = run.settings
    sides = check_weights(
        method, model, tokenizer, forget=forget, retain=retain, run=run, lead=lead, aloud=False, teaching=teaching
    )
    for side in sides.values():
        side.say_what_is_cut(max_tokens(model, settings.max_length))
    schedule = _schedule(method, model, settings, sides, lead)
    _say_what_is_planned(method, settings, schedule)
    target = fingerprint(model, tokenizer)
    manifest = Manifest(
        kind="weights",
        format="adapter" if settings.parameters == "lora" else "weight_change",
        method=method.name,
        parameters=method.values(),
        training=settings.model_dump(mode="json"),
        target=target,
    )
    with preserved_randomness():
        loop = Loop(method, schedule, sides, tokenizer, run, manifest)
        loop.prepare(model, teaching)
        if settings.parameters == "lora":
            return _fit_adapter(model, tokenizer, manifest, loop)
        return _fit_full(model, tokenizer, manifest, loop)


def check_weights(
    method: WeightMethod,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Sequence[Row],
    retain: Sequence[Row],
    run: Run | None = None,
    lead: str = "forget",
    aloud: bool = True,
    teaching: Teaching | None = None,
) -> dict[str, Rowset]:
    """Everything that :func:`fit_weights` asks of its input, and both sides' rows as examples; with ``aloud`` its
    warnings about the run's length too."""
    run = run or Run()
    settings = run.settings
    if not (forget if lead == "forget" else retain):
        raise RequestError(f"{method.name}: there are no {lead} rows to train on. Pass at least one.")
    if method.uses_retain and not retain:
        weighted = type(method).uses_retain is WeightMethod.uses_retain
        zero = any(field["name"] == "alpha" and field["range"].get("minimum") == 0 for field in method.parameters())
        without = ", or set method.alpha=0 to train without" if weighted and zero else ""
        raise RequestError(f"{method.name} reads retain rows, and there are none. Pass --retain FILE{without}.")
    method.check_rows(forget, retain)
    if carries_adapter(model):
        raise ModelError(
            "the model carries a PEFT adapter. Leave the context that applied it, or merge it, before fitting."
        )
    if getattr(model.config, "quantization_config", None) is not None and settings.parameters == "full":
        raise ModelError("a quantised model's weights cannot be trained. Set training.parameters=lora.")
    check_differentiable(model)
    patterns = trained_layers(method, model, settings)
    if settings.parameters == "full":
        trained = select_parameters(model, patterns)
    else:
        trained = lora_values(model, settings, patterns)["target_modules"]
    method.check_trained(model, trained)
    check_sharding(settings, model)
    if settings.reference == "adapter" and settings.parameters != "lora":
        raise ConfigError(
            "training.reference=adapter reads the target with the adapter off, and there is none with "
            f"training.parameters={settings.parameters}. Use cached or resident."
        )
    check_optimizer(settings, model.device)
    limit = max_tokens(model, settings.max_length)
    if teaching is not None:
        forget = teaching.rows(forget, tokenizer, Template.of(tokenizer, run.template), limit)
    sides = {
        "forget": Rowset(forget, tokenizer, run, limit),
        "retain": Rowset(retain if method.uses_retain else (), tokenizer, run, limit),
    }
    if settings.packing:
        check_packing(model, [example for side in sides.values() for example in side.examples])
    if aloud:
        _say_what_is_planned(method, settings, _schedule(method, model, settings, sides, lead))
    return sides


def _schedule(
    method: WeightMethod, model: PreTrainedModel, settings: TrainingSettings, sides: Mapping[str, Rowset], lead: str
) -> Schedule:
    return make_schedule(
        settings,
        forget_lengths=sides["forget"].lengths,
        retain_lengths=sides["retain"].lengths,
        lead=lead,
        whole_epochs=method.whole_epochs,
        worth=worth_a_forward(settings, model.device.type),
    )


def _say_what_is_planned(method: WeightMethod, settings: TrainingSettings, schedule: Schedule) -> None:
    """Warn where so few steps at so small a rate, or so many epochs, are hardly what is meant."""
    travel = schedule.steps * settings.rate
    if travel < _LEAST_TRAVEL[settings.parameters]:
        log.warning(
            "%s at learning rate %g change a weight by about %.2g at most: the model may hardly move. "
            "Raise training.epochs or training.learning_rate, or lower training.accumulation.",
            steps_in_words(schedule.steps),
            settings.rate,
            travel,
        )
    remark = method.remark(schedule.epochs)
    if remark is not None:
        log.warning(remark)


def _fit_full(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, loop: Loop
) -> WeightChange:
    names = select_parameters(model, trained_layers(loop.method, model, loop.run.settings))
    autocast = loop.autocast(model)
    spill: Path | None = None
    with ExitStack() as stack:
        if loop.sharded:
            wide = widened_parameters(model, names, autocast=autocast)
            trained = stack.enter_context(sharded_twin(model, names, wide))
            originals: Mapping[str, torch.Tensor] = Whole(model, names)
        else:
            spill = stack.enter_context(_spill(loop.run.folder))
            originals = stack.enter_context(float32_copies(model, names, autocast=autocast, spill=spill))
            trained = model
        loop.train(trained, trained)
        for parameter in trained.parameters():
            parameter.grad = None
        gc.collect()  # the optimizer's state, before the differences are made
        tensors, details = changed_tensors(originals, Whole(trained, names))
        if spill is not None:  # trained in place, where the target's own values will be again
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        shares = shares_changed(originals, tensors)
    check_moved(
        manifest.method,
        shares,
        trained=len(names),
        steps=loop.schedule.steps,
        because=f" Rounding to {manifest.target.dtype} lost the update: load the target with model.dtype=float32."
        if details["rounding_norm"]
        else "",
    )
    if details["rounding_norm"] > 0.5 * details["update_norm"] > 0:
        log.warning(
            "rounding to %s loses %.0f%% of the update: load the target in float32 (model.dtype=float32) to keep it.",
            manifest.target.dtype,
            100 * details["rounding_norm"] / details["update_norm"],
        )
    return WeightChange(manifest.model_copy(update={"details": {**details, **loop.details}}), tensors, tokenizer)


def _fit_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, loop: Loop) -> Adapter:
    from peft import get_peft_model_state_dict

    settings = loop.run.settings
    values = lora_values(model, settings, trained_layers(loop.method, model, settings))
    torch.manual_seed(settings.seed)  # the adapter's first values
    with with_lora(model, lora_config(values)) as adapted:
        if loop.sharded:
            own = {name: p for name, p in model.named_parameters() if p.requires_grad}
            with sharded_twin(model, own, ()) as twin:
                loop.train(twin, twin)
                for name, value in Whole(twin, own).items():
                    own[name].data.copy_(value)
        else:
            loop.train(adapted, model)
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in get_peft_model_state_dict(adapted).items()
        }
    shares = shares_added(model, tensors, settings.lora_alpha / settings.lora_rank)
    check_moved(manifest.method, shares, trained=len(shares), steps=loop.schedule.steps)
    details = {
        "tensors_changed": len(tensors),
        "rank": settings.lora_rank,
        "base_sha256": base_digest(model, values["target_modules"]),
    }
    return Adapter(manifest.model_copy(update={"details": {**details, **loop.details}}), tensors, values, tokenizer)


def trained_layers(method: WeightMethod, model: PreTrainedModel, settings: TrainingSettings) -> tuple[str, ...]:
    """Patterns of what is trained: ``training.layers``, or else what the method itself says."""
    return settings.layers or method.trainable_layers(model)


@contextmanager
def _spill(folder: Path | None) -> Iterator[Path | None]:
    """A file beside the run's checkpoints for the target's own values, while its parameters are trained."""
    if folder is None:
        yield None
        return
    with writing(folder):
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    if processes() == 1:
        for left in (folder / CHECKPOINTS).glob("target-*.bin"):
            left.unlink(missing_ok=True)  # by a killed run; the folder is this one's now
    path = folder / CHECKPOINTS / f"target-{uuid.uuid4().hex[:12]}.bin"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
