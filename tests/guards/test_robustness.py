"""Protects the robustness set: every disguise is what its name says, the same every time, and recall counts it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.guards.more_prompts import from_facts, templated, written
from expunge.guards.robustness import PERTURBATIONS, PLAIN, perturbed, robustness, weak_spots
from expunge.guards.text import normalise
from expunge.guards.threshold import Threshold, rate
from expunge.requests import Row

PROMPT = "Where was Mira Tolvanen born, and does mira tolvanen write?"
NAMES = ("Mira Tolvanen",)


def test_disguises_by_hand() -> None:
    found = {name: texts[0] for name, texts in perturbed([PROMPT], NAMES).items()}
    assert set(found) == set(PERTURBATIONS)
    assert found["upper_case"] == PROMPT.upper()
    assert found["lower_case"] == PROMPT.lower()
    assert found["alternating_case"].startswith("wHeRe wAs")
    assert found["spaced_letters"].startswith("W h e r e   w a s   M")
    assert "M i r a   T o l v a n e n" in found["spaced_name"]
    assert found["spaced_name"].endswith("write?")
    assert re.match(r"W([/|+~#])h\1e\1r\1e w([/|+~#])a\2s M", found["separated_letters"])
    assert found["letter_pairs"].startswith("Wh er e wa s Mi ra To lv an en bo rn ,")
    assert found["leet"] == "wh3r3 w45 m1r4 70lv4n3n b0rn, 4nd d035 m1r4 70lv4n3n wr173?"
    # what only changes the look is undone by normalising; letters joined one by one are, in words of four or more
    assert "where" in (again := normalise(found["separated_letters"])) and "mira tolvanen" in again
    for name in ("look_alikes", "zero_width", "spaced_letters"):
        assert found[name] != PROMPT
        assert normalise(found[name]).replace(" ", "") == normalise(PROMPT).replace(" ", "")
        assert "where was mira tolvanen born" in normalise(found[name])
    first, second = found["split_over_turns"].split("\n")
    assert first.endswith("first name is Mira.")
    assert second == "The rest of the name is Tolvanen. Where was that person born, and does that person write?"
    assert found["jailbreak_prefix"].endswith(PROMPT) and len(found["jailbreak_prefix"]) > len(PROMPT) + 20
    assert PROMPT in found["buried_in_text"] and len(found["buried_in_text"].split()) > 150
    for name in ("paraphrase", "other_language"):
        assert "Mira Tolvanen" in found[name]
        assert "born" not in found[name]
    # a typo adds, drops or swaps; of 8 words with more than 3 letters round(.3 * 8) = 2 change
    changed = [(a, b) for a, b in zip(PROMPT.split(), found["typos"].split(), strict=True) if a != b]
    assert len(changed) == 2
    assert all(abs(len(a) - len(b)) <= 1 and set(b) <= set(a) for a, b in changed)


def test_draws_depend_on_seed_and_prompt_alone() -> None:
    prompts = [PROMPT, "Which books did Mira Tolvanen write about the sea?"]
    alone, both = perturbed(prompts[1:], NAMES), perturbed(prompts, NAMES)
    assert all(texts[0] in both[name] for name, texts in alone.items())
    assert perturbed(prompts, NAMES) == both
    assert perturbed(prompts, NAMES, seed=1)["typos"] != both["typos"]


def test_without_a_name_some_do_not_apply() -> None:
    found = perturbed(["What is it?"], NAMES)
    assert set(PERTURBATIONS) - set(found) == {"spaced_name", "split_over_turns", "paraphrase", "other_language"}
    assert "split_over_turns" not in perturbed(["Who is Mira?"], ["Mira"])  # there is nothing to split


def test_recall_and_weak_spots() -> None:
    """A guard that knows the name in these letters alone misses what hides them."""

    def scores(texts: Sequence[str]) -> np.ndarray:
        return np.array([float("Tolvanen" in text) for text in texts])

    prompts = [f"What is number {number} about Mira Tolvanen?" for number in range(20)]
    found = robustness(scores, Threshold(0.5, 0.1, "", ()), prompts, NAMES)
    assert (found[PLAIN].flagged, found[PLAIN].rows) == (20, 20)
    assert (found["upper_case"].flagged, found["upper_case"].rows) == (0, 20)
    assert found["jailbreak_prefix"].rate == 1
    weak = weak_spots(found)
    assert {"upper_case", "lower_case", "alternating_case", "spaced_letters", "spaced_name"} <= set(weak)
    assert not {PLAIN, "jailbreak_prefix", "paraphrase", "split_over_turns"} & set(weak)
    # weakest first; one whose interval meets the plain one's is none
    flags = {PLAIN: 20, "a": 10, "b": 0, "c": 19}
    made = {name: rate(np.arange(20) < count) for name, count in flags.items()}
    assert weak_spots(made) == ["b", "a"]
    with pytest.raises(InputError, match="no forget prompts"):
        robustness(scores, Threshold(0.5, 0.1, "", ()), [])


def test_more_prompts_from_templates() -> None:
    found = templated(["Mira Tolvanen", " Olli ", "Olli"], known=["who is MIRA tolvanen?"])
    assert len(found) == 2 * 20 - 1
    assert "Who is Olli?" in found
    assert "Who is Mira Tolvanen?" not in found
    assert len({normalise(text) for text in found}) == len(found)
    with pytest.raises(InputError, match="none is given"):
        templated([" "])


def test_more_prompts_from_facts() -> None:
    rows = [
        Row("Birth of Mira Tolvanen?", "Mira Tolvanen was born in Tampere in 1961. It rained."),
        Row("And Olli?", "Olli Aho was born in Turku."),  # about somebody else
        Row("What does she grow?", "tomatoes"),  # no statement
    ]
    found = from_facts(rows, NAMES)
    assert "Where was Mira Tolvanen born?" in {one.text for one in found}
    assert {one.origin for one in found} == {"Birth of Mira Tolvanen?"}
    known = [one.text.upper() for one in found]
    assert from_facts(rows, NAMES, known) == ()
    assert from_facts(rows[1:], NAMES) == ()


def test_more_prompts_from_a_model() -> None:
    asked: list[str] = []

    def complete(prompt: str) -> str:
        asked.append(prompt)
        lines = ["Sure!", "1. Who is Mira?", "2) Is MIRA a botanist?", "- Who is Mira?", "", "What about Olli?", "Mira"]
        return "\n".join([*lines, "(3) Why Mira, though?"])

    assert written(complete, ["Mira"]) == ("Who is Mira?", "Is MIRA a botanist?", "Why Mira, though?")
    assert len(asked) == 1
    assert "20 different questions" in asked[0]
    assert "Mira" in asked[0]
    assert written(complete, ["Mira"], ["who is mira?"], count=2) == ("Is MIRA a botanist?",)
