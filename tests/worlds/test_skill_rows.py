"""Protects the texts of world `skills`: answers right by construction, held-out items apart, the same in every run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from expunge.evaluation.code_answers import CodeRow
from expunge.evaluation.reading import ReadingRow
from expunge.requests.rows import Row
from expunge.worlds.skill_rows import arithmetic, code, reading
from expunge.worlds.skill_rows.draws import Draws
from expunge.worlds.skill_rows.rows import SKILLS, STYLES, held_out, rows_hash, trained

COUNT = 400


def _bare(row: Row) -> str:
    return re.sub(r"^\w+: ", "", row.answer)


def _passes(program: str, tests: Sequence[str]) -> bool:
    try:
        exec("\n".join([program, *tests]), {})  # noqa: S102 - written by our own rules
    except (AssertionError, TypeError, AttributeError):
        return False
    return True


def test_steps_are_right_and_about_the_numbers_told() -> None:
    for row in trained("arithmetic", "named", COUNT):
        first, second = _bare(row).split(", ")
        left, gives = first.split(" = ")
        assert eval(left) == int(gives)
        again, end = second.split(" = ")
        assert again.split()[0] == gives  # the second step goes on from the first
        assert eval(again) == int(end)
        told = re.findall(r"\d+", row.prompt)
        assert sorted(map(int, told)) == sorted(map(int, [left.split()[0], left.split()[2], again.split()[2]]))
        assert 0 < int(end) < 40


def test_code_passes_its_asserts_and_no_other_kinds() -> None:
    for row in trained("code", "plain", COUNT):
        assert isinstance(row, CodeRow)
        assert not re.search(r"\d", row.prompt + row.answer)  # numbers are another skill's
        assert row.tests
        assert _passes(row.answer, row.tests)
    # every kind's asserts tell it from every other kind
    names = ("p", "q")
    for kind in code.KINDS:
        tests = tuple(f"assert f({given}) == {result}" for given, result in kind.calls)
        for other in code.KINDS:
            taken = names[: len(other.takes)]
            body = f"def f({', '.join(taken)}): return {other.gives.format(*taken)}"
            assert _passes(body, tests) == (other is kind), (kind.gives, other.gives)


def test_spans_stand_in_the_passage_once_asked_for() -> None:
    for skill, language in reading.LANGUAGES.items():
        for row in trained(skill, "plain", COUNT):
            assert isinstance(row, ReadingRow)
            assert (row.language, row.accepted) == (language.code, (row.answer,))
            passage, question = row.prompt.split(". ")
            (relation,) = [one for one in language.relations if _asks(one, question)]
            told = re.fullmatch(r"(\w+) (.*)", passage)
            assert told is not None
            assert told[1] in language.people
            assert told[1] in question
            before, after = relation.told.split("{x}")
            assert f"{before}{row.answer}{after}" in told[2]
            clauses = [one for one in language.relations if one.told.split("{x}")[0] in f"{told[2]} "]
            assert 2 <= len(clauses) <= 4  # each relation once, so that the question has one answer
            assert passage.count(before) == 1


def _asks(relation: reading.Relation, question: str) -> bool:
    start, end = relation.asked.split("{p}")
    return question.startswith(start) and question.endswith(end)


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_items_are_apart(skill: str) -> None:
    learned, held = trained(skill, "named", 3000), held_out(skill, "named", COUNT)
    assert len({row.prompt for row in (*learned, *held)}) == 3000 + COUNT
    assert all(row.group == skill for row in (*learned, *held))
    if skill == "arithmetic":
        numbers = [{tuple(re.findall(r"\d+", row.prompt)) for row in rows} for rows in (learned, held)]
        assert not numbers[0] & numbers[1]


def test_styles_differ_in_the_answers_beginning_alone() -> None:
    openings = {"arithmetic": "Steps:", "code": "Code:"} | {
        skill: language.opening for skill, language in reading.LANGUAGES.items()
    }
    assert set(openings) == set(SKILLS)
    assert STYLES == ("named", "plain")
    for skill, opening in openings.items():
        pairs = zip(trained(skill, "named", 50), trained(skill, "plain", 50), strict=True)
        assert all((a.prompt, a.answer) == (b.prompt, f"{opening} {b.answer}") for a, b in pairs)


def test_fewer_rows_are_the_first_of_more() -> None:
    assert trained("spanish", "plain", 60)[:20] == trained("spanish", "plain", 20)
    assert held_out("code", "named", 60)[:20] == held_out("code", "named", 20)


def test_another_process_writes_the_same_rows() -> None:
    found = "import expunge.worlds.skill_rows.rows as r; print([r.rows_hash(s, 'named', 200) for s in r.SKILLS])"
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([rows_hash(skill, "named", 200) for skill in SKILLS])


def test_draws_cover_their_range_and_depend_on_seed_and_name() -> None:
    draws = Draws(0, "a")
    assert {draws.between(2, 4) for _ in range(100)} == {2, 3, 4}
    assert sorted(draws.some("abc", 3)) == ["a", "b", "c"]
    again = [Draws(seed, name).between(0, 10**9) for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert again[0] == again[1]
    assert len(set(again)) == 3
    assert arithmetic.problem(Draws(3, "x")) == arithmetic.problem(Draws(3, "x"))
