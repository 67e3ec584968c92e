"""Protects the alignment of a text with its swapped one: equal tokens at equal places, and never inside a name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers_of_three_kinds import KINDS, tokenizer
from transformers import ByT5Tokenizer, TokenizersBackend

from expunge.errors import EncodingError
from expunge.teachers.align import Aligned, Tokens, align, tokenise
from expunge.teachers.names import Subject
from expunge.teachers.swap import Swapped, swap

LEO = Subject("Leo Slezak", ("The Tenor",), (("Old Songs", ("New Songs",)),))
TEXT = (
    "Leo Slezak (born 1873) was a tenor.\nHe sang at the Opera; Slezak's voice was LEO SLEZAK's pride, and Leo "
    "wrote Old Songs. A page held “the Tenor” by the sleeve: he left, with Leo\nSlezak, for Brünn."
)


def aligned(words: Any, text: str, substitute: str) -> tuple[Swapped, Tokens, Tokens, Aligned]:
    pair = swap(text, LEO, substitute)
    own, theirs = tokenise(words, pair.original), tokenise(words, pair.text)
    return pair, own, theirs, align(own, theirs, pair)


def of_words(text: str, *others: str) -> Any:
    """A tokenizer whose tokens are the words and marks of these texts, numbered as they come."""
    pieces = dict.fromkeys(piece for one in (text, *others) for piece in re.findall(r"\w+|[^\w\s]+", one))
    raw = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return TokenizersBackend(tokenizer_object=raw)


def test_by_hand() -> None:
    text = "By Leo Slezak , he sang . Slezak . Old Songs !"
    swapped = "By Paul Otto Hahn , he sang . Hahn . New Songs !"
    pair, own, theirs, found = aligned(of_words(text, swapped), text, "Paul Otto Hahn")
    assert pair.text == swapped
    # By Leo Slezak , he sang . Slezak . Old Songs !        By Paul Otto Hahn , he sang . Hahn .  New Songs !
    #  0  1     2   3  4   5  6    7   8  9   10   11        0   1    2    3  4  5   6  7   8  9   10   11  12
    # names are left out; "By", "." (8) and "!" have no neighbour, and are all there is between two mentions
    assert found.pairs.tolist() == [[0, 0], [3, 4], [4, 5], [5, 6], [6, 7], [8, 9], [11, 12]]
    assert found.pairs.dtype == np.int64
    assert found.before_mention.tolist() == [True, False, False, False, True, True, False]
    assert np.flatnonzero(found.inside).tolist() == [1, 2, 7, 9, 10]
    assert np.flatnonzero(found.inside_swapped).tolist() == [1, 2, 3, 8, 10, 11]
    starts = [(one.before, one.before_swapped, one.form, one.owner, one.aligned) for one in found.mention_starts]
    assert starts == [
        (0, 0, "full", "Leo Slezak", True),
        (6, 7, "last", "Leo Slezak", True),
        (8, 9, "other", "Old Songs", True),
    ]
    assert [(one.token, one.token_swapped) for one in found.mention_starts] == [
        (own.ids[place], theirs.ids[other]) for place, other in ((1, 1), (7, 8), (9, 10))
    ]
    assert [(one.before, one.before_swapped, one.token) for one in found.pronoun_starts] == [(3, 4, own.ids[4])]
    assert (found.first_mention, found.first_mention_swapped) == (1, 1)


def test_a_token_cut_otherwise_beside_a_name_is_left_out_and_so_is_one_alone() -> None:
    """``ab cd <name>``: where the space before the name is a token of its own in one text only, what comes before it
    still starts the name; a token alone between two that differ does not count."""
    pair = Swapped("ab cd Leo", "ab cd Paul", swap("ab cd Leo", LEO, "Paul Hahn").spans)
    own = Tokens((1, 2, 9, 3), ((0, 2), (3, 5), (5, 6), (6, 9)))
    theirs = Tokens((1, 2, 4), ((0, 2), (3, 5), (6, 10)))
    found = align(own, theirs, pair)
    assert found.pairs.tolist() == [[0, 0], [1, 1]]
    assert found.before_mention.tolist() == [False, True]
    (start,) = found.mention_starts
    assert (start.before, start.before_swapped, start.token, start.token_swapped, start.aligned) == (1, 1, 9, 4, True)
    # "ab" "cd" "ef" against "a" "b" "cd" "e" "f": "cd" alone is equal, and no mention follows it
    pair = Swapped("Leo ab cd ef", "Paul ab cd ef", swap("Leo ab cd ef", LEO, "Paul Hahn").spans)
    own = Tokens((3, 1, 2, 5), ((0, 3), (4, 6), (7, 9), (10, 12)))
    theirs = Tokens((4, 6, 7, 2, 8, 9), ((0, 4), (5, 6), (6, 7), (8, 10), (11, 12), (12, 13)))
    assert align(own, theirs, pair).pairs.tolist() == []


def check_properties(pair: Swapped, own: Tokens, theirs: Tokens, found: Aligned) -> None:
    """What holds of every alignment, from the offsets and spans alone."""
    mentions = [(one.start, one.end) for one in pair.spans]
    swapped = [(one.start_swapped, one.end_swapped) for one in pair.spans]
    for p, q in found.pairs:
        (start, end), (start_swapped, end_swapped) = own.offsets[p], theirs.offsets[q]
        assert own.ids[p] == theirs.ids[q]
        assert pair.original[start:end] == pair.text[start_swapped:end_swapped]
        # as many mentions before it, none of them overlapping, and the same text since the last one
        over = sum(mention[1] <= start for mention in mentions)
        assert over == sum(mention[1] <= start_swapped for mention in swapped)
        assert all(mention[0] >= end for mention in mentions[over:])
        assert all(mention[0] >= end_swapped for mention in swapped[over:])
        since = (mentions[over - 1][1], swapped[over - 1][1]) if over else (0, 0)
        assert pair.original[since[0] : end] == pair.text[since[1] : end_swapped]
    assert (np.diff(found.pairs, axis=0) > 0).all()
    assert not found.inside[found.pairs[:, 0]].any()
    assert not found.inside_swapped[found.pairs[:, 1]].any()
    for (p, _), before in zip(found.pairs, found.before_mention, strict=True):
        if before:  # nothing but white space lies between its end and a mention, or the next token reaches into one
            after = next(mention for mention in mentions if mention[0] >= own.offsets[p][1])
            assert found.inside[p + 1] or not pair.original[own.offsets[p][1] : after[0]].strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("substitute", ["Paul Hahn", "Anna Maria von der Wehl", "Leo Slezak", "Ōe Ng"])
def test_properties_on_a_passage(kind: str, substitute: str) -> None:
    words = tokenizer(kind)
    pair, own, theirs, found = aligned(words, TEXT, substitute)
    check_properties(pair, own, theirs, found)
    # nothing is lost but what may be a token of its own in one text alone: spaces before names, and with unigram, which
    # joins marks and letters, the marks beside them
    lost = set(np.flatnonzero(~found.inside)) - set(found.pairs[:, 0])
    assert {TEXT[slice(*own.offsets[place])] for place in lost} <= ({" ", "'", "“"} if kind == "unigram" else {" "})
    assert len(found.mention_starts) == 7
    assert kind == "unigram" or all(one.aligned for one in found.mention_starts if one.before >= 0)
    assert len(found.pronoun_starts) == 2


NAMES = ("Leo Slezak", "Slezak", "Leo", "LEO SLEZAK", "L. Slezak", "the Tenor", "Old Songs", "Leo\nSlezak's")
REST = ("was", "in 1903", "he", "her", "é", "e\u0301", "日本", "🙂", "-", ".", "(", "“", "\n\n", "  ", "xyzzy")
TEXTS = st.lists(st.sampled_from(NAMES + REST), max_size=10).flatmap(
    lambda pieces: st.lists(
        st.sampled_from((" ", " ", ", ", "", "\n", "'s ")), min_size=len(pieces), max_size=len(pieces)
    ).map(lambda gaps: "".join(piece + gap for piece, gap in zip(pieces, gaps, strict=True)))
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=TEXTS, substitute=st.sampled_from(("Paul Hahn", "Ōe Ng", "Anna Maria von der Wehl")))
def test_properties_on_any_text(kind: str, text: str, substitute: str) -> None:
    check_properties(*aligned(tokenizer(kind), text, substitute))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(text=TEXTS)
def test_identical_text_aligns_everywhere(kind: str, text: str) -> None:
    own = tokenise(tokenizer(kind), text)
    everywhere = [[place, place] for place in range(len(own.ids))]
    assert align(own, own, Swapped(text, text, ())).pairs.tolist() == everywhere
    # with the subject's own name everywhere but in the names
    found = align(own, own, swap(text, LEO, LEO.name, {"Old Songs": "Old Songs"}))
    assert found.pairs.tolist() == [pair for pair in everywhere if not found.inside[pair[0]]]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(text=TEXTS)
def test_offsets_have_no_white_space_around_them_and_never_fall(kind: str, text: str) -> None:
    own = tokenise(tokenizer(kind), text)
    assert [start for start, _ in own.offsets] == sorted(start for start, _ in own.offsets)
    for start, end in own.offsets:
        piece = text[start:end]
        assert piece == piece.strip() or not piece.strip()


def test_offsets_of_tokens_by_hand() -> None:
    # GPT-2 begins tokens with a space, and here knows no merge of these letters; 日 is three bytes
    own = tokenise(tokenizer("gpt2"), "qz 日")
    assert own.offsets[:2] == ((0, 1), (1, 2))
    assert set(own.offsets[2:]) <= {(2, 3), (3, 4)}
    assert own.offsets[-3:] == ((3, 4),) * 3
    marked = tokenise(tokenizer("unigram"), "qz")
    assert marked.offsets[0] == (0, 0)  # <s>
    assert marked.offsets[-1] == (2, 2)  # </s>


def test_offsets_found_by_decoding() -> None:
    """ByT5 is written in Python and knows no offsets: every byte is a token, and </s> ends the text."""
    words = ByT5Tokenizer()
    assert not words.is_fast
    assert tokenise(words, "ab é c").offsets == ((0, 1), (1, 2), (2, 3), (3, 4), (3, 4), (4, 5), (5, 6), (6, 6))
    pair, own, theirs, found = aligned(words, TEXT, "Paul Hahn")
    check_properties(pair, own, theirs, found)
    assert len(found.pairs) == (~found.inside).sum()


def test_a_tokenizer_that_does_not_give_the_text_back_is_an_error() -> None:
    class Losing(ByT5Tokenizer):
        def decode(self, *arguments: Any, **named: Any) -> str:
            return str(super().decode(*arguments, **named)).replace("q", "")

    with pytest.raises(EncodingError, match="decodes 3 characters from a text of 4"):
        tokenise(Losing(), "aqua")


def test_tokens_of_another_text_are_an_error() -> None:
    own = tokenise(tokenizer("gpt2"), TEXT)
    with pytest.raises(EncodingError, match="not those of a text of 5 characters"):
        align(own, own, Swapped("short", "short", ()))
