"""Answers to reading questions in MLQA's languages: their normal form, and what a short answer shares with another.

After the description of MLQA's metrics (arXiv 1910.07475, section 5): lower case, no punctuation of any script, no
stand-alone articles of the language, and for Chinese every character a word of its own.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.requests.rows import Row

_ARTICLES: dict[str, str] = {
    "ar": "",  # a prefix: below
    "de": "ein eine einen einem eines einer der die das den dem des",
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "hi": "",
    "vi": "của là cái chiếc những",
    "zh": "",
}
LANGUAGES = tuple(_ARTICLES)

_CHINESE = re.compile(r"([\u4e00-\u9fa5])")


@dataclass(frozen=True, slots=True)
class ReadingRow(Row):
    """A question about a passage; ``accepted`` are all its right answers (``answer`` is the first), ``language`` their
    language."""

    language: str = "en"
    accepted: tuple[str, ...] = ()

    @property
    def right(self) -> tuple[str, ...]:
        return self.accepted or (self.answer,)


def words_of(text: str, language: str) -> tuple[str, ...]:
    """The words of an answer in its normal form.

    MLQA's published scores take Arabic's article (ال) off wherever it stands, inside a word too, and so does this.
    """
    plain = "".join(char for char in text.lower() if not _is_punctuation(char))
    if language == "ar":
        plain = plain.replace("ال", " ")
    elif _ARTICLES[language]:
        articles = "|".join(_ARTICLES[language].split())
        plain = re.sub(rf"\b(?:{articles})\b", " ", plain)
    elif language == "zh":
        plain = _CHINESE.sub(r" \1 ", plain)
    return tuple(plain.split())


def first_line(answer: str) -> str:
    """The answer itself: a model that was not told to stop goes on with another question on a new line."""
    return answer.strip().partition("\n")[0].strip()


def contains(words: Sequence[str], part: Sequence[str]) -> bool:
    """Whether ``part`` stands in ``words`` in one piece; an empty part only in empty words."""
    if not part:
        return not words
    return any(tuple(words[i : i + len(part)]) == tuple(part) for i in range(len(words) - len(part) + 1))


def f1(words: Sequence[str], right: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words, each counted as often as it stands there; 0 without any in
    common."""
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right)) if common else 0.0


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P") or char in string.punctuation
