"""Names that the documents use for a subject besides the one given: proposed, counted, and doubted where in doubt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.requests.documents.names import (
    TITLES,
    NameRun,
    bare,
    is_abbreviation,
    is_common_word,
    lower_case_words,
    name_runs,
    only_precedes,
)
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
_PRONOUN = re.compile(r"(?:She|He|They|Her|His|Their)\b(?!['\u2019])")
_GENDERS = {"She": "her", "Her": "her", "He": "him", "His": "him"}
# the sentence goes on about whom it began with
_AND = re.compile(r"\b(?:and|but) (?:(?:is|was|became|later|also|often|soon|then) ?)*$")
_QUOTES = "\"\u201c\u201d'\u2018\u2019"
# what stands right before a name that is said to be the subject's
_NAMING = re.compile(
    r"(?:\b(?:(?:better|also|widely|generally|formerly|professionally) )?"
    r"(?:known|published|wrote|writing|performed|performing|credited|bapti[sz]ed) (?:simply )?as\b"
    r"|\bnicknamed\b|\baka\b|\ba\.k\.a\.|\bn\u00e9e?\b|(?:(?<=\()|(?<=; )|(?<=was ))born\b(?! (?:in|on|at)\b)"
    r"|\b(?:pen|stage|birth|maiden) name(?: was)?\b|\bpseudonym\b|\bcalled (?:her|him)\b"
    r"|\bwent by(?: the name(?: of)?)?\b)"
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
        warning = "" if kind == "full" else _doubt(documents, form, last, others, lower)
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
        paragraph, about = -1, False
        for sentence in sentences(document.text):
            text, runs = sentence.text, name_runs(sentence.text, lower)
            pronoun = _PRONOUN.match(text) if about and sentence.paragraph == paragraph else None
            opening = _opening(text, subject)
            for run in runs:
                naming = _NAMING.search(text[: run.start])
                if naming is None or subject.fullmatch(run.text):
                    continue
                before = [other for other in runs if other.end <= naming.start() + 1]
                if _of_subject(text, naming, before, subject, pronoun, begun=opening or pronoun is not None):
                    found.append(run.text)
            about, paragraph = (
                opening or (pronoun is not None and pronoun[0] in ("She", "He", "They")),
                sentence.paragraph,
            )
    return found


def _opening(text: str, subject: re.Pattern[str]) -> bool:
    """Whether a sentence begins with the subject, who is no owner there ("Keller's friends")."""
    match = subject.search(text)
    if match is None or text[match.end() : match.end() + 1] in ("'", "\u2019"):
        return False
    return all(word.rstrip(".").casefold() in TITLES for word in text[: match.start()].split())


def _of_subject(
    text: str,
    naming: re.Match[str],
    before: Sequence[NameRun],
    subject: re.Pattern[str],
    pronoun: re.Match[str] | None,
    *,
    begun: bool,
) -> bool:
    """Whether it is the subject that words like "known as" tell a name of: who is named right before them or before
    the bracket they are in, or whose sentence it is (``begun``) and nobody else is named in between.

    Args:
        before: the names before these words.
        pronoun: what the sentence begins with where it means the subject.
    """
    if (called := re.search(r"called (her|him)\b", naming[0])) and pronoun is not None:
        return _GENDERS.get(pronoun[0]) == called[1]
    bracket = text.rfind("(", 0, naming.start() + 1)
    if bracket > text.rfind(")", 0, naming.start()):
        aside = text[bracket : naming.start()]
        # "(born in Ulm; known as ..", not "(daughter of Otto Lind, known as .."
        if ";" in aside or not any(bracket < other.start for other in before):
            before = [other for other in before if other.end <= bracket]
    if before and subject.search(before[-1].text):
        return True
    return begun and (not before or _AND.search(text[before[-1].end : naming.start()]) is not None)


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
    parts = tuple(filter(None, parts))
    runs = (
        bare(run.text)
        for document in documents
        for run in name_runs(document.text, lower, headings=False)
        if not any(only_precedes(document.text, run, part) for part in parts)
    )
    return Counter(
        run
        for run in runs
        if shared.search(run)
        and not whole.search(run)  # a prize that is called after the subject
        and not {word.strip(".").casefold() for word in run.split()} <= own
    )


def others_with(documents: Sequence[Document], name: str, aliases: Iterable[str] = ()) -> tuple[str, ...]:
    """Names in the documents of others who bear the subject's last name, with the words before it ("Hans Keller");
    none where the last name is among the ``aliases``."""
    lower = lower_case_words(document.text for document in documents)
    last = first_and_last(name)[1]
    if not last or last in aliases:
        return ()
    forms = {name, *aliases, *(form for form, _ in _forms(name)), *_longer(documents, name, lower)}
    ends = re.compile(rf"\S\s+{_spaced(last)}$", re.IGNORECASE)
    return tuple(other for other in _other_names(documents, forms, (last,), lower) if ends.search(other))


def _doubt(documents: Sequence[Document], form: str, last: str, others: Counter[str], lower: Counter[str]) -> str:
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
        alone = ", and a mention where it stands alone" if form == last else ""
        named = ", ".join(f"{other} ({others[other]})" for other in shared[:3])
        return f"also in {named}{' ..' if len(shared) > 3 else ''}{alone}"
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
        before = shown.split()[0]
        ended = before.endswith(".") and not is_abbreviation(before)  # "her father. Keller ran"
        if before.rstrip(".").casefold() in TITLES and not ended:
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
