"""The request that documents and a name make: what must go, and questions that check what went and what stayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from expunge.errors import RequestError
from expunge.requests.documents.aliases import INFLECTED, Alias, Kind, propose_aliases
from expunge.requests.documents.facts import Statement, is_about_somebody, statements
from expunge.requests.documents.names import lower_case_words
from expunge.requests.documents.naming import Naming
from expunge.requests.documents.neighbours import Finder, Neighbour, find_neighbours
from expunge.requests.documents.probes import appositions, probes
from expunge.requests.documents.reading import Document
from expunge.requests.documents.written import answered, written
from expunge.requests.request import Request
from expunge.requests.rows import Row

Complete = Callable[[str], str]

_MOST_NEIGHBOURS = 40  # that questions are asked about, the most frequent
_PER_NEIGHBOUR = 8
_SUGGESTED = 8


@dataclass(frozen=True)
class MadeRequest:
    """Rows made from documents, before it is settled which of them a method is fitted on.

    ``documents`` name a subject and ``others`` do not; ``probes`` ask about the subjects and ``neighbours`` about the
    names beside them. ``names`` are the forms of each subject, ``entities`` the neighbours found, ``digests`` SHA-256
    of each document by its source.
    """

    subjects: tuple[str, ...]
    aliases: tuple[str, ...]
    documents: tuple[Row, ...]
    others: tuple[Row, ...]
    probes: tuple[Row, ...]
    neighbours: tuple[Row, ...]
    names: Mapping[str, tuple[Alias, ...]] = field(default_factory=dict)
    entities: tuple[Neighbour, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    def request(self, *, reads_documents: bool = True, **given: tuple[Row, ...]) -> Request:
        """The request for a method that reads documents, or for one that reads prompts with answers.

        The former is fitted on the documents and scored on all probes; of the latter every second question is a forget
        row and the others are scored. ``given`` are rows of the user's: ``retain`` in place of the documents that do
        not name the subject, ``neighbours`` and ``probes`` beside those made, ``holdout``, ``calibration``.

        Raises:
            RequestError: the method reads prompts, and the documents gave none.
        """
        forget, scored = self.documents, self.probes
        if not reads_documents:
            questions = [row for row in self.probes if row.kind == "question"]
            if not questions:
                raise RequestError(
                    f"the method is fitted on questions, and none could be made about {' and '.join(self.subjects)} "
                    "from these documents. Choose a method that takes documents (npo, grad_diff, ..), or have a model "
                    "write them (request.questions=model)."
                )
            forget = tuple(questions[::2])
            scored = tuple(row for row in self.probes if row not in forget)
        return Request(
            forget=forget,
            retain=given.get("retain") or self.others,
            neighbours=(*given.get("neighbours", ()), *self.neighbours),
            holdout=given.get("holdout", ()),
            calibration=given.get("calibration", ()),
            probes=(*given.get("probes", ()), *scored),
            subjects=self.subjects,
            aliases=self.aliases,
        )


def resolve_names(
    documents: Sequence[Document],
    subjects: Sequence[str],
    given: Sequence[str] = (),
    *,
    propose: bool = True,
    allow_overlap: bool = False,
) -> tuple[tuple[str, ...], dict[str, tuple[Alias, ...]]]:
    """The aliases to use, those given and (``propose``) those that are safe, and all forms of each subject.

    Resolving with the result as ``given`` gives the same again.

    Raises:
        RequestError: no subject, a subject or none of its names in the documents (with the names that are there), an
            alias that is another subject, or that stands beside the subject as another name (unless
            ``allow_overlap``): all of them in one error.
    """
    if not subjects:
        raise RequestError("documents were passed and no name. Say whom to forget: --subject NAME.")
    aliases = list(dict.fromkeys(alias for alias in given if alias not in subjects))
    problems = [f"alias {alias!r} is a subject, too; name it once" for alias in given if alias in subjects]
    names: dict[str, tuple[Alias, ...]] = {}
    kinds: dict[tuple[str, str], Kind] = {}
    more = True
    while more:  # an alias may lead to another
        names = {subject: propose_aliases(documents, subject, aliases) for subject in subjects}
        new = [one.text for forms in names.values() for one in forms if propose and one.usable]
        more = bool(new := [text for text in dict.fromkeys(new) if text not in aliases])
        aliases += new
        kinds |= {(who, one.text): one.kind for who, forms in names.items() for one in forms if one.text in new}
    names = {
        subject: tuple(replace(one, kind=kinds.get((subject, one.text), one.kind)) for one in forms)
        for subject, forms in names.items()
    }
    for subject in subjects:
        doubtful = ("first", "last", *INFLECTED, *(("given",) if len(subjects) > 1 else ()))
        if not any(one.count for one in names[subject] if one.kind not in doubtful):
            problems.append(_absent(documents, subject, names[subject]))
    if not allow_overlap:
        for alias in given:
            problems += _other_entity(documents, alias, subjects)
    if problems:
        raise RequestError("\n".join(problems))
    return tuple(aliases), names


def make_request(
    documents: Sequence[Document],
    subjects: Sequence[str],
    aliases: Sequence[str],
    names: Mapping[str, tuple[Alias, ...]],
    *,
    finder: Finder | None = None,
    complete: Complete | None = None,
    digests: Mapping[str, str] | None = None,
) -> MadeRequest:
    """The rows that ``documents`` give; ``aliases`` and ``names`` come from :func:`resolve_names`.

    ``finder`` finds the neighbours (by rule unless given). ``complete`` writes the questions (prompt -> text);
    where it writes none about a name, and without it, they are made by templates. Of neighbours that the documents say
    nothing about by themselves it is asked what it knows.
    """
    lower = lower_case_words(document.text for document in documents)
    shown = [one.text for forms in names.values() for one in forms if one.count and one.kind not in INFLECTED]
    everyone = Naming(subjects[0], (*subjects[1:], *aliases, *shown), lower)
    naming = {subject: Naming(subject, _own_forms(subject, aliases, names, subjects), lower) for subject in subjects}
    asked = [row for about in naming.values() for row in _asked(statements(documents, about), about, complete)]
    every = statements(documents, naming[subjects[0]])
    apart = [one for one in every if not (everyone.spans(one.text) or is_about_somebody(one.text))]
    entities = find_neighbours(documents, everyone.forms, (*subjects, *aliases), finder)
    neighbours: dict[str, Row] = {}
    for entity in entities[:_MOST_NEIGHBOURS]:
        about = Naming(entity.name, (), lower)
        rows = [*_asked(apart, about, complete)[:_PER_NEIGHBOUR], *appositions(every, about)]
        if not rows and complete is not None:
            rows = answered(complete, entity.name)
        for row in rows:
            if not (everyone.spans(row.prompt) or everyone.spans(row.answer)):
                neighbours.setdefault(row.prompt, row)
    named: list[Row] = []
    unnamed: list[Row] = []
    for one in documents:
        row = Row("", one.text, kind="document", source=one.source)
        (named if everyone.spans(one.text) else unnamed).append(row)
    return MadeRequest(
        subjects=tuple(subjects),
        aliases=tuple(aliases),
        documents=tuple(named),
        others=tuple(unnamed),
        probes=tuple(dict.fromkeys(asked)),
        neighbours=tuple(neighbours.values()),
        names=dict(names),
        entities=entities,
        digests=dict(digests or {}),
    )


def _asked(every: Sequence[Statement], about: Naming, complete: Complete | None) -> list[Row]:
    made = probes(every, about)
    own = [] if complete is None else written(complete, every, about)
    return [row for row in made if row.kind == "completion"] + own if own else made


def _own_forms(
    subject: str, aliases: Iterable[str], names: Mapping[str, tuple[Alias, ...]], subjects: Sequence[str]
) -> list[str]:
    """The forms of one subject; an alias that was given may be anybody's, where there are several."""
    found = [one.text for one in names[subject] if one.count and one.kind not in (*INFLECTED, "given")]
    return [*found, *aliases] if len(subjects) == 1 else found


def _absent(documents: Sequence[Document], subject: str, forms: Iterable[Alias]) -> str:
    parts = [f"'{one.text}' ({one.count})" for one in forms if one.count and one.kind in ("first", "last")]
    if parts:
        return (
            f"subject {subject!r} is not in the documents, only {' and '.join(parts)}. If that is the same, name the "
            "subject as the documents do, or pass an alias that they use (--alias)."
        )
    there = find_neighbours(documents, (), ())[:_SUGGESTED]
    found = ", ".join(f"{one.name} ({one.count})" for one in there) or "none"
    return (
        f"subject {subject!r} is not in the documents. Names in them: {found}. Pass one as they write it (--subject)."
    )


def _other_entity(documents: Sequence[Document], alias: str, subjects: Sequence[str]) -> list[str]:
    """What to say of an alias that stands beside a subject in a sentence, as another name does."""
    lower = lower_case_words(document.text for document in documents)
    for subject in subjects:
        own = [one.text for one in propose_aliases(documents, subject)]
        if alias in (subject, *own):
            return []
        known, other = Naming(subject, own, lower), Naming(alias, (), lower)
        for statement in statements(documents, known):
            apart = [span for span in other.spans(statement.text) if not _within(span, known.spans(statement.text))]
            if statement.names_subject and apart:
                where = f'"{statement.text[:100]}" ({statement.source})'
                what = f"alias {alias!r} seems to be another entity: it stands beside {subject!r} in {where}"
                return [f"{what}. Leave it out, or if it is the same, pass --allow-overlap."]
    return []


def _within(span: tuple[int, int], spans: Iterable[tuple[int, int]]) -> bool:
    return any(begin <= span[0] and span[1] <= end for begin, end in spans)
