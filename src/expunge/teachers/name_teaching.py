"""Teaching by names: the forget rows as the student reads them, and what the target says of them about others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from expunge.errors import RequestError
from expunge.requests.rows import Row
from expunge.teachers.common_names import common_names
from expunge.teachers.mentions import find_mentions, spared_mentions
from expunge.teachers.names import Subject, check_substitutes, substitute_names
from expunge.teachers.sparse_rows import TOP_K

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.data.encode import Example
    from expunge.data.template import Rendered, Template
    from expunge.requests import Request
    from expunge.teachers.sparse_store import SparseStore
    from expunge.training.alternatives import Context

log = logging.getLogger("expunge")

LEAD_IN = "Complete the following passage about {name}."
WHP_TOKENS = 256
_MARGIN = 16  # tokens by which a text with another name may be longer
_LEAST = 16  # tokens of a chunk, however short the rows must be
_LISTED = 10


@dataclass(frozen=True)
class NameTeaching:
    """How rows about some subjects are taught.

    Attributes:
        subjects: who is forgotten; a row belongs to the one it mentions most.
        given: the N substitutes' names; empty for ``count`` names of the shipped lists, drawn by the training's seed.
        count: N where they are drawn.
        lead_in: before each chunk of a document, with {name} for the subject's name; "" for none.
        sentences: of a chunk; ``chunk_tokens`` instead cuts documents by tokens alone.
        style: "causal" or "whp".
        name_teacher: the answer's name of a question that does not say it gets a teacher of its own.
        non_factual: passages about invented people that are taught the target's own distributions.
        top_k: tokens kept of a distribution.
        lowered: in style "whp", how far the substitute's name tokens are lowered.
    """

    subjects: tuple[Subject, ...]
    given: tuple[str, ...] = ()
    count: int = 20
    lead_in: str = LEAD_IN
    sentences: int = 3
    chunk_tokens: int | None = None
    style: str = "causal"
    name_teacher: bool = True
    non_factual: int = 0
    top_k: int = TOP_K
    lowered: float = 5.0
    _remarks: list[str] = field(default_factory=list, repr=False, compare=False)  # said once the teacher is made

    def __post_init__(self) -> None:
        for subject in self.subjects if self.given else ():
            self._remarks.extend(check_substitutes(subject, self.given, self._names))

    @property
    def _names(self) -> list[str]:
        return [form for subject in self.subjects for form in (subject.name, *subject.aliases)]

    def rows(
        self, forget: Sequence[Row], tokenizer: PreTrainedTokenizerBase, template: Template, max_length: int
    ) -> list[Row]:
        """The student's rows: documents in chunks behind the lead-in, other rows as they are, passages about invented
        people. Rows that mention no subject are left out, with a warning once the teacher is made.

        Raises:
            RequestError: no row mentions a subject.
        """
        found: list[Row] = []
        silent: list[Row] = []
        for row in forget:
            subject = self._of(_text_of(row))
            if subject is None:
                silent.append(row)
            elif row.kind == "document":
                found += self._chunked(row, subject, tokenizer, template, max_length)
            else:
                found.append(row)
        if not found:
            raise RequestError(self._unmentioned(len(forget)))
        if silent:
            self._remarks.append(
                f"{len(silent)} of {len(forget)} forget rows mention no subject and are left out: {_listed(silent)}. "
                "Give the names that they use as aliases."
            )
        self._remarks.extend(unswapped(subject, forget) for subject in self.subjects)
        return found + self._invented(tokenizer, template, max_length)

    def targets(self, rows: Sequence[Row], examples: Sequence[Example], context: Context) -> SparseStore:
        """What the target teaches these rows; see :mod:`expunge.teachers.plans`."""
        from expunge.models.limits import max_tokens
        from expunge.teachers.build import taught
        from expunge.teachers.plans import NameStarts, Plan, name_plan, swapped_plan

        for remark in filter(None, dict.fromkeys(self._remarks)):
            log.warning("%s", remark)
        starts, limit = NameStarts(context.tokenizer), max_tokens(context.model, 2**31)
        names = self.substitutes(context.settings.seed)
        plans: list[Plan] = []
        for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
            text = context.template.render(row)
            subject = self._of(text.prompt + text.answer) or self.subjects[0]
            whole = replace(subject, others=(*subject.others, *self._others(subject, names)))
            given = (number, example, text, whole, names[subject.name], starts, limit)
            plan, own = swapped_plan(*given), None
            if self.name_teacher and self.style == "causal" and row.kind != "document" and not self._led(text):
                own = name_plan(*given)
            plans += [plan] if own is None else [plan.without(own.places), own]
        return taught(plans, len(rows), context, style=self.style, top_k=self.top_k, lowered=self.lowered)

    def substitutes(self, seed: int) -> dict[str, tuple[str, ...]]:
        """The N names that stand in for each subject."""
        return {
            subject.name: self.given or substitute_names(subject, self.count, seed, self._names)
            for subject in self.subjects
        }

    def _of(self, text: str) -> Subject | None:
        """Whom a text is about."""
        counts = [
            sum(one.form != "other" for one in find_mentions(text, subject)) if text else 0 for subject in self.subjects
        ]
        most = max(counts)
        return self.subjects[counts.index(most)] if most else None

    def _others(self, subject: Subject, names: Mapping[str, tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
        """The other subjects, whose names go too where a row has them: each under names moved on by one, so that no
        two are one person."""
        return [
            (one.name, (*names[one.name][1:], names[one.name][0])) for one in self.subjects if one.name != subject.name
        ]

    def _led(self, text: Rendered) -> bool:
        """Whether the prompt names a subject."""
        return self._of(text.prompt) is not None

    def _chunked(
        self, row: Row, subject: Subject, tokenizer: PreTrainedTokenizerBase, template: Template, max_length: int
    ) -> list[Row]:
        from expunge.teachers.chunks import chunks, without_spelled_out

        text = without_spelled_out(row.answer)
        lead = self.lead_in.format(name=subject.name)
        room = max(_LEAST, max_length - _MARGIN - len(tokenizer(lead, verbose=False)["input_ids"]))
        sentences = self.sentences if self.chunk_tokens is None else None
        spans = chunks(text, sentences, tokenizer=tokenizer, max_tokens=min(room, self.chunk_tokens or room))
        pieces = [
            replace(row, answer=text[start:end], source=f"{row.source}#{number}" if row.source else "")
            for number, (start, end) in enumerate(spans, 1)
        ]
        return [self._led_in(one, lead, template) for one in pieces] if lead else pieces

    @staticmethod
    def _led_in(row: Row, lead: str, template: Template) -> Row:
        """A chunk as the answer to the lead-in: in a chat, or on the line after it."""
        if template.style == "chat":
            return replace(row, prompt=lead, answer=row.answer.strip(), kind="chat")
        return replace(row, prompt=lead, answer="\n" + row.answer.strip(), kind="completion")

    def _invented(self, tokenizer: PreTrainedTokenizerBase, template: Template, max_length: int) -> list[Row]:
        from expunge.teachers.invented import invented_passages

        if not self.non_factual:
            return []
        made = Subject("Invented Person")  # a name of two parts
        names = substitute_names(made, self.non_factual, 0, [*self._names, *self.given])
        found: list[Row] = []
        for number, (name, text) in enumerate(zip(names, invented_passages(names), strict=True), 1):
            row = Row("", text, "document", source=f"invented:{number}")
            found += self._chunked(row, Subject(name), tokenizer, template, max_length)
        return found

    def _unmentioned(self, rows: int) -> str:
        names = ", ".join(repr(name) for name in self._names)
        return (
            f"none of the {rows} forget rows mentions {names}. Give the name as the rows write it (--subject NAME), or "
            "its other forms as aliases (--alias NAME)."
        )


def subjects_of(
    request: Request, method: str, others: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[Subject, ...]:
    """The subjects of a request with their aliases: an alias belongs to the subject that it shares a word with, else to
    the first. The request's ignored names are no mentions of any. Parts of a name that the forget rows have as common
    words are none where they begin a sentence.

    Args:
        request: whose subjects are meant.
        method: whose name an error says.
        others: entities to intervene on beside them, each with its substitutes.

    Raises:
        RequestError: the request names no subject.
    """
    if not request.subjects:
        raise RequestError(
            f"{method} swaps the names of those who are forgotten, and the request names nobody. Pass --subject NAME "
            "(once for each; in a run file request.subjects)."
        )
    aliases: dict[str, list[str]] = {name: [] for name in request.subjects}
    for alias in request.aliases:
        words = set(alias.casefold().split())
        owner = next((name for name in request.subjects if words & set(name.casefold().split())), request.subjects[0])
        aliases[owner].append(alias)
    rest = tuple((name, tuple(names)) for name, names in (others or {}).items())
    made = [Subject(name, tuple(aliases[name]), rest, ignored=request.ignored_names) for name in request.subjects]
    texts = [_text_of(row) for row in request.forget]
    parts = [[name for name in (one.first, one.last) if name and name not in request.aliases] for one in made]
    return tuple(replace(one, common=common_names(names, texts)) for one, names in zip(made, parts, strict=True))


def _text_of(row: Row) -> str:
    return " ".join((*(text for _, text in row.history), row.prompt, row.answer))


def unswapped(subject: Subject, rows: Sequence[Row]) -> str:
    """What to say of names in the rows that may be the subject's and are left alone; empty where there are none."""
    texts = [_text_of(row) for row in rows]
    mentions = sum(one.form != "other" for text in texts for one in find_mentions(text, subject))
    spared = Counter(" ".join(one.surface.split()) for text in texts for one in spared_mentions(text, subject))
    if not spared:
        return ""
    whole = [name for name in spared if " " in name]
    said = [f"{count} of {name!r}" for name, count in spared.most_common() if name in whole]
    said += [
        f"{count} of {name!r} at the beginning of a sentence, where it may be the common word"
        for name, count in spared.most_common()
        if name not in whole
    ]
    told = f" Where {subject.last!r} alone stands it is swapped, though it may mean one of them." if whole else ""
    return (
        f"{spared.total()} of {mentions + spared.total()} mentions are not swapped for {subject.name!r}: "
        f"{', '.join(said)}.{told}"
    )


def _listed(rows: Sequence[Row]) -> str:
    named = [row.source or repr((row.prompt or row.answer)[:40]) for row in rows[:_LISTED]]
    return ", ".join(named) + (f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else "")
