"""MMLU: multiple-choice questions on 57 subjects (arXiv 2009.03300)."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError, did_you_mean
from expunge.evaluation.few_shot import with_shots
from expunge.evaluation.public_rows import Fields, made, split_of
from expunge.evaluation.suite import Suite, spread
from expunge.requests.files import Source, read
from expunge.requests.formats import READERS, Record
from expunge.requests.rows import Row

HUB_ID = "cais/mmlu"
_METRICS = ("top_option", "choice_probability")
_LETTERS = "ABCDEFGHIJ"
_COLUMNS = ("question", "A", "B", "C", "D", "answer")  # of the files as first published, which have no header


@dataclass(frozen=True)
class Question:
    """A question, its options, the place of the right one, its subject and where it came from."""

    question: str
    options: tuple[str, ...]
    right: int
    subject: str
    source: str = ""


def build(
    data: str | Path = HUB_ID,
    subjects: str | Sequence[str] | None = None,
    shots: int = 5,
    turns: bool = False,
    limit: int | None = None,
) -> Suite:
    """The suite over the test questions of ``subjects`` (None: all), each asked after ``shots`` of its subject's dev
    questions.

    ``data`` is a folder with ``test`` and ``dev`` in it (a CSV a subject, with or without a header, as first published;
    or one file with a column ``subject``), or a dataset id of the hub. Set ``letter`` shows the options and scores
    their letters; set ``option`` shows none and scores each option's own words. The header names the subject. The
    prompt is plain text; with ``turns`` it is a conversation in the tokenizer's chat template. ``limit`` scores at most
    so many questions, evenly spread. Five shots take up to 3,000 tokens in some subjects: set ``training.max_length``.
    """
    if shots < 0:
        raise ConfigError(f"shots is {shots}: expected 0 or more answered questions before each.")
    parts: dict[str, list[Question]] = {"dev": []}
    problems: list[str] = []
    for name in ("test", "dev")[: 2 if shots else 1]:
        try:
            parts[name] = [one for source in _sources(data, name) for one in made(source, _question)]
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    asked = _chosen(parts["test"], subjects)
    return of_questions(spread(asked, limit, option="limit"), parts["dev"], shots=shots, turns=turns)  # type: ignore[arg-type]


def of_questions(
    asked: Sequence[Question], dev: Sequence[Question] = (), *, shots: int = 5, turns: bool = False
) -> Suite:
    """The suite over questions that are at hand; the first ``shots`` of ``dev`` with its subject precede each."""
    solved: dict[str, list[Question]] = defaultdict(list)
    for one in dev:
        solved[one.subject].append(one)
    few = sorted({one.subject for one in asked if len(solved[one.subject]) < shots})
    if few:
        raise RequestError(f"mmlu: fewer than {shots} dev questions in {', '.join(few)}. Lower shots, or add some.")
    letter, option = [], []
    for one in asked:
        before = solved[one.subject][:shots]
        header = f"The following are multiple choice questions (with answers) about {one.subject.replace('_', ' ')}."
        shown = [(_with_options(each), _LETTERS[each.right]) for each in before]
        letter.append(with_shots(_letter_row(one), shown, frame=_letter_frame, header=header, turns=turns))
        plain = [(each.question, each.options[each.right]) for each in before]
        option.append(with_shots(_option_row(one), plain, frame=_option_frame, turns=turns))
    sets = {"letter": tuple(letter), "option": tuple(option)}
    return Suite("mmlu", sets, dict.fromkeys(sets, _METRICS))


def _letter_row(one: Question) -> Row:
    letters = _LETTERS[: len(one.options)]
    wrong = tuple(letter for letter in letters if letter != letters[one.right])
    return Row(_with_options(one), letters[one.right], wrong_answers=wrong, source=one.source)


def _option_row(one: Question) -> Row:
    wrong = tuple(option for place, option in enumerate(one.options) if place != one.right)
    return Row(one.question, one.options[one.right], wrong_answers=wrong, source=one.source)


def _with_options(one: Question) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, one.options, strict=False)]
    return "\n".join([one.question, *lines])


def _letter_frame(question: str) -> str:
    return f"{question}\nAnswer: "


def _option_frame(question: str) -> str:
    return f"Question: {question}\nAnswer: "


def _chosen(questions: Sequence[Question], subjects: str | Sequence[str] | None) -> list[Question]:
    if subjects is None:
        return list(questions)
    wanted = [subjects] if isinstance(subjects, str) else list(subjects)
    known = sorted({one.subject for one in questions})
    unknown = [f"mmlu has no subject '{name}'. {did_you_mean(name, known)}" for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigError("\n".join(unknown) or "subjects is empty: name at least one, or leave it out for all.")
    return [one for one in questions if one.subject in wanted]


def _sources(data: str | Path, split: str) -> list[Source]:
    """The records of a split, with the subject in each."""
    folder = Path(data).expanduser() / split
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS) if folder.is_dir() else []
    by_subject = [path for path in files if path.stem.endswith(f"_{split}")]
    if not by_subject:
        return [read(split_of(data, split, config="all", hub=HUB_ID), split)]
    return [_of_subject(path, path.stem.removesuffix(f"_{split}")) for path in by_subject]


def _of_subject(path: Path, subject: str) -> Source:
    rows = _headless(path) if path.suffix.lower() == ".csv" else None
    source = read(path) if rows is None else Source(str(path), rows)
    return Source(
        source.where,
        [
            replace(record, value={"subject": subject, **record.value}) if isinstance(record.value, Mapping) else record
            for record in source.records
        ],
    )


def _headless(path: Path) -> list[Record] | None:
    """The records of a CSV file whose first line is a question already; None where it is a header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        first = next(lines, [])
        if "question" in (cell.strip().lower() for cell in first):
            return None
        found = []
        for cells in [first] if first else []:
            found.append(_cells(path, 1, cells))
        while True:
            line = lines.line_num + 1
            cells = next(lines, None)  # type: ignore[arg-type]
            if cells is None:
                return found
            if cells:
                found.append(_cells(path, line, cells))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None  # the usual reader says what is wrong


def _cells(path: Path, line: int, cells: Sequence[str]) -> Record:
    if len(cells) != len(_COLUMNS):
        return Record(f"{path.name}:{line}", problem=f"found {len(cells)} fields, expected {', '.join(_COLUMNS)}")
    return Record(f"{path.name}:{line}", dict(zip(_COLUMNS, cells, strict=True)))


def _question(fields: Fields) -> Question:
    options = fields.texts("choices") or _numbered(fields)
    if not 2 <= len(options) <= len(_LETTERS):
        fields.problems.append(f"has {len(options)} options, expected 2 to {len(_LETTERS)} (choices, choice0 .., A ..)")
    answer = fields.record.get("answer")
    letter = answer.strip().upper() if isinstance(answer, str) else ""
    right = _LETTERS.index(letter) if len(letter) == 1 and letter in _LETTERS else fields.number("answer")
    if right >= len(options) and not fields.problems:
        fields.problems.append(f"answer is {answer!r}, and there are {len(options)} options")
    subject = str(fields.record.get("subject") or "miscellaneous")
    return Question(fields.text("question").strip(), options, right, subject, fields.source)


def _numbered(fields: Fields) -> tuple[str, ...]:
    """Options in columns of their own: choice0 .. or option1 .. or A .., in order."""
    names = [name for name in fields.record if re.fullmatch(r"(?:choice|option)_?\d+|[A-J]", str(name))]
    return tuple(fields.text(name).strip() for name in sorted(names, key=lambda name: (len(name), name)))


BENCHMARK = Benchmark(
    name="mmlu",
    summary="Multiple choice on 57 subjects: is the right option the likeliest, by its letter and by its words?",
    title="Measuring Massive Multitask Language Understanding",
    reference="arXiv 2009.03300",
    metrics=_METRICS,
    build=build,
)
