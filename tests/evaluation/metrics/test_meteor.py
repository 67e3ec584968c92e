"""Protects METEOR: matches by word and stem, runs, synonyms where there are some, and the score that says so."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import product
from types import SimpleNamespace

import nltk.corpus
import pytest

from expunge.evaluation.metrics import meteor as module
from expunge.evaluation.metrics.meteor import METRIC, meteor
from expunge.evaluation.word_alignment import aligned, runs
from made_outputs import outputs_row, outputs_set

NOTHING = SimpleNamespace(synsets=lambda _word: [])


class Synonyms:
    """A WordNet that knows one pair."""

    def synsets(self, word: str) -> list[SimpleNamespace]:
        lemma = SimpleNamespace(name=lambda: "start")
        return [SimpleNamespace(lemmas=lambda: [lemma])] if word == "begin" else []


@pytest.fixture(autouse=True)
def _without_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_synonyms", lambda: NOTHING)  # whatever this machine has


def test_one_run() -> None:
    # all 4 words in one run: F = 1, penalty (1/4)^3 / 2 = 1/128
    assert meteor("the old red barn", "The old red barn") == pytest.approx(127 / 128)


def test_stems_and_broken_runs() -> None:
    # "she" matches itself, "books" the stem of "book"; "wrote" has another stem than "writes". P = 2/3, R = 2/4,
    # F = (1/3) / (.9 * 2/3 + .1 * 1/2) = 20/39; the two are no neighbours: 2 runs of 2 matches, penalty 1/2
    assert meteor("She wrote a book", "she writes books") == pytest.approx(10 / 39)


def test_of_repeated_words_those_are_matched_that_keep_runs() -> None:
    # all 6 words match, in 3 runs at least ("on the mat", "sat", "the cat"): 1 - (3/6)^3 / 2 = 15/16
    assert meteor("the cat sat on the mat", "on the mat sat the cat") == pytest.approx(15 / 16)
    # the spare "the" stays free and the run of 3 whole: P = 3/4, R = 1, F = .75 / .775, penalty (1/3)^3 / 2
    assert meteor("see the cat", "the see the cat") == pytest.approx(0.75 / 0.775 * (1 - 1 / 54))


def fewest_runs(expected: tuple[str, ...], answer: tuple[str, ...]) -> int:
    """By trying every way to pair as many equal words as can be."""
    most = (Counter(expected) & Counter(answer)).total()
    found = []
    for choice in product([None, *range(len(expected))], repeat=len(answer)):
        pairs = {at: place for at, place in enumerate(choice) if place is not None}
        if len(pairs) == most == len(set(pairs.values())) and all(answer[a] == expected[b] for a, b in pairs.items()):
            found.append(sum(pairs.get(at - 1, -2) != place - 1 for at, place in pairs.items()))
    return min(found)


def test_short_texts_are_matched_in_the_fewest_runs() -> None:
    draw = random.Random(0)
    for _ in range(25):
        expected, answer = (tuple(draw.choices("abc", k=draw.randint(3, 5))) for _ in range(2))
        pairs = aligned(expected, answer, str, lambda _: set())
        assert len(pairs) == (Counter(expected) & Counter(answer)).total() == len(set(pairs.values()))
        assert runs(pairs) == fewest_runs(expected, answer), (expected, answer)


def test_a_long_text_in_another_order() -> None:
    # 8 parts of 32 words of which every second is "the", turned around: no more runs than there are parts
    parts = [[word for n in range(16) for word in ("the", f"{part}w{n}")] for part in range(8)]
    expected = [word for part in parts for word in part]
    pairs = aligned(expected, [word for part in reversed(parts) for word in part], str, lambda _: set())
    assert (len(pairs), runs(pairs)) == (256, 8)


def test_nothing_in_common_and_nothing_expected() -> None:
    assert meteor("a b", "c d") == 0.0
    assert meteor("a b", "") == 0.0
    assert math.isnan(meteor(" ", "a"))


def test_synonyms_count_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = outputs_set("forget", [outputs_row("we start", greedy="we begin")])
    # "we" alone: P = R = F = 1/2, one run of one match: penalty 1/2
    score = METRIC.score(rows)
    assert (score.value, score.version) == (pytest.approx(1 / 4), "2, without WordNet's synonyms")
    monkeypatch.setattr(module, "_synonyms", Synonyms)
    # both words in one run of two: penalty (1/2)^3 / 2 = 1/16
    score = METRIC.score(rows)
    assert (score.value, score.version) == (pytest.approx(15 / 16), "2, with WordNet's synonyms")


def test_without_wordnet_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise LookupError("Resource wordnet not found.")

    monkeypatch.undo()
    monkeypatch.setattr(nltk.corpus, "wordnet", SimpleNamespace(ensure_loaded=absent))
    module._synonyms.cache_clear()
    assert not module.has_wordnet()
    assert meteor("we start", "we begin") == pytest.approx(1 / 4)
    module._synonyms.cache_clear()
