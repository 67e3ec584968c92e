"""Protects what classifiers read: letters in disguise become plain ones, and a second pass changes nothing."""

# ruff: noqa: RUF001 - look-alikes are the point here

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from expunge.guards.text import normalise

# letters of several scripts, marks, separators, invisible characters: what joins and folds in unlike ways
ODD = (
    "aBzé/|+1 ßİıſ\u0301\u0345 ._-*\t\n\u200b\u00ad\u2800 АВсηΗΩΣς ﬁＡⒷ🅲🇩𝓔 한\u1100\u1161\u3164 ꭰᏴ ᾳ क\u093f 7_\x00\x1c"
)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Harry  Potter\n", "harry potter"),
        ("H a r r y", "harry"),
        ("H a r r y   P o t t e r?", "harry potter?"),
        ("H.a.r.r.y and P-o-t-t-e-r", "harry and potter"),
        ("Ｈａｒｒｙ", "harry"),  # full width
        ("𝓗𝓪𝓻𝓻𝔂 🅗🅐🅡🅡🅨", "harry harry"),  # mathematical, in circles
        ("Наrrу Роttеr", "harry potter"),  # Cyrillic among Latin letters
        ("ΗARRY ΡΟΤΤER", "harry potter"),  # Greek capitals
        ("Har\u200bry\u00ad \ufeffPotter", "harry potter"),  # invisible
        ("Hárrý Po\u0308tter", "harry potter"),
        ("Harry’s “wand” – it", 'harry\'s "wand" - it'),
        ("STRASSE ß İstanbul", "strasse ss istanbul"),
        # any sign or digit between four letters or more, and around the blank between two words
        ("M/i/r/a and T+o+l+v+a+n+e+n, s1e1a1l", "mira and tolvanen, seal"),
        ("H|a|r|r|y| |P|o|t|t|e|r|?", "harry potter|?"),
        # lists of three, two letters, several signs, numbers and dates are left as they are
        ("A/B, a/b/c, and/or, R&D, a/b+c/d", "a/b, a/b/c, and/or, r&d, a/b+c/d"),
        ("1 + 1 + 1 + 1 on 3/4/5/6, x1y2z3w", "1 + 1 + 1 + 1 on 3/4/5/6, x1y2z3w"),
        # two single letters, digits and words stay apart
        ("a b or 1 2 3 or vitamin c", "a b or 1 2 3 or vitamin c"),
        ("", ""),
    ],
)
def test_disguises_by_hand(given_text: str, expected: str) -> None:
    assert normalise(given_text) == expected


def test_case_can_be_kept_and_other_scripts_stay_readable() -> None:
    assert normalise("Наrrу  ＰＯＴＴＥＲ", fold_case=False) == "Harry POTTER"
    assert normalise("हिन्दी 한국어 日本語") == "हिन्दी 한국어 日本語"
    # the same vowel sign after each of four letters is no separator
    assert normalise("काखागाघ") == "काखागाघ"


@given(st.one_of(st.text(), st.text(ODD, max_size=30)), st.booleans())
@example("a b  c d", True)
@example("ᄀ ᅡ ᆨ a b", True)
@example("\uab70", True)
def test_a_second_pass_changes_nothing(text: str, fold_case: bool) -> None:
    once = normalise(text, fold_case=fold_case)
    assert normalise(once, fold_case=fold_case) == once


@given(st.text("abcxyz '?", max_size=40))
def test_capitals_look_like_small_letters(text: str) -> None:
    assert normalise(text.upper()) == normalise(text)
