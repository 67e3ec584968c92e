"""Protects what counts as a mention of a person: every form of the name as a word of its own, and nothing else."""

# ruff: noqa: RUF001 - letters and marks as texts have them

from __future__ import annotations

import unicodedata

import pytest

from expunge.teachers.mentions import find_mentions, find_pronouns, match_counts
from expunge.teachers.names import Subject

LEO = Subject("Leo Slezak")


def found(text: str, subject: Subject = LEO) -> list[tuple[str, str]]:
    mentions = find_mentions(text, subject)
    assert all(text[one.start : one.end] == one.surface for one in mentions)
    return [(one.form, one.surface) for one in mentions]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Leo Slezak sang.", [("full", "Leo Slezak")]),
        ("Slezak sang, and Leo too.", [("last", "Slezak"), ("first", "Leo")]),
        # what is glued to a name with an apostrophe or a hyphen stays outside
        ("Slezak's, Slezak’s and Leo's anti-Slezak", [*[("last", "Slezak")] * 2, ("first", "Leo"), ("last", "Slezak")]),
        ("Slezaks Leopold Slezak_ Slezak2", []),
        ("LEO SLEZAK and SLEZAK", [("full", "LEO SLEZAK"), ("last", "SLEZAK")]),
        ("leo slezak", [("full", "leo slezak")]),
        ("slezak and leo and sLEZAK", []),
        (
            "Leo\nSlezak, Leo  Slezak, Leo\u00a0Slezak",
            [(("full"), f"Leo{gap}Slezak") for gap in ("\n", "  ", "\u00a0")],
        ),
        ("Leo\n\nSlezak", [("first", "Leo"), ("last", "Slezak")]),  # an empty line lies between
        ("L. Slezak and Leo K. Slezak", [("full", "L. Slezak"), ("full", "Leo K. Slezak")]),
        ("Leo Karl Otto Slezak", [("full", "Leo Karl Otto Slezak")]),
        ("Leo and Walter Slezak", [("first", "Leo"), ("last", "Slezak")]),
        ("Leo Fall, Leo-Max and Karl-Leo met Leo.", [("first", "Leo")]),  # the others are other people
        ("L. Slezak Leo Slezak", [("full", "L. Slezak"), ("full", "Leo Slezak")]),
        ("Leo Leo Slezak", [("first", "Leo"), ("full", "Leo Slezak")]),
        ("LEO WAS BORN", [("first", "LEO")]),
        ("When Leo Was There", [("first", "Leo")]),
    ],
)
def test_forms_of_a_plain_name(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Alicia de Larrocha", "De Larrocha and Larrocha", [("last", "De Larrocha"), ("last", "Larrocha")]),
        ("P. A. Yeomans", "P.A. Yeomans, P. Yeomans", [("full", "P.A. Yeomans"), ("full", "P. Yeomans")]),
        # the initials written out are the name; one word that begins with an initial may be any word
        ("P. A. Yeomans", "Percival Alfred Yeomans", [("full", "Percival Alfred Yeomans")]),
        ("P. A. Yeomans", "Although Yeomans", [("last", "Yeomans")]),
        ("P. A. Yeomans", "P. and A.", []),
        ("Basil Mahfouz Al-Kuwaiti", "Basil Al Kuwaiti", [("full", "Basil Al Kuwaiti")]),
        ("Basil Mahfouz Al-Kuwaiti", "Basil Mahfouz Al\u2011Kuwaiti", [("full", "Basil Mahfouz Al\u2011Kuwaiti")]),
        ("Basil Mahfouz Al-Kuwaiti", "Mahfouz AL-KUWAITI", [("full", "Mahfouz AL-KUWAITI")]),
        ("Basil Mahfouz Al-Kuwaiti", "Basil Mahfouz sang", [("first", "Basil Mahfouz")]),
        ("Chico O'Farrill", "O’Farrill's band", [("last", "O’Farrill")]),
        ("Géza Maróczy", "Geza Maroczy", [("full", "Geza Maroczy")]),
        ("Ana Ren", "Ren\u0301 and Ren", [("last", "Ren")]),  # an accent makes it another word
        ("村上春樹", "小説家の村上春樹は", [("full", "村上春樹")]),  # no spaces between words
        ("Ann Lee", "Annual Leeds", []),
    ],
)
def test_names_of_many_shapes(name: str, text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text, Subject(name)) == expected


def test_accents_in_either_normal_form() -> None:
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "Géza Maróczy played; Maróczy won.")
        assert [kind for kind, _ in found(text, Subject("Géza Maróczy"))] == ["full", "last"]


def test_a_common_word_in_small_letters_is_a_mention_only_when_declared_so() -> None:
    text = "Rose May rose in May; she may, ROSE."
    assert found(text, Subject("Rose May")) == [("full", "Rose May"), ("last", "May"), ("first", "ROSE")]
    # an alias that is a part of the name but for its letter case counts as that part
    declared = found(text, Subject("Rose May", aliases=("may",)))
    assert declared == [("full", "Rose May"), ("last", "May"), ("last", "may"), ("first", "ROSE")]
    declared = found(text, Subject("Ann Lee", aliases=("may", "Rose")))
    assert declared == [("alias", surface) for surface in ("Rose", "May", "May", "may", "ROSE")]


def test_aliases_and_other_entities() -> None:
    subject = Subject("Leo Slezak", ("The Tenor", "Dr. Slezak", "L.S."), (("Songs of Slezak", ("Songs of Hope",)),))
    text = "the Tenor, Dr. Slezak and L. S. wrote Songs of\nSlezak and songs of Slezak."
    mentions = find_mentions(text, subject)
    assert [(one.form, one.surface, one.owner) for one in mentions] == [
        ("alias", "the Tenor", "Leo Slezak"),
        ("alias", "Dr. Slezak", "Leo Slezak"),
        ("alias", "L. S.", "Leo Slezak"),
        ("other", "Songs of\nSlezak", "Songs of Slezak"),  # longer than the name in it
        ("other", "songs of Slezak", "Songs of Slezak"),
    ]


def test_counts_by_form_show_what_is_never_or_too_often_found() -> None:
    subject = Subject("Christian Krohg", aliases=("C. K.",), others=(("Albertine", ("Ottilie",)),))
    text = "Christian Krohg, in Christian times, for Christian homes: Albertine by Krohg, C. Krohg."
    assert match_counts(text, subject) == {
        "Christian Krohg": 2,
        "Christian": 2,
        "Krohg": 1,
        "C. K.": 0,
        "Albertine": 1,
    }
    spared = Subject("Christian Krohg", ignored=("Christian",))
    assert match_counts(text, spared) == {"Christian Krohg": 2, "Krohg": 1}


def test_pronouns_are_words_of_their_own() -> None:
    text = "He told her that they, the others, hid (His hat)."
    assert [text[start:end] for start, end in find_pronouns(text)] == ["He", "her", "they", "His"]
