"""WPU: forget real people from their encyclopaedia pages; keep what else the pages tell, and other people (arXiv
2407.16997)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError, did_you_mean
from expunge.evaluation.answer_judge import JUDGED, AnswerJudge, judged_metrics, make_answer_judges
from expunge.evaluation.public_rows import Fields, read_as
from expunge.evaluation.suite import Suite, spread
from expunge.requests.formats import READERS
from expunge.requests.request import Request
from expunge.requests.rows import Row

HUB_ID = "Shiyu-Lab/Wikipedia_Person_Unlearn"
SPLITS = ("forget_100", *(f"forget_20_{i}" for i in range(1, 4)), *(f"forget_2_{i}" for i in range(1, 6)))
WORLD = "people"
RULES = "rules"

_SCORED = ("forget", "hard_retain", "general_retain")
_MEMORY = ("extraction_strength", "exact_memorization")
_FLUENCY = ("distinct_4grams", "unique_tokens", "answer_perplexity")
_METRICS = {
    "forget": ("probability", "rouge", "leakage", *_MEMORY, *_FLUENCY),
    "forget_paraphrased": ("probability", "rouge", "leakage"),
    "hard_retain": ("probability", "rouge", "leakage", *_FLUENCY),
    "general_retain": ("probability", "rouge", *_FLUENCY),
}
_COMPARED = ("forget_quality", "forget_quality_ks")
_WITH_WRONG = {"forget": "truth_ratio", "hard_retain": "kept_truth_ratio", "general_retain": "kept_truth_ratio"}


@dataclass(frozen=True)
class People:
    """What the data set says about the people of one split: questions about them (``forget``), about what else their
    pages tell (``hard_retain``) and about other people (``general_retain``); where they are there, the pages
    (``passages``), pages or questions to be kept by training on them (``retain``) and by person the names that can
    stand in (``substitutes``). Every row's group is the person it belongs to."""

    forget: tuple[Row, ...]
    hard_retain: tuple[Row, ...]
    general_retain: tuple[Row, ...]
    passages: tuple[Row, ...] = ()
    retain: tuple[Row, ...] = ()
    substitutes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Whom the split is about, in its order."""
        return tuple(dict.fromkeys(row.group for row in (*self.forget, *self.passages)))

    def request(self) -> Request:
        """The split as a request: pages (questions where there are none) to forget, hard-retain questions as
        neighbours, the retain rows to keep (general-retain questions where there are none), the people's names as
        subjects. One person's request carries the names that can stand in; those of several would be each other's."""
        return Request(
            forget=self.passages or self.forget,
            retain=self.retain or self.general_retain,
            neighbours=self.hard_retain,
            subjects=self.names,
            substitutes=self.substitutes.get(self.names[0], ()) if len(self.names) == 1 else (),
        )


def load(data: str | Path = HUB_ID, split: str = "forget_100", people: Sequence[str] = ()) -> People:
    """The rows of one split, those of ``people`` alone where names are given.

    ``data`` is the data set's id on the hub, or a folder with files (.jsonl, .json, .csv, .tsv or .parquet) named
    ``<split>``, ``<split>_hard_retain`` and ``general_retain`` (each perhaps with ``_qa``), and if need be
    ``<split>_passages``, ``retain`` and ``replace_name_*.json`` (person to a list of names). Columns: ``title`` (or
    ``name``), ``question``, ``answer``, ``wikipage`` (or ``passage``), capitals or not; JSON may group rows by person.
    A page that stands in many rows is one passage. All that is missing or malformed is named in one
    :class:`RequestError`.
    """
    return _load(data, split, people, (*_SCORED, "passages", "retain"))


def _load(data: str | Path, split: str, people: Sequence[str], parts: Sequence[str]) -> People:
    if not split.startswith("forget_"):
        raise ConfigError(f"wpu has no split '{split}'. {did_you_mean(split, SPLITS)}")
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if isinstance(data, Path) or str(data).count("/") != 1:
            raise RequestError(f"{data}: is no folder with WPU's files and no dataset id. Pass a folder or {HUB_ID}.")
        if split not in SPLITS:
            raise ConfigError(f"wpu has no split '{split}'. {did_you_mean(split, SPLITS)}")
    files = {
        "forget": split,
        "hard_retain": f"{split}_hard_retain",
        "general_retain": "general_retain",
        "passages": f"{split}_passages",
        "retain": "retain",
    }
    found: dict[str, list[_Line]] = {name: [] for name in files}
    problems: list[str] = []
    for name in parts:
        try:
            source = _source(data, files[name], name)
            if source is not None:
                found[name] = read_as(source, _page if name == "passages" else _question, name)
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    rows = People(
        forget=_questions(found["forget"]),
        hard_retain=_questions(found["hard_retain"]),
        general_retain=_questions(found["general_retain"]),
        passages=_pages([*found["forget"], *found["passages"]]),
        retain=_pages(found["retain"]) or _questions(found["retain"]),
    )
    if "retain" in parts and folder.is_dir():
        rows = replace(rows, substitutes=_substitutes(folder, rows.names))
    return _only(rows, people, split) if people else rows


def build(
    data: str | Path = HUB_ID,
    split: str = "forget_100",
    people: Sequence[str] = (),
    world: str | None = None,
    limit: int | None = 400,
    answer_judge: str | Sequence[str] = RULES,
    entailment_model: str | Path | None = None,
    answer_judge_model: str | None = None,
    answer_judge_key: str | None = None,
    answer_judge_cache: str | Path | None = None,
    answer_judge_rate: float | None = None,
) -> Suite:
    """The suite for one split (``forget_100``, ``forget_20_1`` to ``_3``, ``forget_2_1`` to ``_5``), read as
    :func:`load` does.

    ``people`` names those of the split who are asked about (none: all). ``world`` takes the rows of world ``people``
    instead (``people``, ``people-2`` ..) and reads no data. ``limit`` scores at most so many rows of each set, evenly
    spread over it (None: all). ``answer_judge`` says what answers give away, how they read and whether they decline:
    by ``rules``, or others and their options as in suite ``request``.
    """
    judges = make_answer_judges(
        answer_judge,
        entailment_model=entailment_model,
        answer_judge_model=answer_judge_model,
        answer_judge_key=answer_judge_key,
        answer_judge_cache=answer_judge_cache,
        answer_judge_rate=answer_judge_rate,
    )
    if world is not None:
        from expunge.worlds.interface import get_world

        if world.partition("-")[0] != WORLD:
            raise ConfigError(f"suite.world={world}: suite wpu scores world '{WORLD}' (or {WORLD}-2 ..) alone.")
        sets = get_world(world).suite().sets
        rows = People(sets["forget"], sets["hard_retain"], sets["general_retain"])
    else:
        rows = _load(data, split, people, _SCORED)
    return of_rows(
        forget=spread(rows.forget, limit, option="limit"),
        hard_retain=spread(rows.hard_retain, limit, option="limit"),
        general_retain=spread(rows.general_retain, limit, option="limit"),
        judges=judges,
    )


def of_rows(
    *,
    forget: Sequence[Row],
    hard_retain: Sequence[Row],
    general_retain: Sequence[Row],
    judges: Sequence[AnswerJudge] | None = None,
) -> Suite:
    """The suite over rows that are at hand. Reworded questions are asked too where forget rows have them; truth
    ratios are scored on sets whose rows carry wrong answers. ``judges`` None: the one that goes by rules."""
    judges = make_answer_judges(RULES) if judges is None else tuple(judges)
    given = {"forget": forget, "hard_retain": hard_retain, "general_retain": general_retain}
    reworded = {row.paraphrased_prompt: row for row in forget if row.paraphrased_prompt is not None}
    if reworded:
        given["forget_paraphrased"] = [row.with_prompt(prompt) for prompt, row in reworded.items()]
    sets = {name: tuple(given[name]) for name in _METRICS if name in given}
    metrics = {name: (*_METRICS[name], *judged_metrics(judges)) for name in sets}
    unavailable: dict[str, str] = {}
    for name, ratio in _WITH_WRONG.items():
        if all(row.wrong_answers for row in sets[name]):
            metrics[name] += (ratio,)
        else:
            unavailable[f"{name}_truth_ratio"] = f"the {name} rows carry no wrong answers"
    compared = _COMPARED if "truth_ratio" in metrics["forget"] else ()
    if not compared:
        unavailable |= dict.fromkeys(_COMPARED, "the forget rows carry no wrong answers")
    return Suite(
        "wpu",
        sets,
        metrics,
        compared,
        utility="general_retain_probability",
        unavailable=unavailable,
        plays={"retain": "general_retain"},
        answer_judges=judges,
    )


@dataclass(frozen=True)
class _Line:
    """One row of a file: the person, the question if it asks one, the page if it holds one."""

    person: str
    row: Row | None
    page: str
    source: str


def _question(fields: Fields) -> _Line:
    person = fields.text("title", "name", "Title", "Name") if _named(fields) else ""
    question, answer = fields.text("question", "Question"), fields.text("answer", "Answer")
    page = fields.text("wikipage") if fields.has("wikipage") else ""
    return _Line(person, Row(question, answer, group=person, source=fields.source), page, fields.source)


def _page(fields: Fields) -> _Line:
    return _Line(fields.text("title", "name", "Title", "Name"), None, fields.text("passage", "wikipage"), fields.source)


def _named(fields: Fields) -> bool:
    return any(fields.has(name) for name in ("title", "name", "Title", "Name"))


def _source(data: str | Path, stem: str, name: str) -> str | Path | None:
    """Where a part lies: in a folder the file named ``stem`` or ``stem``_qa, else a configuration of the hub. None: it
    is not there, and need not be."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        return None if name == "passages" else f"{data}:{stem}:train"  # there the pages are a column of the questions
    stems = (stem, f"{stem}_qa")
    found = sorted(path for path in folder.iterdir() if path.stem in stems and path.suffix.lower() in READERS)
    if len(found) > 1:
        raise RequestError(
            f"{folder}: several files could be {stem}: {', '.join(path.name for path in found)}. Leave one of them."
        )
    if not found and name in _SCORED:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
        raise RequestError(f"{folder}: has no {stem} or {stem}_qa file of rows; found {names or 'nothing'}.")
    return found[0] if found else None


def _questions(lines: Iterable[_Line]) -> tuple[Row, ...]:
    return tuple(line.row for line in lines if line.row is not None)


def _pages(lines: Iterable[_Line]) -> tuple[Row, ...]:
    """Every page once."""
    pages = {(line.person, line.page): line.source for line in reversed(list(lines)) if line.page}
    return tuple(
        Row("", page, kind="document", group=person, source=source)
        for (person, page), source in reversed(pages.items())
    )


def _substitutes(folder: Path, people: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names that can stand in for each of ``people``, from the folder's lists."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("replace_name_*.json")):
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
            found |= {person: tuple(lists[person]) for person in people if person in lists}
        except (OSError, TypeError, ValueError) as error:
            raise RequestError(f"{path}: is no list of names by person ({error}).") from error
    return found


def _only(rows: People, people: Iterable[str], split: str) -> People:
    """The rows of some of the people; those about others' general facts all stay."""
    wanted = set(people)
    strange = sorted(wanted - set(rows.names))
    if strange:
        known = [name for name in rows.names if name]
        hints = " ".join(did_you_mean(name, known) for name in strange[:3])
        raise RequestError(f"{split} is not about {', '.join(strange)}. {hints or 'Its rows name nobody.'}")
    return replace(
        rows,
        forget=tuple(row for row in rows.forget if row.group in wanted),
        hard_retain=tuple(row for row in rows.hard_retain if row.group in wanted),
        passages=tuple(row for row in rows.passages if row.group in wanted),
    )


BENCHMARK = Benchmark(
    name="wpu",
    summary="Forget people from their encyclopaedia pages; keep what else the pages tell, and other people.",
    title="Revisiting Who's Harry Potter: Towards Targeted Unlearning from a Causal Intervention Perspective",
    reference="arXiv 2407.16997",
    metrics=(
        *dict.fromkeys(name for names in _METRICS.values() for name in names),
        *JUDGED,
        "leakage_entailment",
        "truth_ratio",
        "kept_truth_ratio",
        *_COMPARED,
    ),
    build=build,
    leading=(
        *_COMPARED,
        "forget_leakage",
        "forget_rejection",
        "forget_paraphrased_leakage",
        "hard_retain_leakage",
        "hard_retain_rouge",
        "general_retain_rouge",
        "general_retain_probability",
    ),
)
