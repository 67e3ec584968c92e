"""MBPP: short Python functions from a sentence and three asserts, judged by running them (arXiv 2108.07732)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.code_answers import CodeRow
from expunge.evaluation.few_shot import with_shots
from expunge.evaluation.public_rows import Fields, read_as, split_of
from expunge.evaluation.sandbox import Limits, Sandbox
from expunge.evaluation.suite import Suite, spread

HUB_ID = "google-research-datasets/mbpp"
SHOT_TASKS = (2, 3, 4)  # the paper's; then the rest of the tasks set apart for prompts
_PROMPT_TASKS = range(1, 11)
_TEST_TASKS = range(11, 511)
_METRICS = ("pass_at_1", "probability", "answer_perplexity", "distinct_4grams")


def build(
    data: str | Path = HUB_ID,
    shots: int = 3,
    turns: bool = False,
    limit: int | None = None,
    seconds: float = 10.0,
    memory_mb: int = 512,
    workers: int | None = None,
    strict: bool = False,
) -> Suite:
    """The suite over the test tasks (numbers 11 to 510), each asked after ``shots`` solved ones (2, 3, 4, ..).

    ``data`` is one file with all tasks (.jsonl, .json, .parquet or .csv; with no number from 11 to 510 all tasks that
    are no shots are asked), a folder with a test and a prompt file, or a dataset id of the hub. The prompt is the
    paper's: the task, its asserts, and the code between ``[BEGIN]`` and ``[DONE]``, as plain text; with ``turns`` it is
    a conversation in the tokenizer's chat template. ``limit`` scores at most so many tasks, evenly spread.

    Answers are run: ``seconds`` and ``memory_mb`` bound each program, ``workers`` of them run at a time, and ``strict``
    refuses a machine whose kernel cannot shut them in (:mod:`expunge.evaluation.sandbox`). Three shots take about 600
    tokens: set ``training.max_length`` accordingly, and ``training.max_new_tokens`` to 256 or more.
    """
    if not 0 <= shots <= len(_PROMPT_TASKS):
        raise ConfigError(f"shots is {shots}: expected 0 to {len(_PROMPT_TASKS)} solved tasks before each task.")
    limits = Limits(seconds=seconds, cpu_seconds=max(1, round(seconds)), memory_bytes=memory_mb * 2**20)
    sandbox = Sandbox(limits, workers=workers, strict=strict)
    tasks = _tasks(data, shots)
    order = {task: place for place, task in enumerate(dict.fromkeys([*SHOT_TASKS, *_PROMPT_TASKS]))}
    solved = sorted((row for row in tasks if row.task in order), key=lambda row: order[row.task])[:shots]
    if len(solved) < shots:
        raise RequestError(
            f"{data}: {shots} solved tasks were asked for, and it has {len(solved)} of the tasks for prompts (numbers "
            f"{_PROMPT_TASKS[0]} to {_PROMPT_TASKS[-1]}). Lower shots."
        )
    asked = [row for row in tasks if row.task in _TEST_TASKS] or [row for row in tasks if row not in solved]
    if not asked:
        raise RequestError(f"{data}: has no task beside the {shots} shots. Pass a file with the test tasks.")
    return of_rows(spread(asked, limit, option="limit"), solved, turns=turns, sandbox=sandbox)  # type: ignore[arg-type]


def of_rows(
    rows: Sequence[CodeRow], solved: Sequence[CodeRow] = (), *, turns: bool = False, sandbox: Sandbox | None = None
) -> Suite:
    """The suite over rows that are at hand, with ``solved`` ones as shots; ``sandbox`` replaces theirs."""
    shots = [(_task(row), _solution(row.answer)) for row in solved]
    asked = []
    for row in rows:
        whole = CodeRow(
            prompt=_task(row),
            answer=_solution(row.answer),
            source=row.source,
            tests=row.tests,
            setup=row.setup,
            task=row.task,
            sandbox=sandbox or row.sandbox,
        )
        asked.append(with_shots(whole, shots, frame=_frame, turns=turns))
    return Suite("mbpp", {"tasks": tuple(asked)}, {"tasks": _METRICS})


def _tasks(data: str | Path, shots: int) -> list[CodeRow]:
    if Path(data).expanduser().is_file():
        return read_as(data, _row, "mbpp")
    sources = [split_of(data, name, config="full", hub=HUB_ID) for name in ("test", "prompt")[: 2 if shots else 1]]
    found: list[CodeRow] = []
    problems: list[str] = []
    for source in sources:
        try:
            found += read_as(source, _row, "mbpp")
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    return found


def _row(fields: Fields) -> CodeRow:
    tests = fields.texts("test_list")
    if not tests and not fields.problems:
        fields.problems.append("test_list is empty, expected asserts")
    imports = "\n".join(fields.texts("test_imports"))
    setup = fields.text("test_setup_code") if fields.has("test_setup_code") else imports
    return CodeRow(
        prompt=fields.text("text", "prompt"),
        answer="\n".join(fields.text("code").split("\r\n")),
        source=fields.source,
        tests=tests,
        setup="\n".join(setup.split("\r\n")),
        task=fields.number("task_id"),
    )


def _task(row: CodeRow) -> str:
    tests = "\n".join(row.tests)
    asked = f"You are an expert Python programmer, and here is your task: {row.prompt.strip()}"
    return f"{asked} Your code should pass these tests:\n\n{tests}"


def _solution(code: str) -> str:
    return f"{code.rstrip()}\n[DONE]"


def _frame(task: str) -> str:
    return f"{task}\n[BEGIN]\n"


BENCHMARK = Benchmark(
    name="mbpp",
    summary="Short Python functions after solved ones: does the code pass its asserts?",
    title="Program Synthesis with Large Language Models",
    reference="arXiv 2108.07732",
    metrics=_METRICS,
    build=build,
)
