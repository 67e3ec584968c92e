"""A linear probe: how well a logistic regression reads classes out of features, fitted on half the rows and scored on
the other half."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from expunge.errors import ConfigError, InputError

_COLUMNS = 4096  # features that are standardised at once
_FOLDS = 3
_DRAWS = 20  # of halves for each that is wanted, where groups may leave one without an option
_STRENGTHS = np.logspace(-1, 4, 6)  # scikit-learn's C, for rows of length 1 on average
_STEPS = 2000
_RANK = 1e-6  # of the largest eigenvalue: what is less is rounding
_SURE = 1.96


@dataclass(frozen=True)
class ProbeAccuracy:
    """How many of the rows that it was not fitted on a probe gets right, over all ``splits``.

    ``accuracy`` and its standard error ``stderr``; ``chance`` what guessing among each row's options gets; ``majority``
    what the option gets that is right most often in the half that is fitted; all shares from 0 to 1. ``rows`` in all,
    of which half are scored in each split; ``classes`` the options that occur as right. ``views``: in how many splits
    each view of the features was chosen.
    """

    accuracy: float
    stderr: float
    chance: float
    majority: float
    rows: int
    classes: int
    splits: tuple[float, ...]
    views: Mapping[str, int]

    @property
    def readable(self) -> bool:
        """Whether the accuracy is above chance and majority by more than its 95% interval."""
        return self.accuracy - max(self.chance, self.majority) > _SURE * self.stderr

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "readable": self.readable}


def probe_accuracy(
    views: Mapping[str, np.ndarray],
    right: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    groups: Sequence[str] | None = None,
    splits: int = 10,
    seed: int = 0,
) -> ProbeAccuracy:
    """Fit and score on ``splits`` random halves.

    Features are standardised by the fitted half. The view of them and the regularisation are chosen in the fitted half
    alone, by cross-validation: what a few features hold drowns among many others where rows are few. As L2
    regularisation sees features through their inner products only, the fit runs on the fitted half's principal
    components, all of them, which gives the same probe and takes no more dimensions than rows.

    The standard error is the corrected one of Nadeau and Bengio, "Inference for the Generalization Error" (Machine
    Learning 52, 2003): sqrt((1 / splits + scored / fitted) * variance over splits), since splits share their rows. It
    is at least that of as many independent answers as there are rows, and rather too large than too small.

    Args:
        views: features by the view's name, [n, F] each.
        right: [n] the right option of each row.
        options: [n] all options of each row, the right one among them.
        groups: [n] what each row asks for, where several ask for the same: rows of a group stay in one half, so that
            the probe must read an answer and cannot recognise a question that it was fitted on.
        splits: 2 at least.

    Raises:
        InputError: fewer than two options that are right anywhere, or an option that is right in fewer than four rows,
            which cannot be split and cross-validated: all such are named. With ``groups``, also
            options that are right in one group alone.
    """
    _check(right, splits)
    _check_groups(right, groups)
    names = sorted(set(right))
    labels = np.array([names.index(one) for one in right])
    allowed = np.array([[name in some for name in names] for some in options])
    chance = float(np.mean([1 / len(set(some)) for some in options]))
    together = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    found, common = [], []
    chosen: Counter[str] = Counter(dict.fromkeys(views, 0))
    for fitted, scored in _halves(labels, together, splits, seed):
        fits = {name: _fit(features, fitted, scored, labels) for name, features in views.items()}
        view, (_, said) = max(fits.items(), key=lambda one: one[1][0])
        chosen[view] += 1
        guess = np.where(allowed[scored], said, -1).argmax(1)
        found.append(float(np.mean(guess == labels[scored])))
        counts = np.bincount(labels[fitted], minlength=len(names))
        common.append(float(np.mean(np.where(allowed[scored], counts, -1).argmax(1) == labels[scored])))
    accuracy = float(np.mean(found))
    spread = (1 / splits + len(scored) / len(fitted)) * float(np.var(found, ddof=1))
    least = accuracy * (1 - accuracy) / len(labels)
    return ProbeAccuracy(
        accuracy,
        float(np.sqrt(max(spread, least))),
        chance,
        float(np.mean(common)),
        len(labels),
        len(names),
        tuple(found),
        dict(chosen),
    )


def _halves(
    labels: np.ndarray, groups: np.ndarray | None, splits: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to score, ``splits`` times, with the same mix of labels in both."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

    if groups is None:
        yield from StratifiedShuffleSplit(splits, test_size=0.5, random_state=seed).split(labels, labels)
        return
    found = 0
    for draw in range(splits * _DRAWS):
        folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed + draw)
        fitted, scored = next(folds.split(labels, labels, groups))  # the other half is no draw of its own
        if np.bincount(labels[fitted], minlength=labels.max() + 1).min() >= 2:
            found += 1
            yield fitted, scored
        if found == splits:
            return
    raise InputError(
        f"only {found} of {splits * _DRAWS} draws gave halves in which every option is right in two rows: too few "
        "groups hold some of them. Pass more rows, or fewer groups."
    )


def _fit(features: np.ndarray, fitted: np.ndarray, scored: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The cross-validated mean log-likelihood of a probe of the ``fitted`` rows, and what it says of the ``scored``:
    probabilities [k, C]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    inside, across = _inner_products(features, fitted, scored)
    values, vectors = np.linalg.eigh(inside)
    kept = values > _RANK * max(float(values[-1]), 1e-12)
    if not kept.any():  # no feature varies: all that is known is what is right how often
        shares = np.bincount(labels[fitted]) / len(fitted)
        return float(np.log(shares) @ shares), np.tile(shares, (len(scored), 1))
    basis = vectors[:, kept] * np.sqrt(len(fitted) / values[kept].sum() / values[kept])
    folds = StratifiedKFold(min(_FOLDS, int(np.bincount(labels[fitted]).min())))
    search = GridSearchCV(LogisticRegression(max_iter=_STEPS), {"C": _STRENGTHS}, cv=folds, scoring="neg_log_loss")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of strengths that are not chosen, most often
        search.fit(inside @ basis, labels[fitted])
    return float(search.best_score_), search.predict_proba(across @ basis)


def _inner_products(features: np.ndarray, fitted: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[m, m] of the fitted rows with each other and [k, m] of the scored with the fitted, all features standardised by
    the fitted rows; what never varies there counts nothing."""
    inside = np.zeros((len(fitted), len(fitted)))
    across = np.zeros((len(scored), len(fitted)))
    for begin in range(0, features.shape[1], _COLUMNS):
        columns = slice(begin, begin + _COLUMNS)
        mine = features[fitted, columns].astype(np.float64)
        others = features[scored, columns].astype(np.float64)
        mean, spread = mine.mean(0), mine.std(0)
        factor = np.where(spread > _RANK * np.abs(mean), 1 / np.where(spread > 0, spread, 1), 0)
        mine, others = (mine - mean) * factor, (others - mean) * factor
        inside += mine @ mine.T
        across += others @ mine.T
    return inside, across


def _check(right: Sequence[str], splits: int) -> None:
    if splits < 2:
        raise ConfigError(f"splits={splits}: a standard error takes two splits at least.")
    counts = {name: list(right).count(name) for name in sorted(set(right))}
    if len(counts) < 2:
        raise InputError(
            f"the right option is {next(iter(counts), 'missing')!r} in all {len(right)} rows: there is nothing to tell "
            "apart. Pass rows whose right options differ."
        )
    few = [f"{name!r} in {count}" for name, count in counts.items() if count < 4]
    if few:
        raise InputError(
            f"options that are right in fewer than 4 rows cannot be split and cross-validated: {', '.join(few)}. Pass "
            "more rows, or rows whose options are letters that all share."
        )


def _check_groups(right: Sequence[str], groups: Sequence[str] | None) -> None:
    if groups is None:
        return
    if len(groups) != len(right):
        raise ConfigError(f"{len(groups)} groups were passed for {len(right)} rows. Pass one for each row.")
    own = {name: {group for one, group in zip(right, groups, strict=True) if one == name} for name in right}
    alone = [f"{name!r}" for name, some in sorted(own.items()) if len(some) < 2]
    if alone:
        raise InputError(
            f"options that are right in one group alone cannot be in both halves: {', '.join(alone)}. Pass more "
            "groups, or none."
        )
