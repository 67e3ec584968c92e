"""MUSE: forget news articles or a book, judged six ways (arXiv 2407.06460): the text itself, what it says, whether it
was there at all, what must stay, and that for larger requests and for one request after another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.few_shot import with_shots
from expunge.evaluation.metric import SetMetric, SuiteMetric
from expunge.evaluation.metrics import membership_auc, privleak, rouge_f1
from expunge.evaluation.public_rows import Fields, read_as
from expunge.evaluation.suite import Suite, spread
from expunge.requests.files import RowsSource
from expunge.requests.formats import READERS
from expunge.requests.rows import Row

HUB_ID = "muse-bench/MUSE-News"
STEPS = 4
"""How many forget sets ``scal`` and ``sust`` have each."""

_ENDS = ("\n\n", "\nQuestion", "Question:")  # after an answer that was asked for with solved questions before it
_COPIED = ("rouge_f1", "rouge", "longest_run")
_MEMORY = ("probability", "exact_memorization", "extraction_strength")
_FLUENCY = ("distinct_4grams", "answer_perplexity")
_SETS: dict[str, tuple[str | SetMetric, ...]] = {
    "verbmem": (*_COPIED, *_MEMORY, *_FLUENCY),
    "knowmem_forget": (rouge_f1.of(*_ENDS), "probability", *_FLUENCY),
    "knowmem_retain": (rouge_f1.of(*_ENDS), "probability", *_FLUENCY),
    "privleak_forget": ("min_k",),
    "privleak_holdout": ("min_k",),
}
_UTILITY = "knowmem_retain_rouge_f1"


def build(
    data: str | Path = HUB_ID,
    shots: int = 10,
    scal: int | None = None,
    sust: int | None = None,
    limit: int | None = None,
) -> Suite:
    """The suite of one corpus (News or Books).

    ``data`` is a folder with the subsets as folders (``verbmem/forget.json``, ``knowmem/forget_qa.json``,
    ``knowmem/forget_qa_icl.json``, ``privleak/holdout-00000-of-00001.parquet`` ..; texts as rows with ``text``, or in
    JSON as a plain list) or a dataset id of the hub with configurations of those names. ``shots`` solved questions of
    ``forget_qa_icl`` and ``retain_qa_icl`` stand before each question. Continuations are compared with as many
    tokens of the text as a model may generate (``training.max_new_tokens``). ``scal`` 1 to 4 adds the forget
    set of that size (``scal/forget_1`` ..) as set ``scal_1`` .., for a model that forgot it. ``sust`` 1 to 4 adds the
    requests up to that step (``sust/forget_1`` ..) as sets ``sust_1`` .., for a model that forgot them in turn.
    ``limit`` scores at most so many rows a set, evenly spread. Set ``training.max_new_tokens=128``, the protocol's,
    and ``training.max_length=2048``, which the longest texts have: texts beyond it are scored without their end, and
    the scores' notes say how many.
    """
    for name, step in (("scal", scal), ("sust", sust)):
        if step is not None and not 1 <= step <= STEPS:
            raise ConfigError(f"suite.{name}={step}: {name} has forget sets 1 to {STEPS}.")
    if shots < 0:
        raise ConfigError(f"suite.shots={shots}: expected 0 or more solved questions.")
    problems: list[str] = []

    def rows(subset: str, split: str) -> tuple[Row, ...]:
        try:
            return _read(data, subset, split)
        except RequestError as error:
            problems.append(str(error))
            return ()

    solved = {side: rows("knowmem", f"{side}_qa_icl") if shots else () for side in ("forget", "retain")}
    given = {
        "verbmem": rows("verbmem", "forget"),
        "knowmem_forget": rows("knowmem", "forget_qa"),
        "knowmem_retain": rows("knowmem", "retain_qa"),
        "privleak_forget": rows("privleak", "forget"),
        "privleak_holdout": rows("privleak", "holdout"),
    }
    given |= {} if scal is None else {f"scal_{scal}": rows("scal", f"forget_{scal}")}
    given |= {f"sust_{step}": rows("sust", f"forget_{step}") for step in range(1, (sust or 0) + 1)}
    few = [f"{side}_qa_icl has {len(some)}" for side, some in solved.items() if some and len(some) < shots]
    if few:
        problems.append(f"suite.shots={shots}: {' and '.join(few)} solved questions. Lower it (0: none).")
    if problems:
        raise RequestError("\n".join(problems))
    sets = {name: spread(some, limit, option="limit") for name, some in given.items()}
    return of_rows(sets, {side: some[:shots] for side, some in solved.items()})


def of_rows(sets: Mapping[str, Sequence[Row]], solved: Mapping[str, Sequence[Row]]) -> Suite:
    """The suite over rows that are at hand, by set: ``verbmem`` (a text's beginning and what follows), the questions of
    ``knowmem_forget`` and ``knowmem_retain``, the texts of ``privleak_forget`` and ``privleak_holdout``, and texts of
    sets ``scal_1`` .. and ``sust_1`` .. if there are any. ``solved``: questions shown before those of ``forget`` and
    of ``retain``."""
    found = {name: tuple(some) for name, some in sets.items()}
    missing = [name for name in _SETS if not found.get(name)]
    if missing:
        raise RequestError(f"suite muse: there are no rows for {', '.join(missing)}. Pass at least one for each set.")
    for side in ("forget", "retain"):
        shown = [(row.prompt, row.answer) for row in solved.get(side, ())]
        name = f"knowmem_{side}"
        found[name] = tuple(with_shots(row, shown, frame=_frame) for row in found[name])
    metrics = {name: _SETS.get(name, ("probability", "exact_memorization")) for name in found}
    scores = ("privleak_forget_min_k", "privleak_holdout_min_k")
    composites: tuple[SuiteMetric, ...] = (membership_auc.of(*scores), privleak.of(*scores))
    plays = {"forget": "knowmem_forget", "retain": "knowmem_retain"}
    return Suite("muse", found, metrics, composites, utility=_UTILITY, plays=plays, cut_sets=("verbmem",))


def _frame(question: str) -> str:
    return f"Question: {question}\nAnswer: "


def _read(data: str | Path, subset: str, split: str) -> tuple[Row, ...]:
    source = _source(data, subset, split)
    make = {"knowmem": _question, "verbmem": _continuation}.get(subset, _text)
    name = f"{subset}/{split}"
    texts = _listed(source) if make is _text else None
    return tuple(read_as(source if texts is None else [{"text": text} for text in texts], make, name))


def _question(fields: Fields) -> Row:
    return Row(fields.text("question"), fields.text("answer"), source=fields.source)


def _continuation(fields: Fields) -> Row:
    return Row(fields.text("prompt"), fields.text("gt"), kind="completion", source=fields.source)


def _text(fields: Fields) -> Row:
    return Row("", fields.text("text"), kind="document", source=fields.source)


def _source(data: str | Path, subset: str, split: str) -> RowsSource:
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if isinstance(data, Path) or str(data).count("/") != 1:
            raise RequestError(
                f"{data}: is no folder with MUSE's subsets and no dataset id. Pass a folder or {HUB_ID}."
            )
        return f"{data}:{subset}:{split}"
    here = folder / subset
    files = sorted(path for path in here.iterdir() if path.suffix.lower() in READERS) if here.is_dir() else []
    parts = [path for path in files if re.fullmatch(rf"{split}-\d+-of-\d+", path.stem)]
    found = parts or [path for path in files if path.stem == split]  # the hub's folders keep an older copy beside
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(path.name for path in found[:5])
        raise RequestError(f"{here}: several files could be the split {split}: {listed}. Leave one of them there.")
    raise RequestError(f"{folder}: has no {subset}/{split} ({split}.json, .jsonl, .parquet or .csv).")


def _listed(source: RowsSource) -> list[str] | None:
    """The texts of a JSON file that is a plain list of them; None for any other source."""
    if not isinstance(source, Path) or source.suffix.lower() != ".json":
        return None
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the usual reader says what is wrong
    is_plain = isinstance(found, list) and bool(found) and all(isinstance(text, str) for text in found)
    return found if is_plain else None


BENCHMARK = Benchmark(
    name="muse",
    summary="News articles or a book to forget: the text, what it says, traces of it, and what must stay.",
    title="MUSE: Machine Unlearning Six-Way Evaluation for Language Models",
    reference="arXiv 2407.06460",
    metrics=(*_COPIED, *_MEMORY, *_FLUENCY, "min_k", "membership_auc", "privleak"),
    build=build,
)
