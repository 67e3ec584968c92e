"""Does training on something else bring the forgotten answers back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, ModelName, Paper, method_fields
from expunge.audits.parts.attack import answer_room, asked_rows
from expunge.errors import ConfigError, InputError
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    import numpy as np

    from expunge.audits.parts.answers import Answers
    from expunge.audits.parts.coming_back import Course, Seen
    from expunge.data.encode import Example

Text = Literal["forget", "neighbours", "retain"]
Trained = Literal["full", "lora"]
_LEAST_LEARNED = 0.5
_LEAST_MOVED = 0.1
_WHAT = {"forget": "other forget rows", "neighbours": "neighbouring rows", "retain": "retain rows"}
_HOW = {"full": "all weights", "lora": "LoRA"}


@method_fields
class Relearning(Audit):
    """A few steps of training on some forget rows, or on other text: do the held-out answers come back?"""

    name: ClassVar[str] = "relearning"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Unlearning or Obfuscating? Jogging the Memory of Unlearned LLMs via Benign Relearning", "arXiv:2406.13356"
    )
    needs_retrained: ClassVar[bool] = True
    control: ClassVar[str] = "the retrained model after the same training"
    order: ClassVar[int] = 10

    texts: tuple[Text, ...] = Field(
        default=("forget",),
        min_length=1,
        description="what is trained on: half of the forget rows, close facts, unrelated text",
    )
    trained: tuple[Trained, ...] = Field(
        default=("full",), min_length=1, description="train all weights, an adapter, or both in turn"
    )
    steps: tuple[int, ...] = Field(
        default=(5, 10, 25), min_length=1, description="optimizer steps after which the held-out rows are asked"
    )
    limit: int = Field(default=40, gt=0, description="forget rows, evenly spread, of which half is trained on")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Adam's, of full training; ten times that for LoRA. null: the erasure's own, else the default of "
        "training.learning_rate",
    )
    batch: int = Field(default=8, gt=0, description="rows of a step")
    lora_rank: int = Field(default=8, gt=0, description="rank of the adapter; alpha is twice that")
    retain_rows: int = Field(default=40, ge=0, description="retain rows that tell a ruined model, evenly spread")

    def check_options(self) -> None:
        problems = [f"steps={list(self.steps)}: expected ascending numbers above 0"] * (not _ascending(self.steps))
        for option in ("texts", "trained"):
            values = getattr(self, option)
            problems += [f"{option}={list(values)}: one is named twice"] * (len(set(values)) < len(values))
        if problems:
            raise ConfigError("\n".join(f"audits.relearning.{problem}." for problem in problems))

    def check(self, audited: Audited) -> None:
        from expunge.audits.parts.plain_weights import matrices
        from expunge.audits.parts.relearned import halves

        if audited.at_inference:
            raise InputError(
                "this erasure leaves the weights as they were: whoever trains them lifts it first, and then has the "
                "target, which nobody needs to teach. Relearning takes a weight erasure, or an erased model."
            )
        self.check_options()
        if not self._present(audited):
            raise InputError(
                f"the request has no {' and no '.join(self.texts)} rows to train on. Pass some, or add forget to "
                "audits.relearning.texts."
            )
        rows = asked_rows(audited, self.limit)
        if min(map(len, halves(rows, audited.seed, _names(audited)))) < 1:
            found = (
                "only one asks something"
                if len(rows) == 1
                else f"the {len(rows)} that ask something are about one (their answers or their questions are the same)"
            )
            raise InputError(
                f"relearning trains on some forget rows and asks others, about other facts, and {found}. Pass more, or "
                "leave the audit out."
            )
        for model in (audited.target, audited.erased, audited.retrained):
            if model is not None:
                matrices(model)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import coming_back_result
        from expunge.audits.parts.relearned import halves

        self.check(audited)
        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        fitted, scored = halves(rows, audited.seed, _names(audited))
        kept = self._kept(audited)
        courses: list[Course] = []
        learned: dict[str, dict[ModelName, tuple[float, float]]] = {}
        for text in self._present(audited):
            for trained in self.trained:
                course, learned[f"{text}_{trained}"] = self._course(
                    audited, text, trained, self._trained_on(audited, text, fitted), scored, kept, progress
                )
                courses.append(course)
        too_weak, weak_courses = _too_weak(learned)
        if len(scored) == 1:
            weak_courses = f"Of {len(rows)} rows {len(fitted)} were trained on. {weak_courses}".rstrip()
        missing = [text for text in self.texts if text not in self._present(audited)]
        return coming_back_result(
            self.name,
            self.version,
            audited,
            scored,
            courses,
            details={
                "trained_on": len(fitted),
                "learning_rate": {one: self._rate(audited, one) for one in self.trained},
                "loss_of_rows_trained_on": {
                    name: {model: {"before": a, "after": b} for model, (a, b) in every.items()}
                    for name, every in learned.items()
                },
                "texts_left_out": missing,
            },
            more=weak_courses,
            doubt=too_weak,
        )

    def _kept(self, audited: Audited) -> dict[ModelName, np.ndarray | None]:
        """How likely every model finds retain answers before anything is done to it."""
        from expunge.audits.parts.treated import kept_probability

        found: dict[ModelName, np.ndarray | None] = {}
        for name in audited.models:
            with audited.model(name) as model:
                found[name] = kept_probability(model, audited, self.retain_rows)
        return found

    def _present(self, audited: Audited) -> list[Text]:
        return [text for text in self.texts if text == "forget" or getattr(audited.request, text)]

    def _trained_on(self, audited: Audited, text: Text, fitted: Sequence[Row]) -> list[Row]:
        """As many rows of each text, evenly spread."""
        from expunge.evaluation.suite import spread

        return list(fitted if text == "forget" else spread(getattr(audited.request, text), len(fitted), option="limit"))

    def _rate(self, audited: Audited, trained: Trained) -> float:
        if self.learning_rate is not None:
            return self.learning_rate * (10 if trained == "lora" else 1)
        manifest = getattr(audited.erasure, "manifest", None)
        own = (manifest.training if manifest is not None else None) or {}
        rates = {one: TrainingSettings(parameters=one).rate for one in ("full", "lora")}  # type: ignore[call-arg]
        fitted: Any = own.get("parameters", "full")
        return float(own.get("learning_rate") or rates[fitted]) * rates[trained] / rates[fitted]

    def _course(
        self,
        audited: Audited,
        text: Text,
        trained: Trained,
        fitted: Sequence[Row],
        scored: Sequence[Row],
        kept: Mapping[ModelName, np.ndarray | None],
        progress: Progress,
    ) -> tuple[Course, dict[ModelName, tuple[float, float]]]:
        """What every model says to ``scored`` on the way, and the mean nll of ``fitted`` rows before and after."""
        from expunge.audits.parts.answers import plain_answers
        from expunge.audits.parts.coming_back import Course, Level, Seen

        plain = plain_answers(audited, scored, progress=progress)
        seen: dict[ModelName, list[Seen]] = {}
        losses: dict[ModelName, tuple[float, float]] = {}
        for name in audited.models:
            shown = named(f"{name}, {text}, {trained}", progress)
            if name == "target":
                found: list[Answers] = [plain[name]] * len(self.steps)  # it knows: nothing has to be trained
            else:
                found, losses[name] = self._train(audited, name, trained, fitted, scored, shown)
            seen[name] = [Seen(plain[name], kept[name]), *map(Seen, found)]
        what = f"{len(fitted)} {_WHAT[text]} ({_HOW[trained]})"
        levels = [Level(0, "0", "Before training")]
        levels += [Level(step, str(step), f"After {step} steps on {what}") for step in self.steps]
        last = max(self.steps)
        course = Course(
            f"{text}_{trained}",
            f"Trained on {what}",
            "steps",
            levels,
            seen,
            f"within {last} steps on {what}",
            (str(last),),
        )
        return course, losses

    def _train(
        self,
        audited: Audited,
        name: ModelName,
        trained: Trained,
        fitted: Sequence[Row],
        scored: Sequence[Row],
        progress: Progress,
    ) -> tuple[list[Answers], tuple[float, float]]:
        from expunge.audits.parts.answers import PLAIN, Way, ask
        from expunge.audits.parts.plain_weights import with_plain_weights
        from expunge.audits.parts.relearned import train_again
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all
        from expunge.evaluation.outputs import score_examples
        from expunge.models.limits import max_tokens

        padding = pad_id(audited.tokenizer)
        found: list[Answers] = []
        with with_plain_weights(audited, name) as model:
            length = max_tokens(model, audited.max_length)
            examples: list[Example] = encode_all(audited.tokenizer, audited.texts, fitted, max_length=length)

            losses: list[float] = []

            def loss() -> float:
                every = score_examples(model, examples, padding)
                return -sum(float(one.logps.sum()) for one in every) / sum(len(one.logps) for one in every)

            def look(step: int) -> None:
                way = Way(PLAIN, tuple(scored), audited.texts)
                found.append(ask(model, audited, scored, [way], progress=named(f"step {step}", progress)))
                if step == self.steps[-1]:
                    losses.append(loss())

            losses.append(loss())
            train_again(
                model,
                examples,
                look,
                padding=padding,
                steps=self.steps,
                trained=trained,
                learning_rate=self._rate(audited, trained),
                batch=self.batch,
                rank=self.lora_rank,
                seed=audited.seed,
            )
        return found, (losses[0], losses[-1])


def _ascending(steps: Sequence[int]) -> bool:
    return steps[0] > 0 and all(low < high for low, high in pairwise(steps))


def _names(audited: Audited) -> tuple[str, ...]:
    return (*audited.request.subjects, *audited.request.aliases)


def _too_weak(learned: dict[str, dict[ModelName, tuple[float, float]]]) -> tuple[str, str]:
    """Said where no training, or none on forget rows, taught the erased model even the rows it was trained on; and of
    the courses that were too weak where others were not.

    On forget rows, which it does not know, half of the loss must go; rows that it knows leave little to learn, and
    their loss must move by a tenth.
    """
    own = {name: every["erased"] for name, every in learned.items()}
    forget = [name for name in own if name.startswith("forget")]
    weak = [
        name
        for name, (before, after) in own.items()
        if not (after <= _LEAST_LEARNED * before if name in forget else abs(after - before) > _LEAST_MOVED * before)
    ]
    if not weak:
        return "", ""
    if any(name not in weak for name in forget or own):
        each = ", ".join(f"{name} ({own[name][0]:.3f} to {own[name][1]:.3f})" for name in weak)
        return "", f"Too weak to tell were, by the loss on the rows trained on: {each}."
    before, after = min((own[name] for name in forget or weak), key=lambda one: one[1] / max(one[0], 1e-9))
    trained_on = "the forget rows" if forget else "the rows"
    return (
        f"But the training was too weak to tell: even the loss on {trained_on} that it was trained on went from "
        f"{before:.3f} to {after:.3f} only. Set a larger audits.relearning.learning_rate, or more steps."
    ), ""
