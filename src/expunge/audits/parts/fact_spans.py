"""Which tokens of an answer are its fact: those in which it differs from a wrong answer, or those of a given text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.data.encode import Example, encode, encode_all
from expunge.data.template import Template
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_EDGES = " .,;:!?\"'"


def difference(right: Sequence[Any], wrong: Sequence[Any]) -> tuple[int, int]:
    """Where ``right`` is unlike ``wrong``: its first token after the common beginning, and the first of the common end.

    Example: ``difference([1, 2, 3, 9], [1, 7, 7, 9])`` is ``(1, 3)``; equal where ``right`` has nothing of its own.
    """
    shorter = min(len(right), len(wrong))
    first = next((n for n in range(shorter) if right[n] != wrong[n]), shorter)
    left = shorter - first  # what begins alike cannot end alike as well
    same = next((n for n in range(left) if right[-1 - n] != wrong[-1 - n]), left)
    return first, len(right) - same


def place_of(text: str, answer: str) -> int | None:
    """Where ``text`` stands in ``answer`` as whole words, with no letter or digit on either side (those of scripts that
    put no space between words apart); None: nowhere.

    Example: ``place_of("Paris", "The Parisian left Paris.")`` is 18.
    """
    beside = rf"[^\W_{_UNSPACED}]"
    found = re.search(rf"(?<!{beside}){re.escape(text)}(?!{beside})", answer) if text else None
    return None if found is None else found.start()


def fact_span(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    row: Row,
    example: Example,
    facts: Sequence[str] = (),
    *,
    max_length: int = 512,
) -> tuple[int, int] | None:
    """The first token of the fact in ``example``, the encoded ``row``, and the first one after it.

    The first of ``facts`` that stands in the answer as whole words is the fact; else the shortest difference from one
    of the row's wrong answers, which is what makes the answer right and not how it is worded. Wrong answers are often
    worded as the paraphrase is: what that does not share with them is looked for in the answer, too. None: the row
    tells neither, or the fact was cut away with the answer's end.
    """
    answer = example.input_ids[example.answer_start :]
    given = next((fact for fact in facts if place_of(fact, row.answer) is not None), None)

    def located(text: str) -> tuple[int, int]:
        begin = place_of(text, row.answer) or 0
        first = _shared(tokenizer, template, row, answer, begin, max_length)[0]
        end, whole = _shared(tokenizer, template, row, answer, begin + len(text), max_length)
        return first, end if whole else end + 1

    if given is not None:
        spans = [located(given)]
    else:
        wrong = [row.with_answer(text) for text in row.wrong_answers]
        others = encode_all(tokenizer, template, wrong, max_length=max_length)
        spans = [difference(answer, other.input_ids[other.answer_start :]) for other in others]
        spans += [
            located(text) for text in dict.fromkeys(_of_paraphrase(row)) if place_of(text, row.answer) is not None
        ]
    inside = [span for span in spans if span[0] < min(span[1], len(answer))]
    if not inside:
        return None
    first, end = min(inside, key=lambda span: span[1] - span[0])
    return example.answer_start + first, example.answer_start + min(end, len(answer))


def _of_paraphrase(row: Row) -> list[str]:
    """What the paraphrased answer has and a wrong one has not, for each wrong one."""
    words, found = (row.paraphrased_answer or "").split(), []
    for wrong in row.wrong_answers:
        first, end = difference(words, wrong.split())
        found.append(" ".join(words[first:end]).strip(_EDGES))
    return found


def _shared(
    tokenizer: PreTrainedTokenizerBase, template: Template, row: Row, answer: Sequence[int], end: int, max_length: int
) -> tuple[int, bool]:
    """With how many tokens ``answer`` begins as its text up to the character ``end`` does, and whether these are all
    of that text's tokens."""
    text = row.answer[:end].rstrip()
    if not text:
        return 0, True
    part = encode(tokenizer, template, row.with_answer(text), max_length=max_length)
    ids = part.input_ids[part.answer_start :]
    ids = ids[:-1] if part.has_end else ids
    same = next((n for n, (a, b) in enumerate(zip(answer, ids, strict=False)) if a != b), min(len(answer), len(ids)))
    return same, same == len(ids)
