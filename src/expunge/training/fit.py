"""Fitting a weight-changing method: rows to examples, reference, training, and what changed as an erasure."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.documents import split_documents
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.erasures.adapter import Adapter, base_digest, carries_adapter, lora_config, with_lora
from expunge.erasures.manifest import Manifest
from expunge.erasures.weight_change import WeightChange, changed_tensors
from expunge.errors import ModelError, RequestError, TrainingError
from expunge.files import writing
from expunge.models.fingerprint import fingerprint
from expunge.models.limits import max_tokens
from expunge.models.logprobs import answer_logprobs
from expunge.models.state import evaluating, preserved_randomness
from expunge.training.parameters import float32_copies, lora_values, select_parameters
from expunge.training.reference import sequence_logprobs
from expunge.training.run import History, Run
from expunge.training.schedule import Micro, Schedule, make_schedule
from expunge.training.trainer import (
    UnlearningTrainer,
    check_optimizer,
    last_checkpoint,
    training_arguments,
    uses_bfloat16,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.methods.weight_method import WeightMethod
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
        settings, forget_lengths=sides["forget"].lengths, retain_lengths=sides["retain"].lengths, lead=lead
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
    key = _key(manifest, sides)
    loop = _Loop(method, schedule, sides, pad_id(tokenizer), run, key)
    with preserved_randomness():
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
        raise RequestError(
            f"{method.name} holds on to retain rows (alpha {getattr(method, 'alpha', 0)}), and there are none. "
            "Pass --retain FILE, or set method.alpha=0 to train without."
        )
    if carries_adapter(model):
        raise ModelError(
            "the model carries a PEFT adapter. Leave the context that applied it, or merge it, before fitting."
        )
    if getattr(model.config, "quantization_config", None) is not None and settings.parameters == "full":
        raise ModelError("a quantised model's weights cannot be trained. Set training.parameters=lora.")
    if settings.parameters == "full":
        select_parameters(model, settings.layers)
    else:
        lora_values(model, settings)
    check_optimizer(settings)
    limit = max_tokens(model, settings.max_length)
    return {
        "forget": _Side(forget, tokenizer, run, limit),
        "retain": _Side(retain if method.uses_retain else (), tokenizer, run, limit),
    }


def _fit_full(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, loop: _Loop
) -> WeightChange:
    names = select_parameters(model, loop.run.settings.layers)
    with float32_copies(model, names, autocast=loop.autocast(model)) as originals:
        loop.train(model, model)
        trained = {name: p for name, p in model.named_parameters() if name in originals}
        tensors, details = changed_tensors(originals, trained)
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
    return WeightChange(manifest.model_copy(update={"details": details}), tensors, tokenizer)


def _fit_adapter(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, loop: _Loop
) -> Adapter:
    from peft import get_peft_model_state_dict

    settings = loop.run.settings
    values = lora_values(model, settings)
    torch.manual_seed(settings.seed)  # the adapter's first values
    with with_lora(model, lora_config(values)) as adapted:
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
    return Adapter(manifest.model_copy(update={"details": details}), tensors, values, tokenizer)


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


class _Loop:
    """One training run, ready to be started on the model or on the adapter around it."""

    def __init__(
        self,
        method: WeightMethod,
        schedule: Schedule,
        sides: dict[str, _Side],
        filler: int,
        run: Run,
        key: str,
    ) -> None:
        self.method, self.schedule, self.sides = method, schedule, sides
        self.filler, self.run, self.key = filler, run, key

    def autocast(self, model: PreTrainedModel) -> bool:
        return uses_bfloat16(self.run.settings, on_cpu=model.device.type == "cpu")

    def reference(self, model: PreTrainedModel) -> torch.Tensor | None:
        """The target's log-probabilities of the forget answers, in the precision that training compares them with."""
        if not self.method.needs_reference:
            return None
        settings = self.run.settings
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=self.autocast(model)):
            return sequence_logprobs(
                model,
                self.sides["forget"].examples,
                self.filler,
                rows=settings.forget_batch,
                progress=self.run.progress,
            )

    def train(self, trained: Any, bare: PreTrainedModel) -> None:
        """Train ``trained`` (``bare`` itself or a PEFT model around it) to the end of the schedule."""
        settings, folder = self.run.settings, self.run.folder
        reference = self.reference(bare)
        with _checkpoints(folder, self.key) as checkpoints:
            args = training_arguments(
                settings, self.schedule, checkpoints, on_cpu=bare.device.type == "cpu", keep=folder is not None
            )
            bare.config.use_cache = False
            trainer = UnlearningTrainer(
                model=trained,
                args=args,
                method=self.method,
                schedule=self.schedule,
                forget=self.sides["forget"].examples,
                retain=self.sides["retain"].examples,
                labels=self._labels,
                reference=reference,
                pad_id=self.filler,
                history=History(folder / "training.jsonl" if folder else None),
                progress=self.run.progress,
                scorer=self._scorer(bare),
                score_every=_rhythm(settings, self.schedule),
            )
            resume = last_checkpoint(checkpoints)
            if resume is not None:
                log.info("resuming from %s", resume.name)
            with writing(checkpoints):
                trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
            # accelerate wraps forward for mixed precision; the wrapped model is not the one to hand on
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            trainer.check_weights()

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
    total = 0.0
    with evaluating(model):
        for indices in length_batches([len(e.input_ids) for e in examples], 32, 16_384):
            rows = [examples[i] for i in indices]
            scored = answer_logprobs(model, collate(rows, filler).to(model.device), hits=False)
            lengths = torch.tensor([e.answer_length for e in rows], device=scored.logps.device)
            total += float((scored.per_row(len(rows)) / lengths).exp().sum())
    return total / len(examples)


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


def _key(manifest: Manifest, sides: dict[str, _Side]) -> str:
    """A name for everything that decides a training run, so that no run resumes from another's checkpoint."""
    digest = hashlib.sha256(json.dumps(manifest.to_json(), sort_keys=True).encode())
    for side in sides.values():
        for example in side.examples:
            digest.update(f"{example.input_ids}{example.answer_start}".encode())
    return digest.hexdigest()[:16]
