"""Texts in chunks of whole sentences, and without pronunciations that are spelled out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from expunge.errors import ConfigError, EncodingError
from expunge.teachers.name_parts import word_set

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
_Fits = Callable[[int, int], bool]

_ABBREVIATIONS = word_set(
    "mr mrs ms mx dr prof st sr jr vs cf ed eds approx inc ltd co corp gen col lt sgt capt rev hon gov sen rep pres "
    "dept univ jan feb mar apr jun jul aug sep sept oct nov dec mt ft ave b d né née fl nee lit trans ser ph.d e.g "
    "i.e"
)
_BEFORE_NUMBERS = word_set("no nos vol vols fig figs p pp c ca op")
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_END = re.compile(
    r"(?P<stop>[.!?…]+)[\"'”’»)\]]*(?=\s)"  # noqa: RUF001
    r"|(?<=[a-zà-ÿ]{2})\.(?=[A-Z][a-z])"  # two sentences run together
    r"|[。！？]+[」』”’）]*"  # noqa: RUF001
    r"|(?=\n[^\S\n]*\n)"  # an empty line
)
_HEADINGS = re.compile(r"(?:(?:=+[^=\n]+=+|#+[^\n]*)\s*)+")
_PHONETIC = re.compile("[\u0250-\u02b8\u02c0-\u02ff\u1d00-\u1dbf]")
_SOUND = r"(?:\[[^\]\n]{1,120}\]|(?<![\w/])/[^/\n]{1,80}/(?![\w/]))"
_SPELLED_OUT = re.compile(
    r"(?:(?P<label>(?:(?:[A-Z]\w+ ){0,2}[Pp]ronunciation|[Pp]ronounced|IPA):?)\s*|(?:[A-Z]\w+ )?[A-Z]\w+:\s*)?"
    rf"{_SOUND}(?:\s*(?:,|;|or)\s*{_SOUND})*"
)


def sentence_spans(text: str) -> tuple[Span, ...]:
    """The (start, end) of each sentence, without the white space between them.

    Abbreviations, initials ("J. R. Smith") and numbers end none, nor does a single line break; an empty line ends one
    without a full stop. Headings of Wikipedia and Markdown belong to the sentence after them.
    """
    spans: list[Span] = []
    heading: int | None = None  # where headings begin that wait for their sentence
    for start, end in pairwise([0, *_ends(text), len(text)]):
        start, end = _stripped(text, start, end)
        if start == end:
            continue
        start, heading = (start if heading is None else heading), None
        if _HEADINGS.fullmatch(text, start, end):
            heading = start
        else:
            spans.append((start, end))
    if heading is not None:
        spans[-1:] = [(spans[-1][0] if spans else heading, len(text.rstrip()))]
    return tuple(spans)


def chunks(
    text: str,
    sentences: int | None = 3,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int | None = None,
) -> tuple[Span, ...]:
    """The (start, end) of chunks of consecutive sentences, which leave out nothing but white space between them.

    Args:
        sentences: how many each has at most; None: as many as ``max_tokens`` allow.
        tokenizer: counts tokens, special ones included.
        max_tokens: what a chunk may take. A longer sentence is cut between words, or within one that is longer still.
            Leave room for what is put before a chunk and for names that take more tokens than the subject's.

    Raises:
        ConfigError: no limit at all, a limit below 1, or ``max_tokens`` without a tokenizer.
        EncodingError: a single character takes more than ``max_tokens``.
    """
    if sentences is None and max_tokens is None:
        raise ConfigError("chunks of no limit are asked for. Pass how many sentences or tokens each may have.")
    if (sentences is not None and sentences < 1) or (max_tokens is not None and max_tokens < 1):
        raise ConfigError(f"chunks of {sentences} sentences and {max_tokens} tokens cannot be made. Pass at least 1.")
    if max_tokens is not None and tokenizer is None:
        raise ConfigError(f"chunks of at most {max_tokens} tokens need the tokenizer that counts them. Pass it.")

    def fits(start: int, end: int) -> bool:
        if max_tokens is None or tokenizer is None:
            return True
        return len(tokenizer(text[start:end], verbose=False)["input_ids"]) <= max_tokens

    result: list[Span] = []
    held = 0
    for start, end in (piece for span in sentence_spans(text) for piece in _pieces(text, *span, fits)):
        if result and (sentences is None or held < sentences) and fits(result[-1][0], end):
            result[-1] = (result[-1][0], end)
            held += 1
        else:
            result.append((start, end))
            held = 1
    return tuple(result)


def without_spelled_out(text: str) -> str:
    """``text`` without pronunciations: bracketed or slashed stretches that hold phonetic letters or are called so.

    What names them ("Italian pronunciation:") goes with them, and brackets that held nothing else; the rest of a
    bracket stays.
    """
    left, right = "", text
    while match := _SPELLED_OUT.search(right):
        if match["label"] is None and not _PHONETIC.search(match[0]):
            left, right = left + right[: match.end()], right[match.end() :]
        else:
            left, right = _without_between(left + right[: match.start()], right[match.end() :])
    return left + right


def _without_between(left: str, right: str) -> tuple[str, str]:
    """Both sides of what was taken out, without the brackets and separators that it needed."""
    bare = left.rstrip()
    if bare.endswith("("):
        right = right.lstrip(" ,;")
        return (bare[:-1].rstrip(" "), right[1:]) if right.startswith(")") else (bare, right)
    if right.startswith((")", ",", ";", ".", ":")):
        return bare.rstrip(",;"), right
    if left.endswith(" ") and right[:1] in ("", " "):
        return left.rstrip(" "), right
    return left, right


def _ends(text: str) -> Iterator[int]:
    for match in _END.finditer(text):
        if match["stop"] is None or not _goes_on(text, match):
            yield match.end()


def _goes_on(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop ends no sentence."""
    after = text[match.end() :][:80].lstrip()
    if after[:1].islower():
        return True
    if match["stop"] != ".":
        return False
    line = text[: match.start()][-80:].rpartition("\n")[2]
    word = (line.split() or [""])[-1].lstrip("([\"'“‘«")  # noqa: RUF001
    if word.isdecimal() and word == line.strip():  # the number of an item in a list
        return True
    known = word.casefold() in _ABBREVIATIONS or (word.casefold() in _BEFORE_NUMBERS and after[:1].isdecimal())
    return known or (_INITIALS.fullmatch(word) is not None and word[0].isupper())


def _stripped(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    if not piece.strip():
        return start, start
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _pieces(text: str, start: int, end: int, fits: _Fits) -> Iterator[Span]:
    """The span, halved at spaces until each piece fits."""
    if fits(start, end):
        yield start, end
        return
    if end - start < 2:
        raise EncodingError(
            f"the character {text[start:end]!r} alone takes more tokens than a chunk may have. Raise max_tokens."
        )
    middle = (start + end) // 2
    spaces = (place for place in range(start + 1, end - 1) if text[place].isspace())
    cut = min(spaces, key=lambda place: abs(place - middle), default=middle)
    for part in ((start, cut), (cut, end)):
        yield from _pieces(text, *_stripped(text, *part), fits)
