"""Embedding corruption (ECO): prompts that are recognised reach the model with corrupted embeddings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.errors import ConfigError, RequestError
from expunge.methods.guard_method import GuardMethod
from expunge.methods.interface import Paper, method_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.guards.corruptions import Corruption
    from expunge.guards.strength import Scored
    from expunge.guards.tagging import Tagger
    from expunge.methods.untrained import Subject
    from expunge.requests import Request, Row

_log = logging.getLogger(__name__)

_LADDER = 8  # strengths or dimension counts that are tried before the first step
_PATIENCE = 6  # halvings of a step without a better value: from 128 dimensions down to the next one
_NEAR, _FAR = 0.05, 0.1  # of the surrogate, in probability; or a share of the target's own distance to it
_STRONG = ("sub_value_first_n", "flip_sign_top_k")  # on world authors .01 to .06 off, noise in one dimension .16
_FACTOR = 4.0  # from one strength to the next; the first is the embeddings' own deviation


@method_fields
class EmbeddingCorruption(GuardMethod):
    """Corrupts the embeddings of prompts about what is to be forgotten, so that it is as if never known."""

    name: ClassVar[str] = "embedding_corruption"
    paper: ClassVar[Paper] = Paper(
        "Large Language Model Unlearning via Embedding-Corrupted Prompts", "arXiv 2406.07933"
    )

    corruption: str = Field(default="rand_noise_first_n", description="one of the fourteen; see docs/guards.md")
    dims: int | None = Field(
        default=None, ge=1, description="dimensions that are changed; 1, or learned where there is no strength"
    )
    strength: float | None = Field(default=None, description="of the corruption; learned unless given")
    vector: bool = Field(
        default=False, description="learn a strength for every dimension instead of one for all; dims: all unless given"
    )
    tagger: Literal["all_but_last", "subject", "model"] = Field(
        default="all_but_last", description="which tokens: all but the last, the subject's names, what a model tags"
    )
    tagger_model: str | None = Field(default=None, description="token-classification model of tagger=model")
    objective: Literal["auto", "chance", "probability"] = Field(
        default="auto",
        description="what the strength is learned toward: chance among a row's right and wrong answers (auto: where "
        "every forget row's prompt lists them), or a probability of the answer",
    )
    surrogate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="the score of a model that never knew; unless given chance, or the target's mean probability of "
        "holdout answers, or of other rows' answers",
    )
    evaluations: int = Field(default=20, ge=2, description="of the objective, at most, to learn the strength")

    def prepared(self, request: Request) -> Request:
        from expunge.guards.corruptions import Corruption

        request = super().prepared(request)
        Corruption(self.corruption, 1.0 if self.strength is None else self.strength, self.dims or 1)
        if self.objective == "chance" and any(not row.wrong_answers for row in request.forget):
            raise RequestError(
                "method.objective=chance takes wrong answers beside each forget row's right one, and some have none. "
                "Give them, or take method.objective=probability."
            )
        if self.tagger == "model" and self.tagger_model is None:
            raise ConfigError("method.tagger=model needs method.tagger_model: a folder or hub id.")
        if self.tagger == "subject" and not (request.subjects or request.aliases):
            raise RequestError(
                "method.tagger=subject tags the subject's names, and there are none. Pass --subject NAME."
            )
        if self._learns and not _asked(request):
            raise RequestError(
                f"{self.name} learns its strength from how the answers to prompts change, and all forget rows are "
                "documents without a prompt. Pass rows with prompts, or method.strength (or method.dims)."
            )
        return request

    @property
    def _learns(self) -> bool:
        """Whether a strength or a number of dimensions is learned."""
        from expunge.guards.corruptions import Corruption

        example = Corruption(self.corruption)
        if example.takes_strength:
            return self.strength is None
        return example.takes_dims and self.dims is None

    def check_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from expunge.guards.corruptions import Corruption
        from expunge.guards.tagging import TokenModel

        super().check_model(model, tokenizer)
        Corruption(self.corruption, 1.0, self.dims or 1).check(_width(model))
        if self.tagger_model is not None:
            TokenModel(self.tagger_model).text_spans("loaded before anything is fitted")

    def action(self, subject: Subject) -> tuple[Corruption, Tagger]:
        from expunge.guards.corruptions import Corruption

        tagger = self._tagger(subject.request)
        seed = subject.run.settings.seed
        example = Corruption(self.corruption)
        given = self.strength if self.strength is not None else 1.0
        if example.takes_strength and self.strength is None:
            found = self._learned(subject, tagger, "strength")
            return Corruption(self.corruption, found, self._dims(subject.model), seed), tagger
        if example.takes_dims and not example.takes_strength and self.dims is None:
            return Corruption(self.corruption, given, int(self._learned(subject, tagger, "dims")), seed), tagger
        return Corruption(self.corruption, given, self.dims or 1, seed), tagger

    def _dims(self, model: PreTrainedModel) -> int:
        """A strength for every dimension is for all of them."""
        return self.dims or (_width(model) if self.vector else 1)

    def _tagger(self, request: Request) -> Tagger:
        from expunge.guards.tagging import AllButLast, SubjectTagger, TokenModel

        if self.tagger == "subject":
            return SubjectTagger.of(request)
        if self.tagger == "model":
            return TokenModel(str(self.tagger_model))
        return AllButLast()

    def _learned(self, subject: Subject, tagger: Tagger, what: Literal["strength", "dims"]) -> float | Tensor:
        """The strength or the number of dimensions that brings the forget rows' score nearest to the surrogate."""
        import torch

        from expunge.guards.corruptions import Corruption
        from expunge.guards.strength import Scored
        from expunge.guards.zeroth_order import minimise

        run, width, rows = subject.run, _width(subject.model), _asked(subject.request)
        every = all(map(_is_multiple_choice, rows))
        choices = self.objective == "chance" or (self.objective == "auto" and every)
        scored = Scored(
            subject.model,
            subject.tokenizer,
            rows,
            tagger,
            choices=choices,
            max_length=run.settings.max_length,
            template=run.template,
        )
        wanted, source = self._surrogate(subject, scored)
        seed = run.settings.seed

        def corruption(point: Tensor) -> Corruption:
            if what == "dims":
                return Corruption(self.corruption, 1.0, int(point), seed)
            strength = point.float() if point.ndim else float(point)
            return Corruption(self.corruption, strength, self._dims(subject.model), seed)

        def objective(points: object) -> list[float]:
            return [abs(score - wanted) for score in scored.score([corruption(p) for p in points])]  # type: ignore[attr-defined]

        steps = torch.arange(min(_LADDER, self.evaluations), dtype=torch.float64)
        if what == "dims":
            ladder = list(torch.pow(float(width), steps / max(len(steps) - 1, 1)).round().unique())
        else:
            table: Any = subject.model.get_input_embeddings()
            deviation = float(table.weight.detach().float().std())
            ladder = list(deviation * torch.pow(_FACTOR, steps))
            ladder = [size.expand(width) for size in ladder] if self.vector else ladder
        run.progress(0, 1, "learning the corruption")
        found = minimise(
            objective,
            ladder,
            budget=self.evaluations,
            low=1.0 if what == "dims" else 0.0,
            high=float(width) if what == "dims" else float("inf"),
            whole=what == "dims",
            patience=_PATIENCE,
            seed=seed,
        )
        run.progress(1, 1, "learning the corruption")
        plain = scored.score([None])[0]
        if found.value > max(_NEAR, _FAR * abs(plain - wanted)):
            _log.warning(
                "%s: no %s that was tried brings the forget rows near what a model that never knew scores (%.3g, %s): "
                "the nearest is %.3g away, the target %.3g. Try %s, or other method.dims.",
                self.name, what, wanted, source, found.value, abs(plain - wanted), self._others(),
            )  # fmt: skip
        subject.details["learned"] = {
            "what": what,
            "surrogate": wanted,
            "surrogate_from": source,
            "score": "chance among answers" if choices else "probability of the answer",
            "score_of_target": plain,
            **found.as_dict(),
        }
        best = found.point
        return best.float() if best.ndim else float(best)

    def _others(self) -> str:
        """Corruptions that came near where noise in one dimension did not."""
        return " or ".join(f"method.corruption={one}" for one in _STRONG if one != self.corruption)

    def _surrogate(self, subject: Subject, scored: Scored) -> tuple[float, str]:
        """The score of a model that never knew, and where it is from."""
        from dataclasses import replace

        if self.surrogate is not None:
            return self.surrogate, "given"
        if scored.choices:
            return scored.chance, "chance"
        rows = _asked(subject.request)
        if subject.request.holdout:
            return replace(scored, rows=subject.request.holdout).score([None])[0], "holdout rows"
        turned = [row.with_answer(other) for row in rows if (other := _another_answer(row, rows)) is not None]
        if not turned:
            raise RequestError(
                f"{self.name} learns its strength toward what a model that never knew would score, and the forget rows "
                "have no two answers to compare. Pass --holdout FILE (rows that no model was trained on), or "
                "method.surrogate or method.strength."
            )
        return replace(scored, rows=turned).score([None])[0], "other rows' answers"


def _asked(request: Request) -> list[Row]:
    """The forget rows that have a prompt, which is what is corrupted."""
    return [row for row in request.forget if row.prompt or row.history]


def _another_answer(row: Row, rows: Sequence[Row]) -> str | None:
    """The answer of the next row that has another one."""
    at = rows.index(row)
    return next((one.answer for one in (*rows[at + 1 :], *rows[:at]) if one.answer != row.answer), None)


def _is_multiple_choice(row: Row) -> bool:
    """Whether the prompt lists the answers among which to choose."""
    return bool(row.wrong_answers) and all(answer.strip() in row.prompt for answer in (row.answer, *row.wrong_answers))


def _width(model: PreTrainedModel) -> int:
    table: Any = model.get_input_embeddings()
    return int(table.weight.shape[-1])
