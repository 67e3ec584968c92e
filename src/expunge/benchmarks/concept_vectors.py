"""ConceptVectors: concepts whose place in a model's weights is known; questions and passages about them, and questions
about other concepts (arXiv 2406.11614)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError, did_you_mean
from expunge.evaluation.metric import SuiteMetric
from expunge.evaluation.metrics import as_target_bleu, as_target_rouge, bleu
from expunge.evaluation.public_rows import Fields, read_as
from expunge.evaluation.suite import Suite, spread
from expunge.requests.request import Request
from expunge.requests.rows import Row

_FLUENCY = ("answer_words", "distinct_4grams", "answer_perplexity")
_METRICS = {
    "questions": ("rejection", *_FLUENCY),
    "completions": ("rouge_f1", "bleu", "probability", "exact_memorization", "extraction_strength", *_FLUENCY),
    "unrelated": ("rejection", *_FLUENCY),
}
_HALVES = ("First_half", "Second_half")


@dataclass(frozen=True)
class Concept:
    """One concept: its value vector is that of ``neuron`` in decoder layer ``layer`` of the model that the file is for.
    ``questions`` and ``unrelated`` (about other concepts) have no answers; ``completions`` are sentences of ``article``
    in halves."""

    name: str
    layer: int
    neuron: int
    questions: tuple[Row, ...]
    completions: tuple[Row, ...]
    unrelated: tuple[Row, ...]
    article: str = ""

    def request(self) -> Request:
        """The concept as a request: its article to forget (its passages where there is none)."""
        article = (Row("", self.article, kind="document", source=self.name),) if self.article else self.completions
        return Request(forget=article, subjects=(self.name,))


def load(data: str | Path, concept: str | Sequence[str] | None = None) -> tuple[Concept, ...]:
    """The concepts of a file (.json, .jsonl, .csv, .tsv or .parquet) or a dataset of the hub
    (``owner/name[:config[:split]]``), or those that are named.

    Columns: ``Concept``, ``Layer`` and ``Dim`` (from 0), ``QA`` and ``unrelated_QA`` (lists of questions),
    ``text_completion`` (a list of ``First_half`` and ``Second_half``), and perhaps ``wikipedia_content``; lists in CSV
    are JSON or Python text. All that is missing or malformed is named in one :class:`RequestError`, an unknown concept
    is a :class:`ConfigError`.
    """
    found = tuple(read_as(data, _concept, "concepts"))
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"{data}: tells of {', '.join(twice)} more than once. Pass the file of one model.")
    if concept is None:
        return found
    wanted = [concept] if isinstance(concept, str) else list(concept)
    unknown = [
        f"suite.concept: {data} has no concept '{name}'. {did_you_mean(name, names)}"
        for name in wanted
        if name not in names
    ]
    if unknown or not wanted:
        raise ConfigError("\n".join(unknown) or "suite.concept is empty: name one, or leave it out for all.")
    return tuple(one for one in found if one.name in wanted)


def build(data: str | Path, concept: str | Sequence[str] | None = None, limit: int | None = None) -> Suite:
    """The suite over concepts that a model should have forgotten.

    ``data`` is a file of ConceptVectors (``llama2-7b_concepts_dev.json``) or a dataset of the hub
    (``owner/name[:config[:split]]``) of that form. ``concept`` names those that are forgotten (default: all of the
    file). ``limit`` scores at most so many rows a set, evenly spread.
    """
    return of_concepts(load(data, concept), limit=limit)


def of_concepts(concepts: Sequence[Concept], *, limit: int | None = None) -> Suite:
    """The suite over concepts that are at hand; a question about one of them is unrelated to none of them."""
    if not concepts:
        raise RequestError("suite concept_vectors has no concepts. Pass at least one.")
    asked = {row.key for one in concepts for row in one.questions}
    unrelated = {row.key: row for one in concepts for row in one.unrelated if row.key not in asked}
    given = {
        "questions": tuple(row for one in concepts for row in one.questions),
        "completions": tuple(row for one in concepts for row in one.completions),
        "unrelated": tuple(unrelated.values()),
    }
    sets = {name: spread(rows, limit, option="limit") for name, rows in given.items() if rows}
    missing: dict[str, str] = {}
    try:
        bleu.check()
    except ConfigError as error:
        missing = {"bleu": str(error).removesuffix(".")}
    composites: list[SuiteMetric] = [as_target_rouge.of(name) for name in sets]
    composites += [] if missing else [as_target_bleu.of(name) for name in sets]
    unavailable = {
        f"{name}_{label}": reason
        for reason in missing.values()
        for name in sets
        for label in ("as_target_bleu", *(("bleu",) if name == "completions" else ()))
    }
    return Suite(
        "concept_vectors",
        sets,
        {name: tuple(one for one in _METRICS[name] if one not in missing) for name in sets},
        tuple(composites),
        unavailable=unavailable,
        plays={"forget": "questions", "retain": "unrelated"},
    )


def _concept(fields: Fields) -> Concept:
    name = fields.text("Concept").strip()
    questions, unrelated = (_asked(fields, column, name) for column in ("QA", "unrelated_QA"))
    layer, neuron = fields.number("Layer"), fields.number("Dim")
    if not questions and not fields.problems:
        fields.problems.append("QA has no questions about the concept")
    article = fields.text("wikipedia_content") if fields.has("wikipedia_content") else ""
    return Concept(name, layer, neuron, questions, _halves(fields, name), unrelated, article)


def _asked(fields: Fields, column: str, group: str) -> tuple[Row, ...]:
    texts = [text.strip() for text in fields.texts(column)]
    return tuple(
        Row(text, "", group=group, source=f"{fields.source} {column}[{place}]")
        for place, text in enumerate(texts)
        if text
    )


def _halves(fields: Fields, group: str) -> tuple[Row, ...]:
    found: list[Row] = []
    given = fields.parsed("text_completion") or ()
    if isinstance(given, str):
        fields.problems.append(f"text_completion is {given!r:.60}, expected a list of {' and '.join(_HALVES)}")
        return ()
    for place, pair in enumerate(given if isinstance(given, Sequence) else (given,)):
        halves = [pair.get(half) for half in _HALVES] if isinstance(pair, Mapping) else []
        texts = [text for text in halves if isinstance(text, str) and text.strip()]
        if len(texts) < len(_HALVES):
            fields.problems.append(f"text_completion[{place}] is {pair!r:.60}, expected {' and '.join(_HALVES)}")
            continue
        begun, rest = texts
        source = f"{fields.source} text_completion[{place}]"
        found.append(Row(f"{begun.rstrip()} ", rest.lstrip(), kind="completion", group=group, source=source))
    return tuple(found)


BENCHMARK = Benchmark(
    name="concept_vectors",
    summary="Concepts whose place in the weights is known: answers about them and about others, before and after.",
    title="Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces",
    reference="arXiv 2406.11614",
    metrics=(
        *dict.fromkeys(name for names in _METRICS.values() for name in names),
        "as_target_rouge",
        "as_target_bleu",
    ),
    build=build,
)
