"""Who and what else the documents name: by rule, or with a model that tags names where one is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from expunge.errors import ConfigError, ModelError
from expunge.requests.documents.aliases import pattern_of
from expunge.requests.documents.names import bare, lower_case_words, name_runs
from expunge.requests.documents.reading import Document
from expunge.requests.documents.sentences import sentences

Finder = Callable[[str], list[str]]
"""Names in a text, in its order, each as often as it occurs."""

_EXAMPLES = 2
_SPACY = "spacy:"
_NOT_NAMES = frozenset({"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME", "LANGUAGE"})


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entity that is not the subject, how often the documents name it, and the first sentences that do."""

    name: str
    count: int
    contexts: tuple[str, ...]


def find_neighbours(
    documents: Sequence[Document], own: Iterable[str], forms: Iterable[str], finder: Finder | None = None
) -> tuple[Neighbour, ...]:
    """The names in the documents that are not among the subject's ``own`` and hold none of its ``forms``, the most
    frequent first. A last name that the subject shares is among its own and not among its forms.

    ``finder`` (see :func:`make_finder`) finds the names; without it they are runs of capitalised words.
    """
    subject, names_of_subject = pattern_of(forms, any_case=True), pattern_of(own, any_case=True)
    find = finder or by_rule(documents)
    counts: Counter[str] = Counter()
    contexts: dict[str, tuple[str, ...]] = {}
    for document in documents:
        for name in find(document.text):
            name = bare(" ".join(name.split()))
            if not (subject.search(name) or names_of_subject.fullmatch(name)):
                counts[name] += 1
    names = {name: pattern_of([name]) for name in counts}
    for document in documents:
        for sentence in sentences(document.text):
            for name, pattern in names.items():
                if len(contexts.get(name, ())) < _EXAMPLES and pattern.search(sentence.text):
                    contexts[name] = (*contexts.get(name, ()), sentence.text)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(Neighbour(name, counts[name], contexts.get(name, ())) for name in ranked)


def by_rule(documents: Sequence[Document]) -> Finder:
    """A finder of capitalised words side by side; the documents tell which words are common."""
    lower = lower_case_words(document.text for document in documents)
    return lambda text: [run.text for run in name_runs(text, lower, headings=False)]


def make_finder(text: str | None) -> Finder | None:
    """The finder called ``text``: ``spacy:NAME`` for a pipeline of spaCy, else the folder or hub id of a
    token-classification model of transformers; None for none.

    Raises:
        ConfigError: spaCy or its pipeline is not installed.
        ModelError: the model cannot be loaded.
    """
    if text is None:
        return None
    return _spacy(text.removeprefix(_SPACY)) if text.startswith(_SPACY) else _token_model(text)


def _spacy(name: str) -> Finder:
    try:
        spacy: Any = import_module("spacy")
    except ImportError:
        raise ConfigError(
            f"request.tagger={_SPACY}{name}: spaCy is not installed. pip install spacy, or leave request.tagger out: "
            "names are then found by rule."
        ) from None
    try:
        pipeline = spacy.load(name)
    except OSError as error:
        raise ConfigError(
            f"request.tagger={_SPACY}{name}: spaCy has no pipeline of that name here ({error}). "
            f"python -m spacy download {name}"
        ) from error
    return lambda text: [one.text for one in pipeline(text).ents if one.label_ not in _NOT_NAMES]


def _token_model(source: str) -> Finder:
    from expunge.guards.tagging import TokenModel

    model = TokenModel(source)

    def find(text: str) -> list[str]:
        spans: list[tuple[int, int]] = []
        for begin, end in model.text_spans(text):
            # pieces of a word, and words side by side, are one name
            if spans and not text[spans[-1][1] : begin].strip(" "):
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((begin, end))
        return [text[begin:end].strip() for begin, end in spans]

    try:
        find("A name.")
    except ModelError as error:
        raise ModelError(f"request.tagger: {error}") from error
    return find
