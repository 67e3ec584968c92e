"""The base of methods that recognise prompts about what is to be forgotten. Importing this loads no torch."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from expunge.errors import ConfigError, InputError, RequestError
from expunge.methods.input_method import InputMethod
from expunge.methods.interface import method_fields

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.guards.classifiers.interface import ClassifierKind, PromptClassifier
    from expunge.guards.corruptions import Corruption
    from expunge.guards.cross_fitting import CrossFitted
    from expunge.guards.examples import Examples, MadePrompt
    from expunge.guards.interface import Guard
    from expunge.guards.prompt_guard import Refusal
    from expunge.guards.tagging import Tagger
    from expunge.guards.threshold import Threshold
    from expunge.methods.untrained import Subject
    from expunge.requests import Request

_log = logging.getLogger(__name__)

_FEW = 20  # prompts; with fewer, more are made
_WRITTEN = 512  # tokens that the target may write about a name


@method_fields
class GuardMethod(InputMethod):
    """Fits a classifier of prompts and calibrates it; subclasses say what happens to a prompt that it flags."""

    level: float = Field(
        default=0.01, gt=0, lt=1, description="share of benign prompts that may be flagged; the threshold follows"
    )
    every_kind: bool = Field(
        default=False, description="every group of benign prompts keeps to the level by itself, not all together"
    )
    classifier: Literal["tfidf", "hidden", "encoder", "sequence"] = Field(
        default="tfidf",
        description="what prompts are recognised by: words and characters, the target's hidden states, a sentence "
        "encoder, a fine-tuned sequence classifier",
    )
    classifier_options: dict[str, Any] = Field(
        default_factory=dict, description="fields of the classifier, such as {layer: 3} or {source: ./encoder}"
    )
    folds: int = Field(default=5, ge=2, description="parts into which prompts are split to judge each unseen")
    neighbour_weight: float = Field(
        default=3.0, gt=0, description="how much a neighbour counts among the prompts to leave alone"
    )
    more_prompts: Literal["auto", "templates", "target", "endpoint", "none"] = Field(
        default="auto",
        description="make more prompts from the subjects' names and the forget rows' answers: from templates, or "
        "written by the target or an endpoint; auto: from templates where there are fewer than 20",
    )
    more_prompts_url: str | None = Field(default=None, description="the endpoint's (http://HOST/v1)")
    more_prompts_model: str | None = Field(default=None, description="which model of the URL")
    more_prompts_key: str | None = Field(default=None, description="environment variable that holds the URL's key")

    @abstractmethod
    def action(self, subject: Subject) -> tuple[Corruption | Refusal, Tagger]:
        """What is done to a flagged prompt, and to which of its tokens."""

    def prepared(self, request: Request) -> Request:
        if not (request.retain or request.neighbours or request.calibration):
            raise RequestError(
                f"{self.name} is calibrated on prompts that must be left alone, and there are none. Pass --retain FILE "
                "(with prompts of every kind that users ask), or --neighbours or --calibration."
            )
        from expunge.guards.threshold import check_rows

        self._check_endpoint()
        given = _given(request, neighbour_weight=self.neighbour_weight)
        kinds = [kind for kind, label in zip(given.kinds, given.labels, strict=True) if not label]
        check_rows(len(kinds), self.level, kinds if self.every_kind else None)
        own = len({origin for origin, label in zip(given.origins, given.labels, strict=True) if label})
        if own < self.folds and (self.more_prompts == "none" or not (request.subjects or request.aliases)):
            raise RequestError(
                f"{'there is 1 prompt' if own == 1 else f'there are {own} prompts'} to be flagged, and each is judged "
                f"by one of {self.folds} classifiers that never saw it, for which it takes {self.folds}. Pass "
                f"{'' if self.more_prompts != 'none' else 'method.more_prompts=templates and '}--subject NAME (more "
                "prompts are made then), more forget rows, or a smaller method.folds (2 at least)."
            )
        return request

    def _check_endpoint(self) -> None:
        options = {"url": self.more_prompts_url, "model": self.more_prompts_model}
        if self.more_prompts == "endpoint":
            if missing := [f"method.more_prompts_{name}=.." for name, value in options.items() if value is None]:
                raise ConfigError(f"method.more_prompts=endpoint: which one? Pass {' and '.join(missing)}.")
        elif given := [name for name, value in {**options, "key": self.more_prompts_key}.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(f'method.more_prompts_{name}' for name in given)}: only an endpoint reads that, and "
                f"method.more_prompts is {self.more_prompts}. Pass method.more_prompts=endpoint, or leave it out."
            )

    def check_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: ARG002
        self._kind()

    def guards(self, subject: Subject) -> Sequence[Guard]:
        from expunge.guards.prompt_guard import PromptGuard, PromptGuards

        classifier, crossed = self._recognised(subject)
        threshold = crossed.threshold(self.level, every_kind=self.every_kind)
        self._warn_of_one_kind(crossed.examples)
        self._describe(subject, crossed, threshold)
        action, tagger = self.action(subject)
        request = subject.request
        names = [*request.subjects, *request.aliases]
        about = {"subjects": names, "forget_rows": len(request.forget), "level": self.level}
        name = request.subjects[0] if request.subjects else "request"
        return [PromptGuards([PromptGuard(name, classifier, threshold, action, tagger, about)])]

    def _kind(self) -> ClassifierKind:
        from expunge.guards.classifiers.interface import make_classifier

        return make_classifier(self.classifier, self.classifier_options)

    def _recognised(self, subject: Subject) -> tuple[PromptClassifier, CrossFitted]:
        """The classifier of all prompts, and each prompt judged by one that never saw it."""
        from expunge.guards.cross_fitting import cross_fitted

        kind, some = self._kind(), self._examples(subject)

        def fit(part: Examples) -> PromptClassifier:
            return kind.fit(
                part.texts, part.labels, weights=part.weights, model=subject.model, tokenizer=subject.tokenizer
            )

        crossed = cross_fitted(fit, some, folds=self.folds, seed=subject.run.settings.seed)
        return fit(some), crossed

    def _examples(self, subject: Subject) -> Examples:
        from expunge.guards.examples import prompt_of
        from expunge.guards.more_prompts import from_facts, templated, written

        request = subject.request
        known = [prompt_of(row) for row in request.forget]
        names = (*request.subjects, *request.aliases)
        more: tuple[str | MadePrompt, ...] = ()
        try:
            if self.more_prompts in ("target", "endpoint"):
                complete = _complete(subject) if self.more_prompts == "target" else self._endpoint()
                more = written(complete, names, known)
            elif self.more_prompts == "templates" or (self.more_prompts == "auto" and len(set(known)) < _FEW and names):
                about = templated(names, known)
                more = (*about, *from_facts(request.forget, names, (*known, *about)))
        except InputError as error:
            raise RequestError(f"method.more_prompts={self.more_prompts}: {error} Pass --subject NAME.") from error
        subject.details["prompts_made"] = len(more)
        return _given(request, more=more, neighbour_weight=self.neighbour_weight)

    def _endpoint(self) -> Callable[[str], str]:
        from expunge.evaluation.endpoint_client import Caller, EndpointClient

        return EndpointClient(
            str(self.more_prompts_url),
            str(self.more_prompts_model),
            caller=Caller("more prompts", "prompts", "method.more_prompts"),
            key_variable=self.more_prompts_key,
        ).complete

    def _warn_of_one_kind(self, some: Examples) -> None:
        kinds = {kind for kind, label in zip(some.kinds, some.labels, strict=True) if not label}
        if len(kinds) == 1:
            _log.warning(
                "%s: calibrated on prompts of one kind ('%s'): prompts of other kinds may be flagged far more often. "
                "Pass benign prompts of every kind that users ask (--retain, --calibration), each with its kind in "
                "column group.",
                self.name,
                *kinds,
            )

    def _describe(self, subject: Subject, crossed: CrossFitted, threshold: Threshold) -> None:
        """Figures of the classifier: rates by kind, robustness, curves."""
        import numpy as np

        from expunge.guards.curves import precision_recall, reliability
        from expunge.guards.robustness import cross_fitted_robustness, weak_spots
        from expunge.guards.threshold import rates

        request = subject.request
        names = (*request.subjects, *request.aliases)
        scores, positive, own, unseen = crossed.scores, crossed.positive, crossed.own, True
        try:
            options = {"every_kind": self.every_kind}
            recall = crossed.recall(self.level, **options)
            false = crossed.false_positives(self.level, **options)
            robust = cross_fitted_robustness(crossed, self.level, names, **options)
        except InputError:  # too few rows to leave a fold out of the threshold's: the one in use judges all
            kinds = np.array(crossed.examples.kinds)
            recall = rates(threshold.flags(scores[own]), kinds[own].tolist())
            false = rates(threshold.flags(scores[~positive]), kinds[~positive].tolist())
            robust, unseen = {}, False
            _log.warning(
                "%s: %d benign prompts are too few to judge each by a threshold that it had no part in, so that the "
                "rates are those of the threshold in use, which saw them; robustness is not measured. Pass more benign "
                "prompts, or a larger method.level.",
                self.name,
                int((~positive).sum()),
            )
        asked = own | ~positive  # made prompts are like those that the classifier was fitted on
        figures = {
            "classifier": self.classifier,
            "prompts": {"own": int(own.sum()), "made": int((positive & ~own).sum())},
            "unseen": unseen,
            "threshold": threshold.as_dict(),
            "recall": {kind: one.as_dict() for kind, one in recall.items()},
            "false_positives": {kind: one.as_dict() for kind, one in false.items()},
            "robustness": {name: one.as_dict() for name, one in robust.items()},
            "weak_spots": weak_spots(robust) if robust else [],
            "precision_recall": precision_recall(scores[asked], own[asked]),
            "reliability": reliability(scores[asked], own[asked]),
        }
        subject.details["guard"] = json.loads(json.dumps(figures))  # tuples are lists, as when it is read again


def _given(request: Request, *, more: Sequence[str | MadePrompt] = (), neighbour_weight: float) -> Examples:
    """The request's prompts, equal ones once, calibration rows among those to leave alone."""
    from expunge.guards.examples import examples

    benign = {"calibration": request.calibration} if request.calibration else {}
    return examples(request, benign=benign, more=more, neighbour_weight=neighbour_weight)


def _complete(subject: Subject) -> Callable[[str], str]:
    """What the target answers to an instruction."""
    from expunge.data.template import Template
    from expunge.evaluation.generation import greedy_answers
    from expunge.requests.rows import Row

    template = Template.of(subject.tokenizer, subject.run.template)

    def complete(instruction: str) -> str:
        rows = [Row(instruction, "")]
        found = greedy_answers(subject.model, subject.tokenizer, template, rows, max_new_tokens=_WRITTEN)
        return found[0].text

    return complete
