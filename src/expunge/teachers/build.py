"""A teacher made whole: rows for the student, and what the target says of swapped names, stored sparse.

``build_teacher`` does it from texts and a name; ``taught`` is what the methods' teachings end in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.data.encode import Example, encode_all
from expunge.data.template import Style, Template
from expunge.distributed import is_main, on_main
from expunge.errors import InputError
from expunge.requests.rows import Row
from expunge.teachers.asking import Found, ask
from expunge.teachers.distribution import LOWERED
from expunge.teachers.names import Subject
from expunge.teachers.plans import Plan
from expunge.teachers.sparse_rows import TOP_K, SparseRows
from expunge.teachers.sparse_store import SparseStore, stored
from expunge.training.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.training.alternatives import Context
    from expunge.training.teaching import Teaching

KEPT = "teacher"
"""What the folders of kept teachers are called, before their digest."""


@dataclass(frozen=True)
class Teacher:
    """The student's rows and what their tokens are taught.

    rows: as texts; examples: as tokens; store: the distributions, row after row; in_all: how many rows the student has,
    of which one alone may have been asked for.
    """

    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    store: SparseStore
    in_all: int

    def save(self, folder: Path) -> None:
        """Write the store and, beside it, the rows as ``rows.jsonl``."""
        names = ("source", "kind", "prompt", "answer")
        self.store.save(folder, [{name: getattr(row, name) for name in names} for row in self.rows])


def build_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str | Row],
    subject: Subject,
    substitutes: Sequence[str],
    *,
    lead_in: str | None = None,
    sentences: int = 3,
    style: str = "causal",
    template: Style = "auto",
    max_length: int = 512,
    top_k: int = TOP_K,
    folder: Path | None = None,
) -> Teacher:
    """The teacher of documents (or rows) about a subject.

    Args:
        model: the target.
        tokenizer: its tokenizer.
        documents: plain texts; rows of any kind are taken as they are.
        subject: who is to be forgotten.
        substitutes: the N names that stand in.
        lead_in: what stands before each chunk of a document, with {name} for the name; "" for nothing, None for
            :data:`~expunge.teachers.name_teaching.LEAD_IN` (in style "whp", nothing).
        sentences: of a chunk of a document.
        style: "causal" or "whp".
        template: how rows are rendered.
        max_length: tokens of a row at most.
        top_k: tokens kept of a distribution.
        folder: where the teacher is kept, and looked for, under a name made from all it depends on.

    Raises:
        RequestError: no document mentions the subject.
        ConfigError: substitutes that are forget names.
    """
    from expunge.teachers.name_teaching import LEAD_IN, WHP_TOKENS, NameTeaching
    from expunge.training.settings import TrainingSettings

    rows = [Row("", one, "document") if isinstance(one, str) else one for one in documents]
    whp = style == "whp"
    teaching = NameTeaching(
        subjects=(subject,),
        given=tuple(substitutes),
        lead_in=("" if whp else LEAD_IN) if lead_in is None else lead_in,
        sentences=sentences,
        chunk_tokens=WHP_TOKENS if whp else None,
        style=style,
        top_k=top_k,
    )
    run = Run(TrainingSettings(max_length=max_length), template=template)
    return made_teacher(teaching, model, tokenizer, rows, run, folder=folder)


def made_teacher(
    teaching: Teaching,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Row],
    run: Run,
    *,
    row: int | None = None,
    folder: Path | None = None,
) -> Teacher:
    """The teacher that a method's teaching makes of forget rows on the target; with ``row``, of that row of the
    student's alone, counted from 0. ``folder`` as in :func:`build_teacher`.

    Raises:
        InputError: the student has no such row.
    """
    from expunge.models.limits import max_tokens
    from expunge.training.alternatives import Context

    template, limit = Template.of(tokenizer, run.template), max_tokens(model, run.settings.max_length)
    student = tuple(teaching.rows(forget, tokenizer, template, limit))
    if row is not None and not 0 <= row < len(student):
        raise InputError(f"there is no row {row + 1}: the student has {len(student)} rows, the first is 1.")
    in_all = len(student)
    student = student if row is None else student[row : row + 1]
    examples = tuple(encode_all(tokenizer, template, student, max_length=limit))
    context = Context(model, tokenizer, template, run.settings, run.progress, folder)
    return Teacher(student, examples, teaching.targets(student, examples, context), in_all)


def taught(
    plans: Sequence[Plan],
    rows: int,
    context: Context,
    *,
    style: str = "causal",
    top_k: int = TOP_K,
    lowered: float = LOWERED,
) -> SparseStore:
    """The store of what plans teach ``rows`` rows; read from ``context.cache`` where it was kept there, and kept.

    Several processes have it made by the main one.
    """
    facts = _facts(plans, context, {"style": style, "top_k": top_k, "lowered": lowered, "rows": rows})
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = None if context.cache is None else context.cache / f"{KEPT}-{digest}"

    def made() -> SparseStore:
        from expunge.data.batches import pad_id

        found = ask(
            context.model,
            plans,
            style=style,
            pad_id=pad_id(context.tokenizer),
            top_k=top_k,
            lowered=lowered,
            progress=context.progress,
        )
        return stored(_by_row(plans, found, rows), facts)

    if folder is not None and on_main(folder.is_dir):
        return on_main(lambda: SparseStore.load(folder, facts))
    store = on_main(made)
    if folder is not None and is_main():
        store.save(folder)
    return store


def _by_row(plans: Sequence[Plan], found: Sequence[Found], rows: int) -> list[Found]:
    """The plans' findings, those of a row together, in the order of its tokens."""
    held: dict[int, list[Found]] = {}
    for plan, one in zip(plans, found, strict=True):
        held.setdefault(plan.row, []).append(one)
    some = found[0][1]
    nothing: Found = (torch.zeros(0, dtype=torch.long), some[:0], torch.zeros(0))
    result: list[Found] = []
    for row in range(rows):
        parts = held.get(row, [nothing])
        places = torch.cat([part[0] for part in parts])
        order = places.argsort()
        targets = SparseRows.joined([part[1] for part in parts])[order]
        result.append((places[order], targets, torch.cat([part[2] for part in parts])[order]))
    return result


def _facts(plans: Sequence[Plan], context: Context, settings: dict[str, Any]) -> dict[str, Any]:
    from expunge.models.fingerprint import fingerprint, values_digest

    target = dataclasses.asdict(fingerprint(context.model, context.tokenizer))
    del target["source"]  # where the files lie decides nothing
    asked = hashlib.sha256("".join(plan.digest() for plan in plans).encode()).hexdigest()
    return {**settings, "asked": asked, **target, "values": values_digest(context.model.named_parameters())}
