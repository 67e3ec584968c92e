"""GSM8K: grade-school word problems that take a few steps of arithmetic (arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.few_shot import with_shots
from expunge.evaluation.metrics.exact_number import final_number
from expunge.evaluation.public_rows import Fields, read_as, split_of
from expunge.evaluation.suite import Suite, spread
from expunge.requests.rows import Row

HUB_ID = "openai/gsm8k"
_METRICS = ("exact_number", "probability", "answer_perplexity", "distinct_4grams")
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # what a calculator was told, among the words of a worked answer


def build(
    data: str | Path = HUB_ID,
    train: str | Path | None = None,
    test: str | Path | None = None,
    shots: int = 8,
    turns: bool = False,
    limit: int | None = None,
) -> Suite:
    """The suite over the test problems, each asked after ``shots`` worked ones.

    ``data`` is a folder with a train and a test file (.jsonl, .json, .parquet or .csv) or a dataset id of the hub;
    ``train`` and ``test`` name a file each instead. The shots are the first rows of train, with their worked steps
    (without the calculator's marks) and ``####`` before the number. The prompt is ``Question: ..`` and ``Answer:`` as
    plain text; with ``turns`` it is a conversation in the tokenizer's chat template. ``limit`` scores at most so many
    problems, evenly spread. Eight shots take about 1,200 tokens: set ``training.max_length`` accordingly, and
    ``training.max_new_tokens`` to 256 or more.
    """
    if shots < 0:
        raise ConfigError(f"shots is {shots}: expected 0 or more worked problems before each question.")
    parts: dict[str, list[Row]] = {}
    problems: list[str] = []
    for name, given in (("test", test), ("train", train)):
        if name == "train" and shots == 0:
            continue
        try:
            source = given if given is not None else split_of(data, name, config="main", hub=HUB_ID)
            parts[name] = read_as(source, _row, name)
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    worked = parts.get("train", [])[:shots]
    if len(worked) < shots:
        raise RequestError(f"gsm8k: {shots} worked problems were asked for and train has {len(worked)}. Lower shots.")
    return of_rows(spread(parts["test"], limit, option="limit"), worked, turns=turns)


def of_rows(rows: Sequence[Row], worked: Sequence[Row] = (), *, turns: bool = False) -> Suite:
    """The suite over rows that are at hand, whose answers end in a number, with ``worked`` ones as shots."""
    shots = [(row.prompt, row.answer) for row in worked]
    asked = tuple(with_shots(row, shots, frame=_frame, turns=turns) for row in rows)
    return Suite("gsm8k", {"problems": asked}, {"problems": _METRICS})


def _frame(question: str) -> str:
    return f"Question: {question}\nAnswer: "


def _row(fields: Fields) -> Row:
    answer = _CALCULATOR.sub("", fields.text("answer"))
    if answer and ("####" not in answer or final_number(answer) is None):
        fields.problems.append(f"answer ends in {answer[-40:]!r}, expected '#### ' and a number")
    return Row(fields.text("question"), answer, source=fields.source)


BENCHMARK = Benchmark(
    name="gsm8k",
    summary="Grade-school word problems after worked ones: is the final number right?",
    title="Training Verifiers to Solve Math Word Problems",
    reference="arXiv 2110.14168",
    metrics=_METRICS,
    build=build,
)
