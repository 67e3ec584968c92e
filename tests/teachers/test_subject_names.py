"""Protects names: what a person's name consists of, and that no substitute is a name that is to be forgotten."""

from __future__ import annotations

import pytest

from expunge.errors import ConfigError
from expunge.teachers.name_lists import ORIGINS, gender_of
from expunge.teachers.name_parts import name_parts
from expunge.teachers.names import Subject, check_substitutes, substitute_names


@pytest.mark.parametrize(
    ("name", "given", "lasts"),
    [
        ("Leo Slezak", ("Leo",), ("Slezak",)),
        ("Prof. Dr. Leo Slezak", ("Leo",), ("Slezak",)),
        ("Alicia de Larrocha", ("Alicia",), ("de Larrocha", "Larrocha")),
        ("Anna van der Berg", ("Anna",), ("van der Berg", "Berg")),
        ("José Batlle y Ordóñez", ("José",), ("Batlle y Ordóñez", "Batlle")),
        ("P. A. Yeomans", ("P.", "A."), ("Yeomans",)),
        ("P.A. Yeomans", ("P.", "A."), ("Yeomans",)),
        ("A. B. Guthrie Jr.", ("A.", "B."), ("Guthrie",)),
        ("Philip Stanhope, 5th Earl Stanhope", ("Philip",), ("Stanhope",)),
        ("Catherine of Bohemia", ("Catherine",), ()),
        ("Theopompus", ("Theopompus",), ()),
        ("Basil Mahfouz Al-Kuwaiti", ("Basil", "Mahfouz"), ("Al-Kuwaiti",)),
        ("Moshe Ben David", ("Moshe", "Ben"), ("David",)),  # with a capital it is a given name
    ],
)
def test_parts(name: str, given: tuple[str, ...], lasts: tuple[str, ...]) -> None:
    parts = name_parts(name)
    assert (parts.given, parts.lasts) == (given, lasts)


def test_forms_are_those_that_count_longest_first() -> None:
    subject = Subject("Dr. Alicia de Larrocha", aliases=("Lita",), ignored=("alicia",))
    assert subject.forms == ("Alicia de Larrocha", "de Larrocha", "Larrocha", "Lita")
    assert subject.first == "Alicia"
    assert subject.last == "de Larrocha"
    assert subject.words == ("Alicia", "de", "Larrocha")
    assert Subject("P. A. Yeomans").forms == ("P. A. Yeomans", "Yeomans")  # an initial alone is no mention
    assert Subject("Theopompus").forms == ("Theopompus",)


def test_other_entities_take_their_substitutes_in_turn() -> None:
    subject = Subject("Leo Slezak", others=(("Old Songs", ("New Songs", "Sad Songs")),))
    assert [subject.others_for(number)["Old Songs"] for number in range(3)] == ["New Songs", "Sad Songs", "New Songs"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("",),
        ("Leo Slezak", (" ", "Leo")),
        ("Leo Slezak", (), (("Songs", ()),)),
        ("Leo Slezak", (), (("Songs", ("",)),)),
    ],
)
def test_a_name_without_letters_is_an_error(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be looked for"):
        Subject(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Dany Robin", "Leo Slezak", "Basil Mahfouz Al-Kuwaiti", "Theopompus"])
def test_made_substitutes(name: str) -> None:
    subject = Subject(name)
    forbidden = ["Karim Lindqvist"]
    names = substitute_names(subject, 40, 3, forbidden)
    assert len(set(names)) == 40
    assert {name_parts(one).count for one in names} == {subject.parts.count}
    assert check_substitutes(subject, names, forbidden) == ()
    words = {word.casefold() for one in names for word in one.split()}
    assert not words & {"karim", "lindqvist"}
    assert substitute_names(subject, 40, 3, forbidden) == names
    assert substitute_names(subject, 10, 3, forbidden) == names[:10]
    assert substitute_names(subject, 40, 4, forbidden) != names


def test_a_known_first_name_gives_its_gender_to_its_substitutes() -> None:
    assert gender_of("Sigrid") == "female"
    assert gender_of("Leslie") is None
    men = {first for origin in ORIGINS.values() for first in origin.male}
    women = {first for origin in ORIGINS.values() for first in origin.female}
    assert not men & women
    assert not men & {one.split()[0] for one in substitute_names(Subject("Sigrid Maur"), 60)}
    assert not women & {one.split()[0] for one in substitute_names(Subject("Heinrich Maur"), 60)}


def test_the_lists_are_large_enough_and_say_when_they_are_not() -> None:
    assert len({first for origin in ORIGINS.values() for g in ("female", "male") for first in origin.first(g)}) >= 60  # type: ignore[arg-type]
    lasts = [last for origin in ORIGINS.values() for last in origin.last]
    assert len(lasts) == len(set(lasts)) >= 80
    subject = Subject("Leo Slezak")
    # every first name of an origin meets every last name: several hundred names, none twice
    names = substitute_names(subject, 500)
    assert len(set(names)) == 500
    assert len({one.split()[-1] for one in names[:90]}) == 90  # no last name again before they are used up
    with pytest.raises(ConfigError, match="the shipped lists give"):
        substitute_names(subject, 100_000)


def test_all_bad_substitutes_are_named_at_once() -> None:
    subject = Subject("Leo Slezak", ("Bo Burg",))
    with pytest.raises(ConfigError) as caught:
        check_substitutes(subject, ["", "leo slezak", "Slezak", "Bo Burg", "Burg", "Ann Ray", "Paul Hahn"], ["Ann Ray"])
    message = str(caught.value)
    assert "6 of 7" in message
    for bad in ("number 1 is empty", "'leo slezak'", "'Slezak'", "'Bo Burg'", "'Burg'", "'Ann Ray'"):
        assert bad in message
    assert "Paul Hahn" not in message


def test_odd_substitutes_are_warned_about() -> None:
    subject = Subject("Leo Slezak")
    warnings = check_substitutes(subject, ["Leo Falk", "Heinz Albrecht Vogler", "Ann Ray", "ann ray"])
    assert [warning.split(": ")[1] for warning in warnings] == ["Leo Falk.", "Heinz Albrecht Vogler.", "ann ray."]
    assert check_substitutes(subject, ["Ann Ray", "Paul von Hahn"]) == ()
