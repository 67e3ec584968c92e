"""MLQA: questions about a passage, in seven languages (arXiv 1910.07475); XQuAD (1910.11856) has the same form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError, did_you_mean
from expunge.evaluation.few_shot import with_shots
from expunge.evaluation.public_rows import Fields, made
from expunge.evaluation.reading import LANGUAGES, ReadingRow
from expunge.evaluation.suite import Suite, spread
from expunge.requests.files import Source, read
from expunge.requests.formats import READERS, Record

HUB_ID = "facebook/mlqa"
_XQUAD = "google/xquad"
_METRICS = ("exact_span", "contained_span", "token_f1", "probability", "answer_perplexity", "distinct_4grams")


def build(
    data: str | Path = HUB_ID,
    languages: str | Sequence[str] = ("en", "de", "es"),
    turns: bool = False,
    limit: int | None = None,
) -> Suite:
    """The suite over the questions in ``languages`` (ar, de, en, es, hi, vi, zh), one set for each.

    ``data`` is a folder with a file a language, in SQuAD's form or flat (context, question, answers), or a dataset id
    of the hub: MLQA's (its test split) or google/xquad (validation). A file is known by its language as a part of its
    name: ``test-context-de-question-de.json``, ``xquad.de.json``. Passage and question are in the same language. No
    shots: the prompt is ``Passage: ..``, ``Question: ..`` and ``Answer:``, in plain text; with ``turns`` passage and
    question go through the tokenizer's chat template. ``limit`` scores at most so many questions a language, evenly
    spread. Passages take up to 500 words: set ``training.max_length`` accordingly.
    """
    chosen = (languages,) if isinstance(languages, str) else tuple(languages)
    for language in chosen:
        if language not in LANGUAGES:
            raise ConfigError(f"mlqa has no language '{language}'. {did_you_mean(language, LANGUAGES)}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"languages is {list(chosen)}: expected at least one, and each once.")
    loaded: dict[str, list[ReadingRow]] = {}
    problems: list[str] = []
    for language in chosen:
        try:
            source = _flat(read(_source(data, language), language))
            loaded[language] = made(source, lambda fields, language=language: _row(fields, language))  # type: ignore[misc]
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    return of_rows({name: spread(rows, limit, option="limit") for name, rows in loaded.items()}, turns=turns)  # type: ignore[misc]


def of_rows(rows: Mapping[str, Sequence[ReadingRow]], *, turns: bool = False) -> Suite:
    """The suite over rows that are at hand, by language; their prompts end in the question, after a blank line."""
    sets = {
        language: tuple(with_shots(row, (), frame=_frame, turns=turns) for row in part)
        for language, part in rows.items()
    }
    return Suite("mlqa", sets, dict.fromkeys(sets, _METRICS))


def _frame(prompt: str) -> str:
    passage, _, question = prompt.rpartition("\n\n")
    return f"Passage: {passage}\nQuestion: {question}\nAnswer: "


def _source(data: str | Path, language: str) -> str | Path:
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if isinstance(data, Path) or str(data).count("/") != 1:
            raise RequestError(f"{data}: is no folder with a file a language and no dataset id. Pass {_XQUAD}, say.")
        is_xquad = "xquad" in str(data).lower()
        return f"{data}:xquad.{language}:validation" if is_xquad else f"{data}:mlqa.{language}.{language}:test"
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS)
    found = [path for path in files if _language_of(path.name) == language]
    tests = [path for path in found if path.name.startswith("test")]
    found = tests if len(found) > 1 and len(tests) == 1 else found
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in (found or files)[:8]) or "no files of rows"
    what = "several files" if found else "no file"
    raise RequestError(
        f"{folder}: {what} of language {language} (found {listed}). Expected one, such as {language}.json."
    )


def _language_of(name: str) -> str:
    """The one language that a file's name names; "" where it names none, or two (a passage and a question)."""
    named = {part for part in re.split(r"[^a-z]+", name.lower()) if part in LANGUAGES}
    return named.pop() if len(named) == 1 else ""


def _flat(source: Source) -> Source:
    """Articles of SQuAD's form as one record a question; other records as they are."""
    records: list[Record] = []
    for record in source.records:
        if isinstance(record.value, Mapping) and isinstance(record.value.get("paragraphs"), list):
            records += _questions(record)
        else:
            records.append(record)
    return Source(source.where, records)


def _questions(record: Record) -> list[Record]:
    found = []
    for number, paragraph in enumerate(record.value["paragraphs"], 1):
        where = f"{record.source}, paragraph {number}"
        questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(questions, list):
            found.append(Record(where, problem="has no qas, expected a list of questions"))
            continue
        for place, asked in enumerate(questions, 1):
            label = f"{where}, question {place}"
            if isinstance(asked, Mapping):
                found.append(Record(label, {"context": paragraph.get("context"), **asked}))
            else:
                found.append(Record(label, problem=f"found {type(asked).__name__}, expected an object"))
    return found


def _row(fields: Fields, language: str) -> ReadingRow:
    accepted = tuple(dict.fromkeys(_answers(fields.record.get("answers"))))
    if not accepted:
        fields.problems.append(f"answers is {fields.record.get('answers')!r:.60}, expected at least one with a text")
    return ReadingRow(
        prompt=f"{fields.text('context').strip()}\n\n{' '.join(fields.text('question').split())}",
        answer=accepted[0] if accepted else "",
        source=fields.source,
        language=language,
        accepted=accepted,
    )


def _answers(value: Any) -> list[str]:
    """The texts of SQuAD's list of answers, or of the hub's columns of them."""
    if isinstance(value, Mapping):
        value = value.get("text")
        value = [value] if isinstance(value, str) else value
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in value or ()]
    return [text for text in texts if isinstance(text, str) and text.strip()]


BENCHMARK = Benchmark(
    name="mlqa",
    summary="Questions about a passage in up to seven languages, each language a set of its own.",
    title="MLQA: Evaluating Cross-lingual Extractive Question Answering",
    reference="arXiv 1910.07475",
    metrics=_METRICS,
    build=build,
)
