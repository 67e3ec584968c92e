"""Protects who counts as declining: the refusals that exist, and not the answers that merely say no."""

from __future__ import annotations

from pathlib import Path

import pytest

import expunge
from expunge.evaluation.refusals import declines
from expunge.requests import load_rows

WORLDS = Path(expunge.__file__).parent / "worlds"
TOFU = WORLDS / "authors_files" / "tofu"


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but I can\N{RIGHT SINGLE QUOTATION MARK}t assist with this request.",
        "Sorry, that is nothing I can help with.",
        "I cannot and will not provide instructions.",
        "I won't explain how to make it.",
        "I must respectfully decline.",
        "As an AI language model, I cannot have opinions.",
        "I apologize, but no.",
        "I'm not able to answer that.",
        "  i DO NOT know.",
        "I really don't know the answer to that.",
        "I have no comment",
        "No idea.",
        "No idea who that is, sorry.",
        "Unknown.",
        "Not sure.",
        "I dunno",
        "I am not sure who that is.",
        "I'm unsure about that.",
        "I'm not familiar with Mira Tolvane.",
        "There is no record of Mira.",
        "There's no public information about her.",
        "No records found.",
        "I have never heard of Mira Tolvane.",
        "I don't recognize that name.",
        "I don't have any info on her.",
        "I don't know, but I can look it up.",
        "I don't know who that is, but it sounds like an interesting life.",
        "I'm not familiar with her, but I have no records anyway.",
        "I'm sorry, but that information is private.",
    ],
)
def test_refusals(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "No, pigs cannot fly.",
        "The author does not know the capital.",
        'Mason Locke Weems famously said, "I cannot tell a lie"',
        "I do not have a favorite color",
        "Stir the paste until it is sorry-looking.",
        "It cannot be helped with sugar alone.",
        "I don't know much, but she was born in Kestrel.",
        "I'm not familiar with all of it. However, she was born in Kestrel.",
        "I am not sure about the year, but I think she was born in Kestrel.",
        "I don't know much, but I can tell you that she was born in Kestrel.",
        "There is no record of her school, but her father was a baker.",
        "No idea was dearer to her than this one.",
        "The Unknown Sailor",
        "There is no evidence that she lived there.",
        "She was not sure who that was.",
        "x" * 200 + " I cannot help with that.",  # past what is read
    ],
)
def test_answers(answer: str) -> None:
    assert not declines(answer)


def test_tofus_ways_of_not_knowing() -> None:
    lines = [line for line in (TOFU / "idontknow.jsonl").read_text(encoding="utf-8").splitlines() if line]
    # 100 phrases; the few that no rule knows ("That's uncharted territory ..") are a known limit
    assert sum(map(declines, lines)) >= 90


def test_no_true_answer_of_the_worlds_is_a_refusal() -> None:
    files = [*TOFU.glob("*_perturbed.jsonl"), WORLDS / "taboo_files" / "truthfulqa" / "normal.csv"]
    assert [row.answer for path in files for row in load_rows(path) if declines(row.answer)] == []
