"""Fitting a weight-changing method: rows to examples, reference, training, and what changed as an erasure."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import logging
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.documents import split_documents
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.distributed import gather, is_main, on_main, processes, share
from expunge.erasures.adapter import Adapter, base_digest, carries_adapter, lora_config, with_lora
from expunge.erasures.manifest import Manifest
from expunge.erasures.weight_change import WeightChange, changed_tensors
from expunge.errors import ConfigError, ModelError, RequestError, TrainingError
from expunge.files import writing
from expunge.methods.weight_method import WeightMethod
from expunge.models.anatomy import decoder_layers
from expunge.models.fingerprint import fingerprint, values_digest
from expunge.models.halves import Halves
from expunge.models.limits import max_tokens
from expunge.models.logprobs import answer_logprobs
from expunge.models.quantised import check_differentiable
from expunge.models.state import evaluating, preserved_randomness
from expunge.training.alternatives import Context
from expunge.training.arguments import training_arguments, uses_bfloat16
from expunge.training.checkpoints import last_checkpoint
from expunge.training.frozen import FrozenTarget, LiveTarget, StoredTarget, check_beside_head, frozen_head, kinds_of
from expunge.training.optimizers import check_optimizer, own_overrides
from expunge.training.packing import check_packing
from expunge.training.parameters import (
    float32_copies,
    lora_values,
    own_parameters,
    select_parameters,
    widened_parameters,
)
from expunge.training.references import STATES, ReferenceStore, fill
from expunge.training.rows import Rows
from expunge.training.run import History, Run
from expunge.training.schedule import Micro, Schedule, make_schedule
from expunge.training.scoring import most_tokens, scoring
from expunge.training.sharding import Whole, check_sharding, gathered_root, is_sharded, rest, sharded_twin
from expunge.training.trainer import UnlearningTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.requests import Row
    from expunge.training.settings import TrainingSettings

log = logging.getLogger("expunge")

_FEW_STEPS = 10
CHECKPOINTS = "checkpoints"


def fit_weights(
    method: WeightMethod,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Sequence[Row],
    retain: Sequence[Row],
    run: Run | None = None,
    lead: str = "forget",
) -> WeightChange | Adapter:
    """Train ``method`` on rows and return the difference; ``model`` ends exactly as it began.

    With ``run.folder`` the loop writes ``training.jsonl`` there and resumes from the last whole checkpoint of a killed
    run of the same settings. ``lead`` names the rows that make an epoch (``retain`` for plain fine-tuning on rows).

    Raises:
        RequestError: the method reads retain rows and there are none.
        EncodingError: rows that cannot become tensors, all of them named.
        TrainingError: NaN, infinity, or a trainable parameter without gradient.
    """
    run = run or Run()
    settings = run.settings
    sides = check_weights(method, model, tokenizer, forget=forget, retain=retain, run=run, lead=lead)
    for side in sides.values():
        side.say_what_is_cut(max_tokens(model, settings.max_length))
    schedule = make_schedule(
        settings,
        forget_lengths=sides["forget"].lengths,
        retain_lengths=sides["retain"].lengths,
        lead=lead,
        whole_epochs=method.whole_epochs,
    )
    if schedule.steps < _FEW_STEPS:
        log.warning(
            "only %d optimizer steps at learning rate %g: the model may hardly move. "
            "Raise training.epochs or training.learning_rate, or lower training.accumulation.",
            schedule.steps,
            settings.rate,
        )
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
        loop = _Loop(method, schedule, sides, tokenizer, run, manifest)
        loop.prepare(model)
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
) -> dict[str, _Side]:
    """Everything that :func:`fit_weights` asks of its input, and both sides' rows as examples."""
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
    if settings.parameters == "full":
        select_parameters(model, trained_layers(method, model, settings))
    else:
        lora_values(model, settings, trained_layers(method, model, settings))
    check_sharding(settings, model)
    if settings.reference == "adapter" and settings.parameters != "lora":
        raise ConfigError(
            "training.reference=adapter reads the target with the adapter off, and there is none with "
            f"training.parameters={settings.parameters}. Use cached or resident."
        )
    check_optimizer(settings, model.device)
    limit = max_tokens(model, settings.max_length)
    sides = {
        "forget": _Side(forget, tokenizer, run, limit),
        "retain": _Side(retain if method.uses_retain else (), tokenizer, run, limit),
    }
    if settings.packing:
        check_packing(model, [example for side in sides.values() for example in side.examples])
    return sides


def _fit_full(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, loop: _Loop
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
    if not tensors:
        rounded = f" Rounding to {manifest.target.dtype} lost the update." if details["rounding_norm"] else ""
        raise TrainingError(
            f"{manifest.method}: training changed no weight in {loop.schedule.steps} optimizer steps.{rounded} "
            "Raise training.learning_rate or training.epochs, or load the target with model.dtype=float32."
        )
    if details["rounding_norm"] > 0.5 * details["update_norm"] > 0:
        log.warning(
            "rounding to %s loses %.0f%% of the update: load the target in float32 (model.dtype=float32) to keep it.",
            manifest.target.dtype,
            100 * details["rounding_norm"] / details["update_norm"],
        )
    return WeightChange(manifest.model_copy(update={"details": {**details, **loop.details}}), tensors, tokenizer)


def _fit_adapter(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, loop: _Loop
) -> Adapter:
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
    if not any(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name):
        raise TrainingError(
            f"{manifest.method}: training left the adapter at zero in {loop.schedule.steps} optimizer steps. "
            "Raise training.learning_rate or training.epochs."
        )
    details = {
        "tensors_changed": len(tensors),
        "rank": settings.lora_rank,
        "base_sha256": base_digest(model, values["target_modules"]),
    }
    return Adapter(manifest.model_copy(update={"details": {**details, **loop.details}}), tensors, values, tokenizer)


class _Side:
    """The rows of one side as examples, with their labels for messages."""

    def __init__(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, run: Run, length: int) -> None:
        self.rows = split_documents(rows, tokenizer, length)
        template = Template.of(tokenizer, run.template)
        self.examples: list[Example] = encode_all(tokenizer, template, self.rows, max_length=length)

    def say_what_is_cut(self, length: int) -> None:
        """Warn where ``length`` tokens do not hold a row."""
        cut = sum(example.truncated for example in self.examples)
        if cut:
            log.warning(
                "%d of %d rows are longer than %d tokens (training.max_length, or what the model takes); the ends of "
                "their answers are cut.",
                cut,
                len(self.examples),
                length,
            )

    @property
    def lengths(self) -> list[int]:
        return [len(example.input_ids) for example in self.examples]

    def label(self, index: int) -> str:
        return self.rows[index].source or f"row {index}"


def trained_layers(method: WeightMethod, model: PreTrainedModel, settings: TrainingSettings) -> tuple[str, ...]:
    """Patterns of what is trained: ``training.layers``, or else what the method itself says."""
    return settings.layers or method.trainable_layers(model)


class _Loop:
    """One training run, ready to be started on the model or on the adapter around it."""

    def __init__(
        self,
        method: WeightMethod,
        schedule: Schedule,
        sides: dict[str, _Side],
        tokenizer: PreTrainedTokenizerBase,
        run: Run,
        manifest: Manifest,
    ) -> None:
        self.method, self.schedule, self.sides = method, schedule, sides
        self.tokenizer, self.filler, self.run, self.manifest = tokenizer, pad_id(tokenizer), run, manifest
        self.rows = Rows(sides["forget"].examples, sides["retain"].examples)
        self.key, self.reference_seconds = "", 0.0
        self.state: dict[str, float] = {}

    def prepare(self, model: PreTrainedModel) -> None:
        """Make the alternatives' rows: what they say may come from the target itself."""
        settings = self.run.settings
        template = Template.of(self.tokenizer, self.run.template)
        context = Context(
            model=model,
            tokenizer=self.tokenizer,
            template=template,
            settings=settings,
            progress=self.run.progress,
            cache=self.run.cache or (self.run.folder and self.run.folder / CHECKPOINTS),
        )
        found = self.method.alternatives(self.sides["forget"].rows, self.sides["retain"].rows, context=context)
        limit = max_tokens(model, settings.max_length)
        flat = encode_all(self.tokenizer, template, [row for some in found for row in some], max_length=limit)
        ready = iter(flat)
        alternatives = [[next(ready) for _ in some] for some in found]
        self.rows = Rows(self.rows.forget, self.rows.retain, alternatives)
        self.key = _key(self.manifest, [*self.rows.forget, *self.rows.retain, *flat])

    @property
    def sharded(self) -> bool:
        """Whether what is trained is a twin that several processes share."""
        return self.run.settings.sharding == "full" and processes() > 1

    def autocast(self, model: PreTrainedModel) -> bool:
        return uses_bfloat16(self.run.settings, on_cpu=model.device.type == "cpu")

    def target(self, trained: Any, bare: PreTrainedModel, layers: Sequence[Any]) -> FrozenTarget | None:
        """The frozen target for the method's loss, in the precision that training compares it in."""
        method, settings = self.method, self.run.settings
        kinds = kinds_of(method)
        if not any(kinds.values()):
            return None
        halves = Halves(bare)
        if any(STATES in some for some in kinds.values()):
            check_beside_head(halves)
        limit = most_tokens(bare.device, halves.vocabulary)

        def autocast() -> AbstractContextManager[Any]:
            return torch.autocast(bare.device.type, dtype=torch.bfloat16, enabled=self.autocast(bare))

        if settings.reference == "resident":
            copied = copy.deepcopy(bare).requires_grad_(False)
            second = Halves(copied)
            others = [module for _, module in decoder_layers(copied)] if layers else ()
            return LiveTarget(second, method, limit, second.head.forward, others, autocast=autocast)
        if settings.reference == "adapter":
            return LiveTarget(halves, method, limit, None, layers, trained.disable_adapter, autocast)
        facts = {
            "config": self.manifest.target.config,
            "tokenizer": self.manifest.target.tokenizer,
            "weights": self.manifest.target.weights,
            "values": values_digest(own_parameters(Whole(bare))),
            "dtype": str(bare.dtype),
            "bfloat16_autocast": self.autocast(bare),
            "quantization": self.manifest.target.quantization,
        }
        key = f"{self.run.cache}: {json.dumps(facts, sort_keys=True)}"
        if key not in self.run.references:
            self.run.references[key] = ReferenceStore(facts, self.run.cache)
        store = self.run.references[key]
        drawn = {index for batch in self.schedule.batches for index in batch.retain}
        for side, some in kinds.items():
            examples = [self.rows.retain[i] for i in sorted(drawn)] if side == "retain" else self.rows.of(side)
            with autocast():
                fill(
                    store,
                    bare,
                    examples,
                    some,
                    pad_id=self.filler,
                    most_tokens=limit,
                    layers=layers,
                    progress=self.run.progress,
                )
        whole = any(STATES in some for some in kinds.values())
        with gathered_root(bare):
            return StoredTarget(store, method, frozen_head(halves.head) if whole else None)

    def train(self, trained: Any, bare: PreTrainedModel) -> None:
        """Train ``trained`` (``bare`` itself or a PEFT model around it) to the end of the schedule."""
        settings, folder = self.run.settings, self.run.folder
        layers: list[Any] = []
        if self.method.reads_layer is not None or settings.compile:
            layers = [module for _, module in decoder_layers(bare)]
        began = time.perf_counter()
        target = self.target(trained, bare, layers)
        self.reference_seconds = round(time.perf_counter() - began, 3) if target else 0.0
        on_cpu = bare.device.type == "cpu"
        with _checkpoints(folder, self.key) as checkpoints, scoring(bare):
            args = training_arguments(
                settings, self.schedule, checkpoints, on_cpu=on_cpu, keep=folder is not None, processes=processes()
            )
            bare.config.use_cache = False
            if settings.compile:
                for layer in layers:
                    layer.compile(dynamic=True)
            trainer = UnlearningTrainer(
                model=trained,
                bare=bare,
                args=args,
                method=self.method,
                schedule=self.schedule,
                rows=self.rows,
                target=target,
                layers=layers,
                labels=self._labels,
                pad_id=self.filler,
                packing=settings.packing,
                autocast=self.autocast(bare),
                shards=settings.sharding == "full",
                history=History(folder / "training.jsonl" if folder and is_main() else None),
                progress=self.run.progress,
                scorer=self._scorer(bare),
                score_every=_rhythm(settings, self.schedule),
            )
            resume = on_main(lambda: last_checkpoint(checkpoints)) if folder else None
            if resume is not None:
                log.info("resuming from %s", resume.name)
            with writing(checkpoints), own_overrides(settings.optimizer):
                trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
            # accelerate wraps forward for mixed precision; the wrapped model is not the one to hand on
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            trainer.check_weights()
            self.state = trainer.state_values

    @property
    def details(self) -> dict[str, Any]:
        """What the manifest records beside what changed: the time that the references took, and the state that the
        method ended with."""
        found: dict[str, Any] = {"reference_seconds": self.reference_seconds} if self.reference_seconds else {}
        return {**found, "state": self.state} if self.state else found

    def _labels(self, micro: Micro) -> list[str]:
        return [self.sides["forget"].label(i) for i in micro.forget] + [
            self.sides["retain"].label(i) for i in micro.retain
        ]

    def _scorer(self, model: PreTrainedModel) -> Callable[[], dict[str, float]]:
        limit = self.run.settings.score_rows
        chosen = {name: side.examples[:limit] for name, side in self.sides.items() if side.examples}

        def scores() -> dict[str, float]:
            return {
                f"{name}_probability": mean_probability(model, examples, self.filler)
                for name, examples in chosen.items()
            }

        return scores


@torch.no_grad()
def mean_probability(model: PreTrainedModel, examples: Sequence[Example], filler: int) -> float:
    """Mean over rows of exp(mean log-probability of the answer's tokens), in evaluation mode."""
    # Of a sharded model all processes run every forward together.
    alike = is_sharded(model)
    own = list(examples) if alike else [examples[i] for i in share([len(e.input_ids) for e in examples])]
    total = 0.0
    with evaluating(model):
        for indices in length_batches([len(e.input_ids) for e in own], 32, 16_384):
            rows = [own[i] for i in indices]
            scored = answer_logprobs(model, collate(rows, filler).to(model.device), hits=False)
            lengths = torch.tensor([e.answer_length for e in rows], device=scored.logps.device)
            total += float((scored.per_row(len(rows)) / lengths).exp().sum())
    rest(model)
    return (total if alike else sum(gather([total]))) / len(examples)


def _rhythm(settings: TrainingSettings, schedule: Schedule) -> int | None:
    if settings.score_every_epochs is not None:
        return max(1, round(settings.score_every_epochs * schedule.steps_per_epoch))
    return settings.score_every_steps


@contextmanager
def _checkpoints(folder: Path | None, key: str) -> Iterator[Path]:
    """Where the Trainer keeps its checkpoints: under the run's folder, which outlives a kill, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    path = folder / CHECKPOINTS / key
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    yield path


@contextmanager
def _spill(folder: Path | None) -> Iterator[Path | None]:
    """A file beside the run's checkpoints for the target's own values, while its parameters are trained."""
    if folder is None:
        yield None
        return
    with writing(folder):
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINTS / f"target-{uuid.uuid4().hex[:12]}.bin"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _key(manifest: Manifest, examples: Sequence[Example]) -> str:
    """A name for everything that decides a training run, so that no run resumes from another's checkpoint."""
    digest = hashlib.sha256(json.dumps(manifest.to_json(), sort_keys=True).encode())
    for example in examples:
        digest.update(f"{example.input_ids}{example.answer_start}".encode())
    return digest.hexdigest()[:16]
