"""Which words of two texts belong together: as many as can be, in as few runs as a search finds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

_BEAM = 32  # partial alignments that are followed
_STARTS = 6  # places at which each may begin a run, those of the longest runs

Pairs = dict[int, int]
"""Place in the answer -> place in the expected text; each place of either in one pair at most."""


def aligned(
    expected: Sequence[str],
    answer: Sequence[str],
    stem: Callable[[str], str],
    synonyms: Callable[[str], set[str]],
) -> Pairs:
    """Equal words, then those of the rest whose stems are equal, then words of the rest and their synonyms.

    Equal words are paired in as few runs as two searches find: the fewest are NP-hard to find where words are repeated,
    and there is one way where none is. Stems and synonyms take, of several places, one beside a pair whose run it
    continues, else the first.
    """
    places = _by_key(expected)
    pairs = min(_searched(answer, places), _tiled(answer, places), key=runs)
    stems = [stem(word) for word in expected], [stem(word) for word in answer]
    _add(pairs, len(answer), _by_key(stems[0]), lambda place: [stems[1][place]])
    _add(pairs, len(answer), _by_key(expected), lambda place: sorted(synonyms(answer[place])))
    return pairs


def runs(pairs: Pairs) -> int:
    """How many runs of pairs there are that are neighbours in both texts, in order."""
    return sum(pairs.get(place - 1, -2) != at - 1 for place, at in pairs.items())


def _tiled(answer: Sequence[str], places: dict[str, list[int]]) -> Pairs:
    """The longest run, the longest of what is then free, and so on: good for long texts."""
    pairs: Pairs = {}
    used: set[int] = set()
    while True:
        length, begin, place = 0, 0, 0
        after: dict[int, int] = {}
        for at in reversed(range(len(answer))):
            free = () if at in pairs else [one for one in places.get(answer[at], ()) if one not in used]
            after = {one: 1 + after.get(one + 1, 0) for one in free}
            for one, words in after.items():
                if words >= length:
                    length, begin, place = words, at, one
        if length < 2:  # single words, in whatever way
            _add(pairs, len(answer), places, lambda at: [answer[at]])
            return pairs
        pairs |= {begin + step: place + step for step in range(length)}
        used.update(range(place, place + length))


def _searched(answer: Sequence[str], places: dict[str, list[int]]) -> Pairs:
    """A beam search from the first word of the answer to the last: good for short texts.

    A partial alignment is (runs, places used as bits, place of the last pair, pairs so far as nested tuples).
    """
    begun = _run_lengths(answer, places)
    starts = [sorted(begun[at], key=lambda place, at=at: (-begun[at][place], place)) for at in range(len(answer))]  # type: ignore[misc]
    masks = {word: sum(1 << place for place in some) for word, some in places.items()}
    total = Counter(answer)
    left = Counter(answer)
    beam: list[tuple[int, int, int, Any]] = [(0, 0, -2, None)]
    for at, word in enumerate(answer):
        found: dict[tuple[int, int], tuple[int, int, int, Any]] = {}

        def offer(one: tuple[int, int, int, Any], found: dict[Any, Any] = found) -> None:
            known = found.get(one[1:3])
            if known is None or one[0] < known[0]:
                found[one[1:3]] = one

        wanted = min(total[word], len(places.get(word, ())))
        for count, used, last, before in beam:
            free = [place for place in starts[at] if not used >> place & 1]
            if (used & masks.get(word, 0)).bit_count() + left[word] > wanted:  # the rest suffice without this one
                offer((count, used, -2, before))
            following = last + 1
            if following in begun[at] and not used >> following & 1:
                offer((count, used | 1 << following, following, (at, following, before)))
            for place in free[:_STARTS]:
                if place != following:
                    offer((count + 1, used | 1 << place, place, (at, place, before)))
        left[word] -= 1
        # of two with as many runs, the one that has paired more has less before it
        beam = sorted(found.values(), key=lambda one: (one[0], -one[1].bit_count()))[:_BEAM]
    pairs: Pairs = {}
    rest = beam[0][3]
    while rest is not None:
        at, place, rest = rest
        pairs[at] = place
    return pairs


def _run_lengths(answer: Sequence[str], places: dict[str, list[int]]) -> list[dict[int, int]]:
    """For each place of the answer how many words from there on are those of the expected text from each place on."""
    found: list[dict[int, int]] = [{} for _ in range(len(answer) + 1)]
    for at in reversed(range(len(answer))):
        found[at] = {place: 1 + found[at + 1].get(place + 1, 0) for place in places.get(answer[at], ())}
    return found[:-1]


def _add(pairs: Pairs, size: int, places: dict[str, list[int]], keys: Callable[[int], Sequence[str]]) -> None:
    """Pair further places of the answer with free ones under one of their keys."""
    used = set(pairs.values())
    for at in range(size):
        if at in pairs:
            continue
        free = [place for key in keys(at) for place in places.get(key, ()) if place not in used]
        if free:
            beside = {pairs.get(at - 1, -2) + 1, pairs.get(at + 1, -2) - 1}
            pairs[at] = next((place for place in free if place in beside), min(free))
            used.add(pairs[at])


def _by_key(keys: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        found[key].append(place)
    return dict(found)
