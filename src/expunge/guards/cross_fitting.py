"""Every prompt judged by a classifier that never saw it: k-fold cross-fitting, and the rates that follow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from expunge.errors import ConfigError, InputError
from expunge.guards.classifiers.interface import PromptClassifier
from expunge.guards.examples import MADE, Examples
from expunge.guards.threshold import Rate, Threshold, calibrate, rates

Fit = Callable[[Examples], PromptClassifier]


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """``scores`` [n] of the examples, each by the one of ``classifiers`` that was fitted without its fold; ``folds``
    [n] its fold."""

    examples: Examples
    scores: np.ndarray
    folds: np.ndarray
    classifiers: tuple[PromptClassifier, ...]

    @property
    def positive(self) -> np.ndarray:
        """[n] which prompts are to be flagged."""
        return np.array(self.examples.labels, dtype=bool)

    @property
    def own(self) -> np.ndarray:
        """[n] which prompts are to be flagged and the request's own, not made for the classifier."""
        asked = [kind != MADE for kind in self.examples.kinds]
        found: np.ndarray = self.positive & np.array(asked)
        return found

    def threshold(self, level: float, *, every_kind: bool = False, without: int | None = None) -> Threshold:
        """Calibrated on all benign prompts' scores, for the classifier that is fitted on all examples; ``without`` is a
        fold whose prompts are left out.

        The bound is exact for a classifier that saw none of the calibration prompts; here it is one of a classifier
        like those of the folds, which learned from fewer prompts.
        """
        chosen = ~self.positive & (self.folds != (-1 if without is None else without))
        kinds = np.array(self.examples.kinds)[chosen].tolist()
        return calibrate(self.scores[chosen], level, kinds=kinds, every_kind=every_kind)

    def flags(self, level: float, *, every_kind: bool = False) -> np.ndarray:
        """[n] which prompts are flagged, with a threshold for each fold that is calibrated on the other folds'
        prompts: neither classifier nor threshold saw the prompt that they judge."""
        found = np.zeros(len(self.scores), dtype=bool)
        for fold in range(len(self.classifiers)):
            own = self.folds == fold
            found[own] = self.threshold(level, every_kind=every_kind, without=fold).flags(self.scores[own])
        return found

    def recall(self, level: float, *, every_kind: bool = False) -> dict[str, Rate]:
        """The share of the prompts to forget that are flagged, by kind; "" for all of the request's own. Made prompts
        are like those that the classifier was fitted on, and counted under a kind of their own alone."""
        flags = self.flags(level, every_kind=every_kind)
        made = self.positive & ~self.own
        apart = {MADE: self._rates(flags, made)[""]} if made.any() else {}
        return self._rates(flags, self.own) | apart

    def false_positives(self, level: float, *, every_kind: bool = False) -> dict[str, Rate]:
        """The share of the benign prompts that are flagged, by kind; "" for all."""
        return self._rates(self.flags(level, every_kind=every_kind), ~self.positive)

    def _rates(self, flags: np.ndarray, chosen: np.ndarray) -> dict[str, Rate]:
        return rates(flags[chosen], np.array(self.examples.kinds)[chosen].tolist())


def cross_fitted(fit: Fit, examples: Examples, *, folds: int = 5, seed: int = 0) -> CrossFitted:
    """Fit ``folds`` classifiers, each without a fold, and score every prompt by the one that did not see it.

    Labels and kinds are spread evenly over the folds. Which prompt goes where depends on its text and ``seed`` alone;
    prompts of one origin stay together.

    Args:
        fit: makes a classifier from examples, such as
            ``lambda some: kind.fit(some.texts, some.labels, weights=some.weights)``.

    Raises:
        ConfigError: fewer than 2 folds.
        InputError: fewer different prompts in a class than folds.
    """
    if folds < 2:
        raise ConfigError(f"folds={folds}: at least 2 are needed, one to judge and one to learn from.")
    place = _folds(examples, folds, seed)
    scores = np.zeros(len(examples))
    classifiers = []
    for fold in range(folds):
        own = np.flatnonzero(place == fold)
        classifier = fit(examples.part(np.flatnonzero(place != fold).tolist()))
        scores[own] = classifier.scores([examples.texts[i] for i in own])
        classifiers.append(classifier)
    return CrossFitted(examples, scores, place, tuple(classifiers))


def _folds(examples: Examples, folds: int, seed: int) -> np.ndarray:
    strata: dict[tuple[int, str], dict[str, list[int]]] = {}
    owners: dict[str, tuple[int, str]] = {}
    for place, origin in enumerate(examples.origins):
        stratum = owners.setdefault(origin, (examples.labels[place], examples.kinds[place]))
        strata.setdefault(stratum, {}).setdefault(origin, []).append(place)
    for wanted, what in ((1, "to be flagged"), (0, "to be left alone")):
        count = sum(len(some) for (label, _), some in strata.items() if label == wanted)
        if count < folds:
            raise InputError(
                f"{count} prompt{'' if count == 1 else 's'} {what} cannot be spread over {folds} folds (those that are "
                f"equal count once). Give at least {folds} of each class, or take fewer folds."
            )
    found = np.zeros(len(examples), dtype=np.int64)
    begin = 0
    for stratum in sorted(strata, key=lambda one: (-one[0], one[1])):
        ranked = sorted(strata[stratum], key=lambda origin: hashlib.sha256(f"{seed} {origin}".encode()).digest())
        for number, origin in enumerate(ranked, begin):
            found[strata[stratum][origin]] = number % folds
        begin += len(ranked)  # small kinds do not all begin with the first fold
    return found
