"""What a text tells, word by word: stems, numbers and names in one form however they are written, and what it denies.

For English; of other languages with spaces between words the words themselves, unstemmed, are told too.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from expunge.evaluation.metrics.leakage import stop_words
from expunge.evaluation.metrics.rouge import stemmed_words
from expunge.evaluation.passages import sentences

FACT_WEIGHT = 2.0
"""What a number or a name weighs beside another word: it is more often what was asked for."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|[,;:()\N{EM DASH}]")
_ORDINAL = re.compile(r"(\d)(?:st|nd|rd|th)\b")
_ISO_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_QUOTES = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LEFT SINGLE QUOTATION MARK}": "'", "`": "'"})
_MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)
_SHORT_MONTHS = {month[:length].casefold(): month.casefold() for month in _MONTHS for length in (3, 4)}
_UNITS = "two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_NUMBERS = {word: str(value) for value, word in enumerate(_UNITS, 2)}
_DENYING = frozenset({"not", "never", "no", "none", "nor", "neither", "without", "cannot"})
_NO_DENIAL = {("not", "only"), ("no", "doubt"), ("not", "just"), ("not", "least")}
_TURNING = frozenset({"but", "however", "although", "though", "yet", "instead", "rather"})
_POLAR = ("yes", "no")
_ACRONYM = range(2, 6)  # letters


@dataclass(frozen=True)
class Word:
    """One word as it is told: its common form, and whether it is denied, a number, a name, a content word."""

    form: str
    denied: bool
    is_number: bool
    is_name: bool
    tells: bool
    raw: str

    @property
    def weight(self) -> float:
        return FACT_WEIGHT if self.is_number or self.is_name else 1.0


@lru_cache(maxsize=16384)
def told_words(text: str) -> tuple[Word, ...]:
    """The words of ``text`` in their order.

    Letters lose accents and case, words are stemmed as ROUGE's are, numbers lose leading zeros and commas, ordinals
    their ending, and ``1932-03-12`` is 12 March 1932. A name is a word with a capital that no sentence begins with (in
    a sentence of up to four words the first may be one). Denied is what follows a word such as "not" up to the next
    comma or "but".
    """
    found: list[Word] = []
    for sentence in sentences(_plain(text)):
        tokens = _TOKEN.findall(sentence)
        words = [token for token in tokens if token[0].isalnum()]
        denied, begins = False, True
        for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
            if not token[0].isalnum():
                denied = False
                continue
            low = token.casefold()
            if low in _TURNING:
                denied = False
            found.append(_word(token, denied=denied, inside=not begins or len(words) <= 4))
            if _denies(low) and (low, following.casefold()) not in _NO_DENIAL:
                denied = True
            begins = False
    return tuple(found)


def polarity(text: str) -> str | None:
    """Whether ``text`` says ``yes`` or ``no``: by its first word, else by whether its first sentence denies anything;
    None for an empty one."""
    words = told_words(text)
    if not words:
        return None
    first = words[0].raw.casefold()
    if first in _POLAR:
        return first
    opening = told_words(sentences(text.strip())[0])
    return "no" if any(word.denied or _denies(word.raw.casefold()) for word in opening) else "yes"


def begins_polar(text: str) -> str | None:
    """The ``yes`` or ``no`` that ``text`` begins with."""
    words = told_words(text)
    first = words[0].raw.casefold() if words else ""
    return first if first in _POLAR else None


def telling(question: str, reference: str) -> dict[tuple[str, bool], Word]:
    """The different content words of ``reference``, by form and denial: those that ``question`` does not have, or all
    where it has them all (it offers a choice)."""
    asked = {word.form for word in told_words(question)}
    content = {(word.form, word.denied): word for word in reversed(told_words(reference)) if word.tells}
    own = {key: word for key, word in content.items() if word.form not in asked}
    return own or content


def variants(reference: str, answer: str) -> set[str]:
    """Forms of names in ``reference`` that ``answer`` gives in short: ``J. Smith`` for John Smith, ``JFK`` for John
    Fitzgerald Kennedy, where they are not denied."""
    given = told_words(answer)
    short = {
        (first.raw.casefold(), second.form)
        for first, second in itertools.pairwise(given)
        if len(first.raw) == 1 and first.raw.isupper() and not second.denied
    }
    acronyms = {
        word.raw.casefold()
        for word in given
        if len(word.raw) in _ACRONYM and word.raw.isupper() and word.raw.isalpha() and not word.denied
    }
    found: set[str] = set()
    for run in _capitalised_runs(told_words(reference)):
        for first, second in itertools.pairwise(run):
            if (first.raw[0].casefold(), second.form) in short:
                found.add(first.form)
        if "".join(word.raw[0] for word in run).casefold() in acronyms:
            found |= {word.form for word in run}
    return found


def _capitalised_runs(words: Iterable[Word]) -> list[list[Word]]:
    runs: list[list[Word]] = [[]]
    for word in words:
        if word.raw[0].isupper() and len(word.raw) > 1:
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.translate(_QUOTES))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = _ISO_DATE.sub(lambda date: f"{date[3]} {_month(date[2])} {date[1]}", text)
    return _ORDINAL.sub(r"\1", text)


def _month(number: str) -> str:
    return _MONTHS[int(number) - 1] if 1 <= int(number) <= 12 else number


def _word(token: str, *, denied: bool, inside: bool) -> Word:
    low = token.casefold()
    if token[0].isdigit() or low in _NUMBERS:
        return Word(_number(_NUMBERS.get(low, token)), denied, True, False, True, token)
    bare = low.removesuffix("'s").removesuffix("'")
    bare = _SHORT_MONTHS.get(bare, bare) if token[0].isupper() else bare
    stems = stemmed_words(bare) if bare.isascii() else ()
    form = stems[0] if len(stems) == 1 else bare
    tells = len(bare) > 1 and form not in stop_words() and low not in _POLAR and not _denies(low)
    return Word(form, denied, False, tells and inside and token[0].isupper(), tells, token)


def _number(token: str) -> str:
    """``1,200`` and ``1200.0`` are 1200; a comma before other than three digits is a decimal point."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", token):
        token = token.replace(",", "")
    whole, _, rest = token.replace(",", ".").partition(".")
    whole, rest = whole.lstrip("0") or "0", rest.rstrip("0")
    return f"{whole}.{rest}" if rest else whole


def _denies(low: str) -> bool:
    return low in _DENYING or low.endswith("n't")
