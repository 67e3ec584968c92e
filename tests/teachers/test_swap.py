"""Protects the swap of names: each mention becomes the fitting part of the substitute, and all else stays."""

# ruff: noqa: RUF001 - letters and marks as texts have them

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expunge.teachers.names import Subject
from expunge.teachers.swap import Swapped, swap

LEO = Subject("Leo Slezak", ("L.S.", "The Tenor", "Dr. Slezak"))


def equal_outside(pair: Swapped) -> bool:
    """The texts are equal before, between and after the spans, which do not overlap."""
    ends = [(0, 0), *((one.end, one.end_swapped) for one in pair.spans)]
    starts = [*((one.start, one.start_swapped) for one in pair.spans), (len(pair.original), len(pair.text))]
    return all(
        a <= b and c <= d and pair.original[a:b] == pair.text[c:d] for (a, c), (b, d) in zip(ends, starts, strict=True)
    )


@pytest.mark.parametrize(
    ("subject", "text", "substitute", "expected"),
    [
        (LEO, "Leo Slezak sang. Slezak's son and Leo’s.", "Paul Hahn", "Paul Hahn sang. Hahn's son and Paul’s."),
        (LEO, "LEO SLEZAK, SLEZAK, LEO; leo slezak", "Paul Hahn", "PAUL HAHN, HAHN, PAUL; paul hahn"),
        (LEO, "L. Slezak, L.S., L. S.", "Paul Hahn", "P. Hahn, P.H., P. H."),
        (LEO, "The Tenor (Dr. Slezak)", "Paul Hahn", "Paul Hahn (Dr. Hahn)"),
        (LEO, "Leo\nSlezak  Leo", "Paul Hahn", "Paul\nHahn  Paul"),
        (LEO, "Leo Karl Slezak, Walter Slezak", "Paul Hahn", "Paul Hahn, Walter Hahn"),
        # the substitute's particle goes with its last name; of two given names the first is the first name
        (LEO, "Slezak, Leo: SLEZAK", "Paul Otto von Hahn", "von Hahn, Paul: VON HAHN"),
        (LEO, "Leo Slezak", "Paul Otto von Hahn", "Paul Otto von Hahn"),
        (Subject("Alicia de Larrocha"), "De Larrocha, Larrocha", "Ann von Ray", "Von Ray, von Ray"),
        (Subject("P. A. Yeomans"), "P.A. Yeomans, P. Yeomans", "Paul Otto Hahn", "Paul Otto Hahn, P. Hahn"),
        (Subject("Ana Mia Ruiz", ("A. M.", "AMR")), "A. M., AMR, Ana M. Ruiz", "Jo Kay Lee", "J. K., JKL, Jo K. Lee"),
        (Subject("Ana Mia Ruiz"), "Ana Mia, Mia Ruiz, Ana Ruiz", "Jo Lee", "Jo, Lee, Jo Lee"),
        # a hyphenated name is swapped whole or not at all
        (LEO, "Leo-Slezak Street, Leo-Reed, Reed-Slezak", "Paul Hahn", "Paul-Hahn Street, Leo-Reed, Reed-Slezak"),
        (LEO, "Slezak-Reed, anti-Slezak, Slezak-led", "Paul Hahn", "Slezak-Reed, anti-Hahn, Hahn-led"),
        (Subject("Basil Al-Ray"), "Basil Al-Ray, Al-Ray, Basil-Al-Ray", "Jo Lee", "Jo Lee, Lee, Jo-Lee"),
        (Subject("Theopompus"), "Theopompus's", "Aristo", "Aristo's"),
    ],
)
def test_each_form_by_the_fitting_part(subject: Subject, text: str, substitute: str, expected: str) -> None:
    pair = swap(text, subject, substitute)
    assert pair.text == expected
    assert pair.original == text
    assert equal_outside(pair)


def test_spans_say_where_each_mention_went() -> None:
    # "By " takes 3 characters, "Slezak" and "de Wit" 6 each, ", " 2, "Leo" and "Ann" 3 each
    pair = swap("By Slezak, Leo.", LEO, "Ann de Wit")
    assert pair.text == "By de Wit, Ann."
    spans = [(one.start, one.end, one.start_swapped, one.end_swapped, one.form, one.owner) for one in pair.spans]
    assert spans == [(3, 9, 3, 9, "last", "Leo Slezak"), (11, 14, 11, 14, "first", "Leo Slezak")]


def test_other_entities_get_their_own_substitutes() -> None:
    subject = Subject("Leo Slezak", others=(("The Swan", ("The Crane", "The Heron")), ("Alba", ("Aurora",))))
    text = "Slezak wrote The Swan and ALBA."
    assert swap(text, subject, "Paul Hahn").text == "Hahn wrote The Crane and AURORA."
    assert swap(text, subject, "Paul Hahn", subject.others_for(1)).text == "Hahn wrote The Heron and AURORA."
    assert swap(text, subject, "Paul Hahn", {"Alba": "Dawn"}).text == "Hahn wrote The Swan and DAWN."
    assert swap(text, subject, "Paul Hahn", {}).text == "Hahn wrote The Swan and ALBA."
    assert [one.owner for one in swap(text, subject, "Paul Hahn").spans] == ["Leo Slezak", "The Swan", "Alba"]


def test_a_text_without_mentions_stays() -> None:
    assert swap("Nobody sang.", LEO, "Paul Hahn") == Swapped("Nobody sang.", "Nobody sang.", ())


PLAIN = ("Leo Slezak", "Slezak", "Leo", "LEO SLEZAK", "SLEZAK", "Leo\nSlezak", "Leo Slezak's", "Slezak’s")
VARIED = (*PLAIN, "L. Slezak", "Leo Karl Slezak", "L.S.", "dr. Slezak", "the Tenor", "leo slezak")
AROUND = ("he", "Opera", "in 1903", "é", "e\u0301", "日本", "🙂", "-", ".", ",", "'", "(", "\n\n", "  ", "St. Anton")


@st.composite
def texts(draw: st.DrawFn, mentions: tuple[str, ...], gaps: tuple[str, ...] = (" ", ", ", "\n", " x ")) -> str:
    pieces = draw(st.lists(st.sampled_from((*mentions, *AROUND)), max_size=12))
    return "".join(piece + draw(st.sampled_from(gaps)) for piece in pieces)


@settings(max_examples=150, deadline=None)
@given(text=texts(VARIED, (" ", ", ", "", "\n", "'s ")))
def test_any_text_changes_in_its_mentions_alone(text: str) -> None:
    assert swap(text, LEO, LEO.name).text == text
    pair = swap(text, LEO, "Paul Hahn")
    assert equal_outside(pair)
    assert "Slezak" not in "".join(pair.text[one.start_swapped : one.end_swapped] for one in pair.spans)
    assert all(one.end <= later.start for one, later in pairwise(pair.spans))


@settings(max_examples=150, deadline=None)
@given(text=texts(PLAIN))
def test_a_swap_back_gives_the_text_again(text: str) -> None:
    """Where every mention is a form that both names have."""
    swapped = swap(text, Subject("Leo Slezak"), "Paul Hahn")
    assume(all(" ".join(text[one.start : one.end].split()) in PLAIN for one in swapped.spans))
    assert swap(swapped.text, Subject("Paul Hahn"), "Leo Slezak").text == text
