"""One training run: rows and alternatives, the frozen target beside them, and the trainer, from start to end."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.documents import split_documents
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.distributed import gather, is_main, on_main, processes, share
from expunge.erasures.manifest import Manifest
from expunge.files import writing
from expunge.methods.weight_method import WeightMethod
from expunge.models.anatomy import decoder_layers
from expunge.models.fingerprint import values_digest
from expunge.models.halves import Halves
from expunge.models.limits import max_tokens
from expunge.models.logprobs import answer_logprobs
from expunge.models.state import evaluating
from expunge.training.alternatives import Context
from expunge.training.arguments import training_arguments, uses_bfloat16
from expunge.training.checkpoints import last_checkpoint
from expunge.training.frozen import FrozenTarget, LiveTarget, StoredTarget, check_beside_head, frozen_head, kinds_of
from expunge.training.optimizers import own_overrides
from expunge.training.parameters import own_parameters
from expunge.training.references import STATES, ReferenceStore, fill
from expunge.training.rows import Rows
from expunge.training.run import History, Run
from expunge.training.schedule import Micro, Schedule
from expunge.training.scoring import most_tokens, scoring
from expunge.training.sharding import Whole, gathered_root, is_sharded, rest
from expunge.training.trainer import UnlearningTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.requests import Row
    from expunge.training.settings import TrainingSettings
    from expunge.training.teaching import Teaching

log = logging.getLogger("expunge")

CHECKPOINTS = "checkpoints"


class Rowset:
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


class Loop:
    """One training run, ready to be started on the model or on the adapter around it."""

    def __init__(
        self,
        method: WeightMethod,
        schedule: Schedule,
        sides: dict[str, Rowset],
        tokenizer: PreTrainedTokenizerBase,
        run: Run,
        manifest: Manifest,
    ) -> None:
        self.method, self.schedule, self.sides = method, schedule, sides
        self.tokenizer, self.filler, self.run, self.manifest = tokenizer, pad_id(tokenizer), run, manifest
        self.rows = Rows(sides["forget"].examples, sides["retain"].examples)
        self.key, self.reference_seconds = "", 0.0
        self.state: dict[str, float] = {}
        self.taught: dict[str, Any] = {}

    def prepare(self, model: PreTrainedModel, teaching: Teaching | None = None) -> None:
        """Make the alternatives' rows, and what is taught: what they say may come from the target itself."""
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
        store = None if teaching is None else teaching.targets(self.sides["forget"].rows, self.rows.forget, context)
        if store is not None:
            self.rows = replace(self.rows, taught=store.rows())
            self.taught = store.summary()
        facts = None if store is None else store.facts
        self.key = _key(self.manifest, [*self.rows.forget, *self.rows.retain, *flat], facts)

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
        if self.taught:
            found["teacher"] = self.taught
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


def _key(manifest: Manifest, examples: Sequence[Example], taught: Mapping[str, Any] | None) -> str:
    """A name for everything that decides a training run, so that no run resumes from another's checkpoint."""
    digest = hashlib.sha256(json.dumps(manifest.to_json(), sort_keys=True).encode())
    if taught is not None:
        digest.update(json.dumps(taught, sort_keys=True).encode())
    for example in examples:
        digest.update(f"{example.input_ids}{example.answer_start}".encode())
    return digest.hexdigest()[:16]
