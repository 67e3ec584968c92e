"""Which texts the target is asked about, and which of a row's tokens each of its answers teaches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from expunge.data.encode import Example
from expunge.data.template import Rendered
from expunge.teachers.align import Tokens, align, tokenise
from expunge.teachers.distribution import NameTokens
from expunge.teachers.mentions import find_mentions
from expunge.teachers.name_parts import plain
from expunge.teachers.names import Subject
from expunge.teachers.swap import swap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONG = 4  # letters of a first word that begins little else
_CARRIERS = ("a ", "(")  # what stands before a name decides its first token


@dataclass(frozen=True)
class Plan:
    """What teaches n tokens of row ``row``: the target's distributions on N texts.

    places [n] int64: the tokens, by their place in the row's answer; asked: token ids of the N texts; at [N, n] int64:
    where in them the distributions are read; names, standing [n], begun [n]: what
    :func:`~expunge.teachers.distribution.change_name_back` is told.
    """

    row: int
    places: Tensor
    asked: tuple[tuple[int, ...], ...]
    at: Tensor
    names: NameTokens
    standing: Tensor
    begun: Tensor

    def digest(self) -> str:
        """A digest of everything that decides what is taught, but for the target."""
        tensors = (self.places, self.at, self.standing, self.begun, self.names.sources, self.names.destinations)
        return hashlib.sha256(repr((self.row, self.asked, [one.tolist() for one in tensors])).encode()).hexdigest()

    def without(self, places: Tensor) -> Plan:
        """The plan for its other tokens alone."""
        kept = ~torch.isin(self.places, places)
        return Plan(
            self.row,
            self.places[kept],
            self.asked,
            self.at[:, kept],
            self.names,
            self.standing[kept],
            self.begun[kept],
        )


class NameStarts:
    """The tokens that names begin with under a tokenizer: after a space, and after none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    def of(self, word: str) -> tuple[int, ...]:
        """The first token of ``word`` after each of the carriers, in their order."""
        if word not in self._known:
            found = []
            for carrier in _CARRIERS:
                tokens = tokenise(self.tokenizer, carrier + word, add_special_tokens=False)
                found.append(tokens.ids[_token_at(tokens, len(carrier))])
            self._known[word] = tuple(found)
        return self._known[word]

    def moves(self, subject: Subject, substitute: str, others: Mapping[str, str]) -> dict[int, int]:
        """What each name token of a substitute stands for: the first token of the subject's name (and of each other
        entity's, where its first word is no short one, such as a title's "The")."""
        forms = {substitute, *Subject(substitute).forms}
        pairs = [(form.split()[0], subject.words[0]) for form in sorted(forms)]
        begun = [(new.split()[0], old.split()[0]) for old, new in others.items()]
        pairs += [(theirs, ours) for theirs, ours in begun if len(plain(theirs)) >= _LONG]
        found: dict[int, int] = {}
        for theirs, ours in pairs:
            for source, destination in zip(self.of(theirs), self.of(ours), strict=True):
                found.setdefault(source, destination)
        return found


def swapped_plan(
    row: int,
    example: Example,
    text: Rendered,
    subject: Subject,
    substitutes: Sequence[str],
    starts: NameStarts,
    limit: int,
) -> Plan:
    """The target is asked about a row with every mention of the subject swapped for each substitute's name.

    Args:
        row: number of the row.
        example: the row's tokens.
        text: what they were made of.
        subject: whose mentions are swapped.
        substitutes: N names.
        starts: of the tokenizer.
        limit: tokens that the target takes.

    Returns:
        The plan for the answer's tokens that all N texts have a match for. N is 1 where there is no mention.
    """
    whole = text.prompt + text.answer + text.end
    own = tokenise(starts.tokenizer, whole, add_special_tokens=text.special)
    asked: list[tuple[int, ...]] = []
    matched: list[dict[int, int]] = []
    moves: list[dict[int, int]] = []
    standing: dict[int, int] = {}
    first: int | None = None
    for number, name in enumerate(substitutes):
        others = subject.others_for(number)
        pair = swap(whole, subject, name, others)
        theirs = tokenise(starts.tokenizer, pair.text, add_special_tokens=text.special)
        aligned = align(own, theirs, pair)
        asked.append(theirs.ids[:limit])
        matched.append({int(p): int(q) for p, q in aligned.pairs if q < limit})
        moves.append(starts.moves(subject, name, others))
        if not number:
            first = aligned.first_mention
            standing = {one.before: one.token for one in (*aligned.pronoun_starts, *aligned.mention_starts)}
        if not pair.spans:
            break  # all substitutes' texts are this one
    before = _answers(example, set.intersection(*map(set, matched)))
    return Plan(
        row,
        _int([place + 1 - example.answer_start for place in before]),
        tuple(asked),
        _int([[one[place] for place in before] for one in matched]),
        NameTokens.of(moves),
        _int([standing.get(place, -1) for place in before]),
        torch.tensor([first is not None and place + 1 >= first for place in before], dtype=torch.bool),
    )


def name_plan(
    row: int,
    example: Example,
    text: Rendered,
    subject: Subject,
    substitutes: Sequence[str],
    starts: NameStarts,
    limit: int,
) -> Plan | None:
    """The answer's first mention of a subject that the prompt does not name: each word of the name is taught to be what
    the target, on the answer without its prompt, makes of the substitute's earlier words.

    Args as in :func:`swapped_plan`.

    Returns:
        The plan for the first tokens of the name's words; None where there is no such mention, or no word of it has a
        match in all substitutes' names.
    """
    whole = text.prompt + text.answer + text.end
    answer = (text.answer + text.end).lstrip()
    shift = len(whole) - len(answer)
    mentions = [one for one in find_mentions(whole, subject) if one.form != "other"]
    if not mentions or mentions[0].start < shift:
        return None
    own = tokenise(starts.tokenizer, whole, add_special_tokens=text.special)
    asked: list[tuple[int, ...]] = []
    matched: list[dict[int, int]] = []
    for number, name in enumerate(substitutes):
        pair = swap(answer, subject, name, subject.others_for(number))
        span = next((one for one in pair.spans if one.form != "other"), None)
        if span is None or shift + span.start != mentions[0].start:  # a common word where the answer alone begins
            return None
        theirs = tokenise(starts.tokenizer, pair.text)
        asked.append(theirs.ids[:limit])
        ours = _words(whole, shift + span.start, shift + span.end)
        words = _words(pair.text, span.start_swapped, span.end_swapped)
        places = [
            (_token_at(own, old), _token_at(theirs, new), old, new) for old, new in zip(ours, words, strict=False)
        ]
        matched.append(
            {
                p - 1: q - 1
                for p, q, old, new in places
                if own.offsets[p][0] == old and theirs.offsets[q][0] == new and p and 0 < q <= limit
            }
        )
    before = _answers(example, set.intersection(*map(set, matched)))
    if not before:
        return None
    return Plan(
        row,
        _int([place + 1 - example.answer_start for place in before]),
        tuple(asked),
        _int([[one[place] for place in before] for one in matched]),
        NameTokens.of([{} for _ in asked]),
        torch.full((len(before),), -1),
        torch.zeros(len(before), dtype=torch.bool),
    )


def prompted_plan(row: int, example: Example, asked: Example) -> Plan:
    """The target is asked about the same answer after another prompt; ``asked`` with its own prompt again: the target's
    own distributions."""
    count = min(example.answer_length, asked.answer_length)
    while count and example.input_ids[len(example.input_ids) - count :] != asked.input_ids[-count:]:
        count -= 1  # a token that straddles the boundary may differ
    places = torch.arange(example.answer_length - count, example.answer_length)
    at = torch.arange(len(asked.input_ids) - count - 1, len(asked.input_ids) - 1)
    nothing = NameTokens.of([{}])
    standing = torch.full((count,), -1)
    return Plan(
        row, places, (tuple(asked.input_ids),), at[None], nothing, standing, torch.zeros(count, dtype=torch.bool)
    )


def _answers(example: Example, places: set[int]) -> list[int]:
    """Those of the places whose next token is one of the answer."""
    return sorted(p for p in places if example.answer_start <= p + 1 < len(example.input_ids))


def _token_at(tokens: Tokens, place: int) -> int:
    """The first token that reaches beyond a character; the last one where none does."""
    ends = [end for _, end in tokens.offsets]
    return next((number for number, end in enumerate(ends) if end > place), len(ends) - 1)


def _words(text: str, start: int, end: int) -> list[int]:
    """Where the words of a stretch begin."""
    return [start + match.start() for match in re.finditer(r"\S+", text[start:end])]


def _int(values: Sequence[object]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
