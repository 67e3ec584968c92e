"""Names that are words of the language too ("Will", "Rose"), and where a capital letter does not tell them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from expunge.teachers.name_parts import is_initial, is_title

_WORD = re.compile(r"[^\W\d_]\w*")
_LAST_WORD = re.compile(r"([^\W\d_]\w*)\.\s*$")
_LONG = 5  # letters of a title that is not abbreviated
_ENDS = frozenset(".!?:;\u2026\"\u201c\u201d'\u2018([<>]|*#\u00ab\u00bb\n")


def common_names(names: Iterable[str], texts: Iterable[str]) -> tuple[str, ...]:
    """Those of the names of one word that the texts have in small letters at least as often as with a capital within a
    sentence. Where one begins a sentence, it may as well be the word."""
    wanted = {name.lower(): name for name in names if _WORD.fullmatch(name)}
    small: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for text in texts:
        for match in _WORD.finditer(text):
            word = match[0].lower()
            if word not in wanted:
                continue
            small[word] += match[0].islower()
            capital[word] += not match[0].islower() and not opens_sentence(text, match.start())
    return tuple(name for word, name in wanted.items() if small[word] and small[word] >= capital[word])


def opens_sentence(text: str, start: int) -> bool:
    """Whether what stands at ``start`` begins a sentence, a line or a quotation: nothing but a title or an initial
    ends with a full stop within a sentence."""
    before = text[max(0, start - 40) : start].rstrip(" \t\u00a0")
    if not before:
        return True
    stopped = _LAST_WORD.search(before)
    short = stopped is not None and (is_initial(stopped[1]) or (is_title(stopped[1]) and len(stopped[1]) < _LONG))
    return before[-1] in _ENDS and not short
