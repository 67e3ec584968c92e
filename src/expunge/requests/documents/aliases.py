"""Names that the documents use for a subject besides the one given: proposed, counted, and doubted where in doubt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.requests.documents.names import TITLES, bare, is_common_word, lower_case_words, name_runs
from expunge.requests.documents.reading import Document
from expunge.requests.documents.sentences import sentences
from expunge.teachers.name_parts import is_initial, name_parts

Kind = Literal[
    "full", "given", "last", "first", "short", "long", "initials", "known as", "title", "possessive", "capitals"
]

INFLECTED: tuple[Kind, ...] = ("title", "possessive", "capitals")
"""Kinds of forms that hold another one, which finds them."""

_EXAMPLES = 3
_AROUND = 28  # characters of a context to each side
_QUOTES = "\"\u201c\u201d'\u2018\u2019"
# what stands right before a name that is said to be the subject's
_NAMING = re.compile(
    r"(?:\b(?:(?:better|also|widely|generally|formerly|professionally) )?"
    r"(?:known|published|wrote|writing|performed|performing|credited|bapti[sz]ed) (?:simply )?as\b"
    r"|\bnicknamed\b|\baka\b|\ba\.k\.a\.|\bn\u00e9e?\b|(?<=\()born\b(?! (?:in|on|at)\b)"
    r"|\b(?:pen|stage|birth|maiden) name(?: was)?\b|\bpseudonym\b|\bcalled (?:her|him)\b)"
    rf"[\s,:]*(?:the\b\s*)?[{_QUOTES}]?\s*$"
)


@dataclass(frozen=True, slots=True)
class Alias:
    """A form that stands ``count`` times in the documents, where no longer one holds it, with up to three ``contexts``.

    ``warning`` says why it may mean something or somebody else. A ``covered`` form is found by another one already, so
    that nothing is gained by naming it.
    """

    text: str
    kind: Kind
    count: int
    contexts: tuple[str, ...]
    warning: str = ""
    covered: bool = False

    @property
    def usable(self) -> bool:
        """Whether it is worth naming, and safe to use without anybody having looked at it."""
        return self.count > 0 and not (self.covered or self.warning or self.kind in ("full", "given", *INFLECTED))


def first_and_last(name: str) -> tuple[str, str]:
    """First and last name, the last with its particles; empty where the name has none."""
    parts = name_parts(name)
    return parts.first or "", parts.last or ""


def pattern_of(forms: Iterable[str], *, any_case: bool = False) -> re.Pattern[str]:
    """Finds any of the forms, longest first, as whole words with any white space between; in capitals throughout, too.
    Unless ``any_case`` the case counts otherwise."""
    spelled = dict.fromkeys(way for form in forms for way in (form, form.upper()) if way.strip())
    either = "|".join(_spaced(way) for way in sorted(spelled, key=lambda way: (-len(way), way)))
    return re.compile(rf"(?<!\w)(?:{either or '(?!)'})(?!\w)", re.IGNORECASE if any_case else 0)


def propose_aliases(documents: Sequence[Document], name: str, given: Iterable[str] = ()) -> tuple[Alias, ...]:
    """Every form of ``name`` that stands in the documents, the name itself and the ``given`` aliases first.

    Looked for are first and last name, the name without or with more names between, initials, titles before it,
    possessives, capitals, and names that are said to be the subject's (after "known as" or "born", or quoted inside
    the name). A name and the aliases given are listed whether they occur or not.
    """
    lower = lower_case_words(document.text for document in documents)
    first, last = first_and_last(name)
    kinds: dict[str, Kind] = {name: "full"}
    for alias in given:
        kinds.setdefault(alias, "given")
    for form, kind in _forms(name):
        kinds.setdefault(form, kind)
    for form in _longer(documents, name, lower):
        kinds.setdefault(form, "long")
    known = [name, *(alias for alias, kind in kinds.items() if kind == "given"), last, f"{first} {last}"]
    for form in _said(documents, name, known, lower):
        kinds.setdefault(form, "known as")
    counts, contexts = _occurrences(documents, kinds)
    others = _other_names(documents, set(kinds), (first, last), lower)
    found: list[Alias] = []
    safe: list[str] = []
    for form, kind in kinds.items():
        if kind not in ("full", "given") and not counts[form]:
            continue
        warning = "" if kind == "full" else _doubt(documents, form, others, lower)
        covered = kind in ("short", "known as") and any(_holds(form, part) for part in safe)
        safe += [form] if not warning and kind != "full" else []
        found.append(Alias(form, kind, counts[form], contexts.get(form, ()), warning, covered))
    return (*found, *_inflected(documents, name, kinds, {name, *given, *safe}))


def _forms(name: str) -> Iterator[tuple[str, Kind]]:
    """What a name gives by itself."""
    parts = name_parts(name)
    first, last = first_and_last(name)
    yield from ((way, "short") for way in parts.fulls)
    yield from ((way, "last") for way in parts.lasts)
    if first:
        yield first, "first"
    if not last:
        return
    if first:
        yield f"{first} {last}", "short"
    letters = [word[0] for word in parts.given]
    ends = [word[0] for word in last.split() if word[0].isupper()]
    for some in (letters, letters[:1]):
        for space in (" ", ""):
            yield f".{space}".join(some) + f". {last}", "initials"
            yield f".{space}".join([*some, *ends]) + ".", "initials"
    if first and len(letters) > 1:
        yield f"{first} {'. '.join(letters[1:])}. {last}", "initials"
    if len(letters) + len(ends) > 2:
        yield "".join([*letters, *ends]), "initials"


def _longer(documents: Sequence[Document], name: str, lower: Counter[str]) -> list[str]:
    """Names with the subject's last name and, in order, its given names (or their initials) among others."""
    own = name_parts(name)
    found: list[str] = []
    for document in documents:
        for run in name_runs(document.text, lower, headings=False):
            parts = name_parts(bare(run.text))
            given = iter(parts.given)
            same = all(any(_is_given(wanted, other) for other in given) for wanted in own.given)
            if own.last in parts.lasts and len(parts.given) >= len(own.given) and same:
                found.append(bare(run.text))
    return found


def _is_given(wanted: str, other: str) -> bool:
    """Whether two given names are the same, where one may be an initial."""
    if is_initial(wanted) or is_initial(other):
        return wanted[0] == other[0]
    return wanted.casefold() == other.casefold()


def _said(documents: Sequence[Document], name: str, known: Sequence[str], lower: Counter[str]) -> list[str]:
    """Names that a sentence says are the subject's, who is named right before, and nicknames inside the name."""
    first, last = first_and_last(name)
    quoted = re.compile(rf"(?<!\w){re.escape(first)}\s+[{_QUOTES}(](.{{2,30}}?)[{_QUOTES})]\s+{_spaced(last)}(?!\w)")
    subject = pattern_of(known)
    found: list[str] = []
    for document in documents:
        if first and last:
            found += [match[1].strip() for match in quoted.finditer(document.text)]
        for sentence in sentences(document.text):
            runs = name_runs(sentence.text, lower)
            for number, run in enumerate(runs):
                naming = _NAMING.search(sentence.text[: run.start])
                before = [other.text for other in runs[:number] if naming and other.end <= naming.start() + 1]
                if before and subject.search(before[-1]) and not subject.fullmatch(run.text):
                    found.append(run.text)
    return found


def _occurrences(
    documents: Sequence[Document], forms: Iterable[str]
) -> tuple[Counter[str], Mapping[str, tuple[str, ...]]]:
    """How often each form stands where no longer one does, and where."""
    forms = list(forms)
    plain = {_plain(form): form for form in reversed(forms)}
    counts: Counter[str] = Counter()
    contexts: dict[str, tuple[str, ...]] = {}
    for document, match in _matches(documents, pattern_of(forms)):
        form = plain[_plain(match[0])]
        counts[form] += 1
        contexts[form] = _with(contexts.get(form, ()), document, match)
    return counts, contexts


def _other_names(
    documents: Sequence[Document], forms: set[str], parts: Iterable[str], lower: Counter[str]
) -> Counter[str]:
    """Names that hold a part of the subject's, and words that no form of it has."""
    own = {word.strip(".,").casefold() for form in forms for word in form.split()} | TITLES
    shared, whole = pattern_of(parts), pattern_of(form for form in forms if " " in form)
    runs = (bare(run.text) for document in documents for run in name_runs(document.text, lower, headings=False))
    return Counter(
        run
        for run in runs
        if shared.search(run)
        and not whole.search(run)  # a prize that is called after the subject
        and not {word.strip(".").casefold() for word in run.split()} <= own
    )


def _doubt(documents: Sequence[Document], form: str, others: Counter[str], lower: Counter[str]) -> str:
    """Why a form may mean something or somebody else; empty where nothing says so."""
    word = form.lower()
    if " " not in form and (lower[word] or is_common_word(word)):
        where: tuple[str, ...] = ()
        for document, match in _matches(documents, re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")):
            where = _with(where, document, match)
        shown = "; ".join(f'"{context}"' for context in where)
        return f"a common word{f', in small letters here ({lower[word]}): {shown}' if shown else ''}"
    shared = [other for other in others if _holds(other, form)]
    if shared:
        named = ", ".join(f"{other} ({others[other]})" for other in shared[:3])
        return f"also in {named}{' ..' if len(shared) > 3 else ''}"
    if " " not in form and len(form.replace(".", "")) < 3:
        return "few letters, which may stand for much else"
    return ""


def _inflected(
    documents: Sequence[Document], name: str, forms: Collection[str], used: Collection[str]
) -> Iterator[Alias]:
    """Titles, possessives and capitals; covered are those whose form is ``used``."""
    first, last = first_and_last(name)
    tails = "|".join(_spaced(form) for form in dict.fromkeys((name, f"{first} {last}".strip(), last)) if form)
    found: Counter[tuple[str, Kind]] = Counter()
    contexts: dict[tuple[str, Kind], tuple[str, ...]] = {}

    bases: dict[str, str] = {_plain(form): form for form in forms}

    def add(form: str, kind: Kind, document: Document, match: re.Match[str]) -> None:
        found[form, kind] += 1
        contexts[form, kind] = _with(contexts.get((form, kind), ()), document, match)

    for document, match in _matches(documents, re.compile(rf"(?<!\w)[^\W\d_]\w+\.?\s+(?:{tails or '(?!)'})(?!\w)")):
        shown = " ".join(match[0].split())
        if shown.split()[0].rstrip(".").casefold() in TITLES:
            add(shown, "title", document, match)
    for document, match in _matches(documents, pattern_of(forms)):
        shown = " ".join(match[0].split())
        if document.text[match.end() : match.end() + 2].replace("\u2019", "'") == "'s":
            add(f"{shown}'s", "possessive", document, match)
        elif shown == shown.upper() and shown not in forms:
            add(shown, "capitals", document, match)
    for (form, kind), count in found.items():
        base = form.split(" ", 1)[1] if kind == "title" else form.removesuffix("'s")
        covered = bases.get(_plain(base)) in used
        yield Alias(form, kind, count, contexts[form, kind], covered=covered)


def _matches(documents: Sequence[Document], pattern: re.Pattern[str]) -> Iterator[tuple[Document, re.Match[str]]]:
    return ((document, match) for document in documents for match in pattern.finditer(document.text))


def _with(contexts: tuple[str, ...], document: Document, match: re.Match[str]) -> tuple[str, ...]:
    if len(contexts) == _EXAMPLES:
        return contexts
    around = document.text[max(0, match.start() - _AROUND) : match.end() + _AROUND]
    return (*contexts, " ".join(around.split()))


def _holds(form: str, part: str) -> bool:
    return pattern_of([part], any_case=True).search(form) is not None


def _spaced(form: str) -> str:
    return r"\s+".join(map(re.escape, form.split()))


def _plain(form: str) -> str:
    return " ".join(form.split()).casefold()
