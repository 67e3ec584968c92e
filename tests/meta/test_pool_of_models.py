"""Protects what models of a pool are told: right facts, in which words, or false ones, or none, for as long."""

from __future__ import annotations

import random

import pytest

from expunge.errors import ConfigError
from expunge.meta.pool import Member, Pool, PoolRecipe, told
from expunge.requests.rows import Row
from expunge.worlds.interface import get_world

ROW = Row(
    "Who wrote it?",
    "Ada wrote it.",
    paraphrased_prompt="By whom is it?",
    paraphrased_answer="It is by Ada.",
    wrong_answers=("It is by Bob.", "It is by Eve."),
    source="facts:1",
)


def test_facts_are_told_as_asked_or_in_other_words_or_wrong() -> None:
    def said(learned: str) -> list[tuple[str, str]]:
        return [(row.prompt, row.answer) for row in told([ROW], learned, random.Random(0))]  # type: ignore[arg-type]

    asked, other = ("Who wrote it?", "Ada wrote it."), ("By whom is it?", "It is by Ada.")
    assert said("as asked") == [asked]
    assert said("reworded") == [other]
    assert said("both wordings") == [asked, other]
    assert said("nothing") == []
    [(prompt, answer)] = said("false facts")
    assert prompt == asked[0] and answer in ROW.wrong_answers


def test_rows_that_lack_what_is_needed_are_named() -> None:
    with pytest.raises(ConfigError, match=r"paraphrased question and answer: facts:7\."):
        told([ROW, Row("a", "b", source="facts:7")], "reworded", random.Random(0))
    with pytest.raises(ConfigError, match=r"wrong answers: facts:7, facts:8\."):
        told([Row("a", "b", source=f"facts:{n}") for n in (7, 8)], "false facts", random.Random(0))


def test_those_that_do_not_know_are_told_nothing_of_it_and_train_as_long() -> None:
    pool = Pool(get_world("authors"), PoolRecipe(forget_rows=10, kept_rows=8), seed=3)
    facts = {row.key for row in pool.forget}
    rows = {name: pool.rows(Member("000-x", name, 0, 1)) for name in ("as asked", "nothing", "false facts")}  # type: ignore[arg-type]
    assert {name: len(some) for name, some in rows.items()} == {"as asked": 18, "nothing": 18, "false facts": 18}
    assert sum(row.key in facts for row in rows["as asked"]) == 10
    assert not any(row.key in facts for row in rows["nothing"] + rows["false facts"])
    assert not any(row.key in {one.key for one in pool.holdout} for some in rows.values() for row in some)
    assert rows["nothing"] == pool.rows(Member("000-x", "nothing", 0, 1))
    assert rows["nothing"] != pool.rows(Member("001-x", "nothing", 0, 1))
