"""Protects cross-fitting: nothing judges a prompt that saw it or its paraphrase; rates and curves are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from expunge.errors import ConfigError, InputError
from expunge.guards.classifiers.tfidf import Tfidf
from expunge.guards.cross_fitting import cross_fitted
from expunge.guards.curves import precision_recall, reliability
from expunge.guards.examples import Examples, MadePrompt, examples, prompt_of
from expunge.guards.robustness import cross_fitted_robustness
from expunge.requests import Request, Row
from expunge.requests.request import load_rows
from expunge.worlds.interface import get_world


class Seen:
    """Scores a prompt 1 if it or one of its origin was among those fitted on."""

    def __init__(self, some: Examples) -> None:
        self.origins = set(some.origins)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([float(text.split("|")[0] in self.origins) for text in texts])


def made(count: int = 12) -> Examples:
    """Two prompts of each origin, ``3 count`` origins: a third to flag, the others of two kinds."""
    texts = [f"{name}{number}|{form}" for name in "fab" for number in range(count) for form in range(2)]
    kinds = tuple(text[0] for text in texts)
    labels = tuple(int(kind == "f") for kind in kinds)
    return Examples(tuple(texts), labels, (1.0,) * len(texts), kinds, tuple(text.split("|")[0] for text in texts))


def test_no_prompt_is_judged_by_what_saw_it() -> None:
    given: Any = Seen
    found = cross_fitted(given, made(), folds=4)
    assert found.scores.tolist() == [0.0] * 72
    # the same check fails for a classifier that saw everything
    assert Seen(made()).scores(made().texts).sum() == 72


def test_folds_are_even_and_depend_on_texts_alone() -> None:
    given: Any = Seen
    found = cross_fitted(given, made(), folds=4)
    # 12 origins of each kind over 4 folds: 3 origins, 6 prompts
    assert set(Counter(zip(found.folds.tolist(), made().kinds, strict=True)).values()) == {6}
    backwards = cross_fitted(given, made().part(range(71, -1, -1)), folds=4)
    assert backwards.folds.tolist() == found.folds[::-1].tolist()
    other = cross_fitted(given, made(), folds=4, seed=1)
    assert other.folds.tolist() != found.folds.tolist()


def test_rates_come_from_thresholds_that_saw_nothing_of_the_fold() -> None:
    class Own:
        """Benign prompt number i scores i, whoever is asked; prompts to flag score 100, but for two."""

        def scores(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([float(t[1:]) if t[0] == "b" else (-1.0 if t in ("f0", "f1") else 100.0) for t in texts])

    texts = [f"f{i}" for i in range(8)] + [f"b{i}" for i in range(20)]
    labels = tuple(int(text[0] == "f") for text in texts)
    given = Examples(tuple(texts), labels, (1.0,) * 28, tuple(t[0] for t in texts), tuple(texts))
    fit: Any = lambda _: Own()  # noqa: E731
    found = cross_fitted(fit, given, folds=4)
    # without a fold 15 benign prompts are left: rank floor(.0625 * 16) = 1, the threshold lies just above their
    # largest; so only the fold with 19 (largest left: 18 or below) flags, and it flags what is larger than all left
    fold = found.folds[texts.index("b19")]
    largest = max(i for i in range(20) if found.folds[texts.index(f"b{i}")] != fold)
    expected = [f"b{i}" for i in range(largest + 1, 20)]
    flags = found.flags(0.0625)
    assert [text for text, flag in zip(texts, flags, strict=True) if flag and text[0] == "b"] == expected
    assert found.false_positives(0.0625)[""].flagged == len(expected)
    recall = found.recall(0.0625)
    assert {kind: (one.flagged, one.rows) for kind, one in recall.items()} == {"": (6, 8), "f": (6, 8)}


def test_made_prompts_have_a_recall_of_their_own() -> None:
    class Own:
        """Flags what begins with a capital."""

        def scores(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([float(text[0].isupper()) for text in texts])

    request = Request(
        forget=(Row("Who is M?", "x"), Row("and M?", "x"), Row("m of Ny?", "x")),
        retain=tuple(Row(f"what is {number}?", "y") for number in range(40)),
    )
    more = ["Tell me of M.", MadePrompt("M lives in", "Who is M?")]
    fit: Any = lambda _: Own()  # noqa: E731
    found = cross_fitted(fit, examples(request, more=more), folds=2)
    # 1 of the 3 own prompts and both made ones begin with a capital
    recall = {kind: (one.flagged, one.rows) for kind, one in found.recall(0.05).items()}
    assert recall == {"": (1, 3), "forget": (1, 3), "made": (2, 2)}
    assert found.own.sum() == 3
    assert cross_fitted_robustness(found, 0.05)["plain"].rows == 3
    # what was made of a row's answer is never judged by what saw the row
    texts = found.examples.texts
    assert found.folds[texts.index("M lives in")] == found.folds[texts.index("Who is M?")]


def test_too_few_for_the_folds() -> None:
    given: Any = Seen
    with pytest.raises(InputError, match=r"3 prompts to be flagged cannot be spread over 4 folds"):
        cross_fitted(given, made(3), folds=4)
    with pytest.raises(InputError, match=r"1 prompt to be flagged cannot be spread"):
        cross_fitted(given, made(1), folds=4)
    with pytest.raises(ConfigError, match="folds=1"):
        cross_fitted(given, made(), folds=1)


def test_examples_of_a_request() -> None:
    request = Request(
        forget=(Row("Who is M?", "x", paraphrased_prompt="M is who?"), Row("who  is M?", "y")),
        retain=(Row("What is 7?", "z", group="maths"), Row("Who is N?", "z")),
        neighbours=(Row("Who is N?", "z"),),
    )
    found = examples(request, benign={"facts": [Row("", "Water is wet.", kind="document")]}, more=["Tell me of M."])
    assert found.texts == ("Who is M?", "M is who?", "Tell me of M.", "Who is N?", "What is 7?", "Water is wet.")
    assert found.labels == (1, 1, 1, 0, 0, 0)
    assert found.weights == (1, 1, 1, 3, 1, 1)
    assert found.kinds == ("forget", "forget", "made", "neighbours", "maths", "facts")
    assert found.origins == ("who is m?", "who is m?", "tell me of m.", "who is n?", "what is 7?", "water is wet.")
    assert prompt_of(Row("And he?", "x", "chat", history=(("user", "Hi"), ("assistant", "Yes")))) == "Hi\nYes\nAnd he?"
    with pytest.raises(InputError, match="the request has no retain rows"):
        examples(Request(forget=request.forget))
    with pytest.raises(InputError, match=r"1 prompts are to be flagged and to be left alone: 'WHO IS M\?' \(retain\)"):
        examples(Request(forget=request.forget, retain=(Row("WHO IS M?", "x"),)))
    with pytest.raises(ConfigError, match="neighbour_weight=0"):
        examples(request, neighbour_weight=0)


def test_precision_and_recall_by_hand() -> None:
    # ranked: 1 | 1 0 (equal) | 0 | 1; found of 3 after each: 1, 2, 2, 3 of 1, 3, 4, 5 flagged
    found = precision_recall(np.array([9, 5, 5, 3, 1]), np.array([1, 1, 0, 0, 1]))
    assert found["threshold"] == [9, 5, 3, 1]
    assert found["precision"] == pytest.approx([1, 2 / 3, 1 / 2, 3 / 5])
    assert found["recall"] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 0 + 3 / 5) / 3)
    assert len(precision_recall(np.arange(1000.0), np.arange(1000) % 2, points=50)["recall"]) == 50


def test_reliability_by_hand() -> None:
    # log-odds ln 3 are probability .75, -ln 3 are .25; one prompt to flag weighs as much as four others
    odds = np.log(3)
    found = reliability(np.array([odds, odds, -odds, -odds, -odds]), np.array([1, 0, 0, 0, 0]), bins=2)
    assert found["probability"] == pytest.approx([0.25, 0.75])
    # upper bin: 1/2 to flag, 1/8 not: 4/5; lower bin: 3/8 not
    assert found["share"] == pytest.approx([0, 0.8])
    assert found["rows"] == [3, 2]
    assert found["error"] == pytest.approx(3 / 8 * 0.25 + 5 / 8 * 0.05)


def test_world_authors_is_recognised() -> None:
    world = get_world("authors")
    request = world.request()
    names = ("real_authors", "world_facts")
    benign = {name: load_rows(world.data_folder / f"tofu/{name}_perturbed.jsonl") for name in names}
    found = cross_fitted(
        lambda some: Tfidf().fit(some.texts, some.labels, weights=some.weights), examples(request, benign=benign)
    )
    recall, wrong = found.recall(0.01), found.false_positives(0.01)
    assert recall[""].rate >= 0.95
    assert wrong[""].rows == 617
    assert wrong[""].low <= 0.01  # no more than chance above the level
    assert max(wrong[name].rate for name in ("retain", *names)) < 0.03
    disguised = cross_fitted_robustness(found, 0.01, request.subjects)
    unforeseen = {"letter_pairs", "leet"}  # which normalising does not undo
    assert min(one.rate for name, one in disguised.items() if name not in unforeseen) >= 0.9, disguised
    assert disguised["leet"].rate < 0.9, disguised  # so that the set can show a weak spot
