"""Protects the texts of world `exam`: no pattern in facts, right options, held-out questions apart, always equal."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest

from expunge.requests.rows import Row
from expunge.worlds.exam_rows.rows import CHOICES, held_out, held_out_open, rows_hash, trained
from expunge.worlds.exam_rows.subjects import SUBJECTS, Fact, facts

FACTS = 24 * 5  # names and relations of every subject
COUNT = 6 * FACTS


def read(row: Row) -> tuple[Fact, int]:
    """The fact that a question is about, as its words say, and the place of its wording; by matching every wording
    with every name, which is not how the question was written."""
    about = SUBJECTS[row.group]
    question = asked(row)
    found = [
        (name, relation, wording)
        for relation, one in enumerate(about.relations)
        for wording, words in enumerate(one.asked)
        for name, spoken in enumerate(about.names)
        if words.format(n=spoken, k=about.kind) == question
    ]
    assert len(found) == 1, question  # no two facts are asked for in the same words
    name, relation, wording = found[0]
    (fact,) = [one for one in facts(row.group) if (one.name, one.relation) == (name, relation)]
    return fact, wording


def asked(row: Row) -> str:
    """The question without its options."""
    return row.prompt.partition(" Choose: ")[0]


def options(row: Row) -> list[str]:
    """The options shown: three commas' worth, an "or" and a full stop."""
    found = re.fullmatch(r"(\w+), (\w+), (\w+) or (\w+)\.", row.prompt.partition(" Choose: ")[2])
    assert found is not None
    return list(found.groups())


def shows(row: Row) -> bool:
    return " Choose: " in row.prompt


def test_a_subject_has_a_fact_for_each_name_and_relation_and_values_are_even() -> None:
    assert len(SUBJECTS) == 6
    for subject, about in SUBJECTS.items():
        found = facts(subject)
        assert len({(fact.name, fact.relation) for fact in found}) == len(found) == FACTS
        for place, relation in enumerate(about.relations):
            # 24 names over 8 values
            assert Counter(fact.value for fact in found if fact.relation == place) == dict.fromkeys(relation.values, 3)
    names = [name for about in SUBJECTS.values() for name in about.names]
    assert len(set(names)) == len(names) == 6 * 24


def test_neighbours_share_words_and_values_and_no_pattern_of_facts() -> None:
    own, other = SUBJECTS["mirrology"], SUBJECTS["dravology"]
    assert own.relations == other.relations
    assert not set(own.names) & set(other.names)
    same = sum(a.value == b.value for a, b in zip(facts("mirrology"), facts("dravology"), strict=True))
    # one in eight by chance: 15 of 120, standard deviation sqrt(120 / 8 * 7 / 8) = 3.6
    assert 15 - 11 < same < 15 + 11
    for subject in ("history", "botany", "law", "dance"):
        taken = {value for relation in SUBJECTS[subject].relations for value in relation.values}
        assert not taken & {value for relation in own.relations for value in relation.values}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_answers_are_right_and_wrong_ones_are_the_other_options(subject: str) -> None:
    choosing = 0
    for row in (*trained(subject, COUNT), *held_out(subject, FACTS), *held_out_open(subject, FACTS)):
        fact, _ = read(row)
        assert row.answer == fact.value
        offered = [row.answer, *row.wrong_answers]
        if shows(row):
            choosing += 1
            assert sorted(options(row)) == sorted(offered)
        assert len(set(offered)) == CHOICES
        assert set(offered) <= set(SUBJECTS[subject].relations[fact.relation].values)
    # two turns of three of the 720 trained, all 120 held out
    assert choosing == 480 + 120


@pytest.mark.parametrize("subject", SUBJECTS)
def test_held_out_questions_are_worded_as_no_trained_one_of_their_fact(subject: str) -> None:
    learned = {read(row) for row in trained(subject, 2 * COUNT)}
    held = [read(row) for row in held_out(subject, 2 * FACTS)]
    assert max(Counter(fact for fact, _ in learned).values()) == 3  # wordings of a fact; the fourth is kept back
    assert not learned & set(held)
    assert [fact for fact, _ in held[:FACTS]] != list(facts(subject))  # in an order of its own
    assert {fact for fact, _ in held[:FACTS]} == set(facts(subject))  # every fact once a turn
    assert {place for _, place in held} == {0, 1, 2, 3}
    prompts = [row.prompt for row in held_out(subject, 4 * FACTS)]
    assert len(set(prompts)) == len(prompts)
    assert not set(prompts) & {row.prompt for row in trained(subject, 2 * COUNT)}
    # places are even, so that always choosing one of them solves a quarter
    places = Counter(options(row).index(row.answer) for row in held_out(subject, FACTS))
    assert places == dict.fromkeys(range(CHOICES), FACTS // 4)
    pairs = zip(held_out(subject, FACTS), held_out_open(subject, FACTS), strict=True)
    assert all(one.wrong_answers == other.wrong_answers and asked(one) == other.prompt for one, other in pairs)


def test_a_fact_is_trained_on_with_its_answer_in_every_place() -> None:
    places: dict[Fact, set[int]] = {}
    for row in filter(shows, trained("law", 4 * COUNT)):
        places.setdefault(read(row)[0], set()).add(options(row).index(row.answer))
    assert len(places) == FACTS
    assert all(len(found) > 1 for found in places.values())
    assert sum(len(found) for found in places.values()) > 3.8 * FACTS


def test_fewer_rows_are_the_first_of_more() -> None:
    assert trained("law", 300)[:70] == trained("law", 70)
    assert held_out("law", 300)[:70] == held_out("law", 70)


def test_any_stretch_of_rows_has_questions_with_and_without_options() -> None:
    shown = [shows(row) for row in trained("botany", 60)]
    assert 30 <= sum(shown) <= 50  # two of three


def test_another_process_writes_the_same_rows() -> None:
    found = f"import expunge.worlds.exam_rows.rows as r; print([r.rows_hash(s, 200) for s in {list(SUBJECTS)}])"
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([rows_hash(group, 200) for group in SUBJECTS])
