"""The request that documents and a name make: what must go, and questions that check what went and what stayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from expunge.errors import RequestError
from expunge.requests.documents.aliases import (
    INFLECTED,
    Alias,
    Kind,
    first_and_last,
    others_with,
    pattern_of,
    propose_aliases,
)
from expunge.requests.documents.facts import Statement, is_about_somebody, is_owner, statements
from expunge.requests.documents.names import lower_case_words, name_runs
from expunge.requests.documents.naming import Naming
from expunge.requests.documents.neighbours import Finder, Neighbour, find_neighbours
from expunge.requests.documents.probes import appositions, probes
from expunge.requests.documents.reading import Document
from expunge.requests.documents.written import answered, written
from expunge.requests.request import Request
from expunge.requests.rows import Row
from expunge.teachers.common_names import common_names

Complete = Callable[[str], str]

_MOST_NEIGHBOURS = 40  # that questions are asked about, the most frequent
_PER_NEIGHBOUR = 8
_SUGGESTED = 8


@dataclass(frozen=True)
class MadeRequest:
    """Rows made from documents, before it is settled which of them a method is fitted on.

    ``documents`` name a subject and ``others`` do not; ``probes`` ask about the subjects and ``neighbours`` about the
    names beside them. ``names`` are the forms of each subject, ``entities`` the neighbours found, ``digests`` SHA-256
    of each document by its source, ``ignored_names`` parts of the names that are not used.
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
    ignored_names: tuple[str, ...] = ()

    def request(
        self, *, reads_documents: bool = True, substitutes: tuple[str, ...] = (), **given: tuple[Row, ...]
    ) -> Request:
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
            substitutes=substitutes,
            ignored_names=self.ignored_names,
        )


def resolve_names(
    documents: Sequence[Document],
    subjects: Sequence[str],
    given: Sequence[str] = (),
    *,
    propose: bool = True,
    ignored: Sequence[str] = (),
    allow_overlap: bool = False,
) -> tuple[tuple[str, ...], dict[str, tuple[Alias, ...]]]:
    """The aliases to use, those given and (``propose``) those that are safe and not ``ignored``, and all forms of each
    subject.

    Resolving with the result as ``given`` gives the same again.

    Raises:
        RequestError: no subject, a subject or none of its names in the documents (with the names that are there), an
            alias that is another subject, or that stands beside the subject or begins sentences as another name
            (unless ``allow_overlap``): all of them in one error.
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
        safe = [one.text for forms in names.values() for one in forms if propose and one.usable]
        new = [text for text in safe if text not in ignored]
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
    given = [alias for alias in dict.fromkeys(given) if alias not in subjects]
    told = {alias: _told(documents, subjects, given, alias) for alias in given}
    if not allow_overlap:
        for alias in given:
            problems += _other_entity(documents, alias, subjects, told[alias])
    if problems:
        raise RequestError("\n".join(problems))
    for alias in given:
        names = {who: _doubted(documents, forms, alias, told[alias]) for who, forms in names.items()}
    return tuple(aliases), names


def left_out(
    documents: Sequence[Document],
    names: Mapping[str, tuple[Alias, ...]],
    aliases: Sequence[str],
    *,
    propose: bool = True,
) -> tuple[str, ...]:
    """What is not to be taken for the subjects: the whole names of others in the documents who bear a subject's last
    name, unless that is among the ``aliases``; and without ``propose`` first and last names that were not given."""
    if propose:
        unused = [other for subject in names for other in others_with(documents, subject, aliases)]
    else:
        unused = [one.text for forms in names.values() for one in forms if one.kind in ("first", "last")]
    return tuple(dict.fromkeys(text for text in unused if text not in (*aliases, *names)))


def make_request(
    documents: Sequence[Document],
    subjects: Sequence[str],
    aliases: Sequence[str],
    names: Mapping[str, tuple[Alias, ...]],
    *,
    finder: Finder | None = None,
    complete: Complete | None = None,
    digests: Mapping[str, str] | None = None,
    ignored_names: Sequence[str] = (),
) -> MadeRequest:
    """The rows that ``documents`` give; ``aliases`` and ``names`` come from :func:`resolve_names`, ``ignored_names``
    from :func:`left_out`.

    ``finder`` finds the neighbours (by rule unless given). ``complete`` writes the questions (prompt -> text);
    where it writes none about a name, and without it, they are made by templates. Of neighbours that the documents say
    nothing about by themselves it is asked what it knows.
    """
    lower = lower_case_words(document.text for document in documents)
    shown = [one.text for forms in names.values() for one in forms if one.count and one.kind not in INFLECTED]
    parts = [one.text for forms in names.values() for one in forms if one.kind in ("first", "last")]
    common = common_names((part for part in parts if part not in aliases), (document.text for document in documents))
    everyone = Naming(subjects[0], (*subjects[1:], *aliases, *shown), lower, common)
    naming = {who: Naming(who, _own_forms(who, aliases, names, subjects), lower, common) for who in subjects}
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
        ignored_names=tuple(ignored_names),
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


def _other_entity(
    documents: Sequence[Document], alias: str, subjects: Sequence[str], own: Mapping[str, Sequence[str]]
) -> list[str]:
    """What to say of an alias that stands beside a subject in a sentence, as another name does, or that sentences begin
    with as with another's name. ``own`` are the forms that the documents tell of each subject."""
    if any(alias in forms for forms in own.values()):
        return []
    lower = lower_case_words(document.text for document in documents)
    other = Naming(alias, (), lower)
    for subject in subjects:
        known = Naming(subject, own[subject], lower)
        for statement in statements(documents, known):
            apart = [span for span in other.spans(statement.text) if not _within(span, known.spans(statement.text))]
            if statement.names_subject and apart:
                return [_another(alias, f"it stands beside {subject!r} in {_shown(statement)}")]
    # a nickname of one word begins sentences too
    begun = [one for one in statements(documents, other) if _begins_with(one.text, alias)] if " " in alias else []
    if begun and any(run.text == alias for run in name_runs(begun[0].text, lower)):
        count = f"{len(begun)} sentence{'s begin' if len(begun) > 1 else ' begins'} with it and none tells that it is"
        where = "; ".join(map(_shown, begun[:2]))
        return [_another(alias, f"{count} {' or '.join(map(repr, subjects))}: {where}")]
    return []


def _doubted(
    documents: Sequence[Document], forms: tuple[Alias, ...], alias: str, own: Mapping[str, Sequence[str]]
) -> tuple[Alias, ...]:
    """The forms, the given ``alias`` with a warning where the documents do not tell whose it is, or do not have it."""
    if any(alias in known for known in own.values()):
        return forms
    pattern = pattern_of([alias], any_case=True)
    count = sum(len(pattern.findall(document.text)) for document in documents)
    found: list[Alias] = []
    for one in forms:
        shown = "; ".join(f'".. {context} .."' for context in one.contexts)
        unsaid = f"the documents do not say whose it is{f': {shown}' if shown else ''}"
        doubts = [one.warning, unsaid] if count else ["0 matches in the documents, probably a typing error"]
        found.append(replace(one, warning="; ".join(filter(None, doubts))) if one.text == alias else one)
    return tuple(found)


def _told(
    documents: Sequence[Document], subjects: Sequence[str], given: Sequence[str], alias: str
) -> dict[str, list[str]]:
    """The forms that the documents tell of each subject, to one who knows the other given aliases."""
    others = [one for one in given if one != alias]
    return {
        who: [who, *first_and_last(who), *(one.text for one in propose_aliases(documents, who, others))]
        for who in subjects
    }


def _begins_with(text: str, name: str) -> bool:
    return text.startswith(name) and not is_owner(text, (0, len(name))) and not text[len(name) :][:1].isalnum()


def _shown(statement: Statement) -> str:
    return f'"{statement.text[:100]}" ({statement.source})'


def _another(alias: str, why: str) -> str:
    return (
        f"alias {alias!r} seems to be another entity: {why}. Leave it out, or if it is the same, pass --allow-overlap."
    )


def _within(span: tuple[int, int], spans: Iterable[tuple[int, int]]) -> bool:
    return any(begin <= span[0] and span[1] <= end for begin, end in spans)
