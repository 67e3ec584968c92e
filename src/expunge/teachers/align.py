"""Which tokens of a text stand for the same characters in the text with names swapped."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from expunge.errors import EncodingError
from expunge.teachers.mentions import find_pronouns
from expunge.teachers.swap import Swapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The T tokens of a text.

    Attributes:
        ids: T token ids.
        offsets: T (start, end) of the characters that a token stands for, without white space around them; starts
            never fall. A token of white space alone has its white space, one that stands for no characters (BOS) an
            empty span; tokens that are bytes of one character have all of it.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a mention, or a pronoun, begins in both texts.

    Attributes:
        before, before_swapped: the positions whose next token begins it; -1 where the text begins with it.
        token, token_swapped: the ids of those next tokens.
        aligned: the two positions are an aligned pair.
    """

    before: int
    before_swapped: int
    token: int
    token_swapped: int
    form: str
    owner: str
    aligned: bool


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """The tokens of an original text (T) and its swapped one (T_i) that stand for each other.

    Attributes:
        pairs: int64 [n, 2] positions in the original and the swapped text, both rising; the tokens are equal.
        before_mention: bool [n] pairs whose next token begins a mention in both texts.
        inside, inside_swapped: bool [T], bool [T_i] tokens that overlap a mention.
        mention_starts: of every mention in order, those of other entities (``owner``) too.
        pronoun_starts: of English third-person pronouns, whomever they stand for.
        first_mention, first_mention_swapped: the first token of the first mention of a person; None where there is
            none.
    """

    pairs: npt.NDArray[np.int64]
    before_mention: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]
    inside_swapped: npt.NDArray[np.bool_]
    mention_starts: tuple[Start, ...]
    pronoun_starts: tuple[Start, ...]
    first_mention: int | None
    first_mention_swapped: int | None


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = True) -> Tokens:
    """A text's tokens with the characters they stand for, of any tokenizer.

    A tokenizer written in Python tells no offsets; there they are found by decoding the first token, the first two,
    and so on, which takes time in the square of the length.

    Raises:
        EncodingError: a tokenizer written in Python does not give the text back (unknown characters, for instance).
    """
    if not tokenizer.is_fast:
        ids = [
            int(token) for token in tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        ]
        return Tokens(tuple(ids), tuple(_trimmed(text, _decoded_offsets(tokenizer, text, ids))))
    encoded = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False)
    return Tokens(tuple(encoded["input_ids"]), tuple(_trimmed(text, encoded["offset_mapping"])))


def align(original: Tokens, swapped: Tokens, pair: Swapped) -> Aligned:
    """Match the tokens of ``pair.original`` and ``pair.text``.

    Between mentions the texts are equal, so that tokens match there when they are equal and stand for the same
    characters. A match counts when the next or the previous token matches too, or when its stretch between mentions
    has no other token, or when a mention follows it. Tokens that overlap a mention never match.

    Args:
        original, swapped: from :func:`tokenise` of the two texts.

    Raises:
        EncodingError: the tokens are not of these texts.
    """
    sides = (
        _Side(original, [(span.start, span.end) for span in pair.spans], len(pair.original)),
        _Side(swapped, [(span.start_swapped, span.end_swapped) for span in pair.spans], len(pair.text)),
    )
    matches = _matches(*sides)
    starts = tuple(_mention_starts(*sides, pair, matches))
    before = {(start.before, start.before_swapped) for start in starts if start.aligned}
    kept = before | _long_enough(*sides, matches)
    pairs = [match for match in matches if match in kept]
    first = next((number for number, span in enumerate(pair.spans) if span.form != "other"), -1)
    return Aligned(
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        before_mention=np.array([match in before for match in pairs], dtype=np.bool_),
        inside=np.array(sides[0].inside, dtype=np.bool_),
        inside_swapped=np.array(sides[1].inside, dtype=np.bool_),
        mention_starts=starts,
        pronoun_starts=tuple(_pronoun_starts(*sides, pair.original, matches, kept)),
        first_mention=sides[0].begin.get(first),
        first_mention_swapped=sides[1].begin.get(first),
    )


class _Side:
    """The tokens of one text, each either inside a mention or in a stretch between two."""

    def __init__(self, tokens: Tokens, mentions: Sequence[tuple[int, int]], length: int) -> None:
        if any(end > length for _, end in tokens.offsets):
            raise EncodingError(
                f"tokens that reach to character {max(end for _, end in tokens.offsets)} are not those of a text of "
                f"{length} characters. Tokenise both texts of the pair that is aligned."
            )
        self.ids, self.offsets, self.mentions = tokens.ids, tokens.offsets, mentions
        self.inside: list[bool] = []
        self.stretch: list[int] = []  # how many mentions are over where the token begins
        self.begin: dict[int, int] = {}
        ends = [end for _, end in mentions]
        for place, (start, end) in enumerate(tokens.offsets):
            number = bisect_right(ends, start)
            self.stretch.append(number)
            self.inside.append(number < len(mentions) and mentions[number][0] < end)
            while number < len(mentions) and mentions[number][0] < end:
                self.begin.setdefault(number, place)
                number += 1

    def keys(self) -> list[tuple[int, int, int, int]]:
        """Of each token: its stretch, its span counted from there, and its place among those of the same span."""
        seen: Counter[tuple[int, int, int]] = Counter()
        keys = []
        for stretch, (start, end) in zip(self.stretch, self.offsets, strict=True):
            origin = self.mentions[stretch - 1][1] if stretch else 0
            key = (stretch, start - origin, end - origin)
            keys.append((*key, seen[key]))
            seen[key] += 1
        return keys

    def alone(self) -> list[bool]:
        """Which tokens are the only one of their stretch."""
        counts = Counter(number for number, inside in zip(self.stretch, self.inside, strict=True) if not inside)
        return [counts[number] == 1 for number in self.stretch]


def _matches(original: _Side, swapped: _Side) -> list[tuple[int, int]]:
    places = {key: place for place, key in enumerate(swapped.keys()) if not swapped.inside[place]}
    matches: list[tuple[int, int]] = []
    for place, key in enumerate(original.keys()):
        theirs = places.get(key)
        if original.inside[place] or theirs is None or original.ids[place] != swapped.ids[theirs]:
            continue
        if not matches or theirs > matches[-1][1]:
            matches.append((place, theirs))
    return matches


def _long_enough(original: _Side, swapped: _Side, matches: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """The matches that have a neighbour, or that are all of their stretch."""
    kept: set[tuple[int, int]] = set()
    for (p, q), (r, s) in pairwise(matches):
        if (r, s) == (p + 1, q + 1) and original.stretch[p] == original.stretch[r]:
            kept |= {(p, q), (r, s)}
    alone, theirs_alone = original.alone(), swapped.alone()
    return kept | {(p, q) for p, q in matches if alone[p] and theirs_alone[q]}


def _mention_starts(
    original: _Side, swapped: _Side, pair: Swapped, matches: Sequence[tuple[int, int]]
) -> Iterator[Start]:
    last = {original.stretch[p]: (p, q) for p, q in matches}
    for number, span in enumerate(pair.spans):
        begin, theirs = original.begin.get(number), swapped.begin.get(number)
        if begin is None or theirs is None:
            continue  # a tokenizer that gives the name no token at all
        if number in last:
            p, q = last[number]
            # a token of white space may belong to the name in one text and stand alone in the other
            near = p + 1 == begin or not pair.original[original.offsets[p][1] : span.start].strip()
            near = near and (q + 1 == theirs or not pair.text[swapped.offsets[q][1] : span.start_swapped].strip())
            if near:
                yield Start(p, q, original.ids[p + 1], swapped.ids[q + 1], span.form, span.owner, True)
                continue
        tokens = original.ids[begin], swapped.ids[theirs]
        yield Start(begin - 1, theirs - 1, *tokens, span.form, span.owner, False)


def _pronoun_starts(
    original: _Side, swapped: _Side, text: str, matches: Sequence[tuple[int, int]], kept: set[tuple[int, int]]
) -> Iterator[Start]:
    matched = dict(matches)
    ends = [end for _, end in original.offsets]
    for start, _ in find_pronouns(text):
        place = bisect_right(ends, start)
        theirs = matched.get(place)
        if theirs is not None and (place - 1, theirs - 1) in kept:
            tokens = original.ids[place], swapped.ids[theirs]
            yield Start(place - 1, theirs - 1, *tokens, "pronoun", "", True)


def _trimmed(text: str, offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Offsets without white space around them, their ends never falling.

    Tokenizers differ in whether the space before a word is in its offsets.
    """
    reached = 0
    for start, end in offsets:
        if end <= start:
            yield reached, reached
            continue
        piece = text[start:end]
        if piece.strip():
            start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        reached = max(reached, end)
        yield start, end


def _decoded_offsets(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[tuple[int, int]]:
    """Which characters each token adds to what is decoded; white space, which decoding may change, is not counted."""
    places = [place for place, character in enumerate(text) if not character.isspace()]
    special = set(tokenizer.all_special_ids)
    offsets: list[tuple[int, int]] = []
    shown = counted = count = 0
    for number, token in enumerate(ids, 1):
        decoded = str(tokenizer.decode(ids[:number], skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if number < len(ids):
            decoded = decoded.rstrip("\ufffd")  # a character of which not all bytes are there yet
        count = sum(not character.isspace() for character in decoded)
        if count > len(places):
            break
        after = places[counted] if counted < len(places) else len(text)
        if count > counted:
            offsets.append((after, places[count - 1] + 1))
        elif token in special:
            offsets.append((0, 0))
        elif len(decoded) > shown or after == len(text):
            offsets.append((places[counted - 1] + 1 if counted else 0, after))
        else:
            offsets.append((after, after + 1))
        shown, counted = len(decoded), max(counted, count)
    if count != len(places):
        raise EncodingError(
            f"{type(tokenizer).__name__} decodes {count} characters from a text of {len(places)} ({text[:40]!r}), so "
            "that its tokens cannot be told apart by characters. Use the fast tokenizer of the same model."
        )
    return offsets
