"""A suite: named sets of rows and the scores taken on each, and which of them a run asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.errors import ConfigError, ControlError, UnknownNameError, did_you_mean
from expunge.evaluation.metric import Control, Need, SetMetric, SuiteMetric
from expunge.evaluation.registry import get_metric
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from expunge.evaluation.answer_judge import AnswerJudge
    from expunge.evaluation.judge import Judge

T = TypeVar("T")

ALL_CONTROLS: frozenset[Control] = frozenset({"target", "retrained"})

_REMEDY: dict[Control, str] = {
    "retrained": "a retrained model: pass --retrained DIR (expunge train makes one)",
    "target": "the target, to score the answers: pass --model DIR of the model as it was before (in Python target=)",
}


@dataclass(frozen=True)
class Suite:
    """Datasets and metrics of a benchmark.

    ``metrics`` names the metrics of each set (or gives them, where they depend on an option), ``composites`` the scores
    made of several sets (or gives them, where they depend on what the sets are called). ``utility`` is the key of the
    score that says whether the rest of the model still works, which decides the verdict *broken* (None, or where it was
    not scored: the probability of the retain answers does, if there is one).
    ``unavailable`` maps scores that the suite would have, but that its rows cannot give, to the reason.
    ``judge`` says which greedy answers are unsafe, where a metric asks for that. ``answer_judges`` say what an answer
    gives away, whether it reads well and whether it declines: metrics take the first one's word (that of fixed rules
    where there is none), and several are compared. ``plays`` names the sets that are the verdict's forget and retain
    rows where they are called otherwise. ``cut_sets`` names sets of texts that no answer can give back whole: their
    expected answers are cut to as many tokens as a greedy answer may have, before anything is scored.
    """

    name: str
    sets: Mapping[str, tuple[Row, ...]]
    metrics: Mapping[str, tuple[str | SetMetric, ...]]
    composites: tuple[str | SuiteMetric, ...] = ()
    utility: str | None = None
    unavailable: Mapping[str, str] = field(default_factory=dict)
    judge: Judge | None = None
    plays: Mapping[str, str] = field(default_factory=dict)
    answer_judges: tuple[AnswerJudge, ...] = ()
    cut_sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [f"set '{name}' has no rows" for name, rows in self.sets.items() if not rows]
        problems += [f"metrics for a set '{name}' that is not there" for name in self.metrics if name not in self.sets]
        problems += [f"a set '{name}' to cut that is not there" for name in self.cut_sets if name not in self.sets]
        if problems:
            raise ConfigError(f"suite '{self.name}' cannot be used: {'; '.join(problems)}.")

    def set_metrics(self) -> dict[str, tuple[str, SetMetric]]:
        """Score key (``forget_probability``) to its set's name and metric, in the suite's order."""
        found: dict[str, tuple[str, SetMetric]] = {}
        for name, names in self.metrics.items():
            for one in names:
                chosen = get_metric(one) if isinstance(one, str) else one
                if not isinstance(chosen, SetMetric):
                    raise ConfigError(f"suite '{self.name}': '{one}' is a score over sets, not of set '{name}'.")
                found[f"{name}_{chosen.label}"] = (name, chosen)
        return found

    def suite_metrics(self) -> dict[str, SuiteMetric]:
        """The scores made of several sets' scores, by key."""
        found: dict[str, SuiteMetric] = {}
        for one in self.composites:
            chosen = get_metric(one) if isinstance(one, str) else one
            if not isinstance(chosen, SuiteMetric):
                raise ConfigError(f"suite '{self.name}': '{one}' is a score of one set, not over sets.")
            found[chosen.name] = chosen
        return found

    def keys(self) -> list[str]:
        """Every score key the suite can give, in its order."""
        return [*self.set_metrics(), *self.suite_metrics()]

    def describe(self) -> dict[str, Any]:
        """For listings, ready for JSON: sets with their sizes, scores with what they mean and need."""
        scores = {key: {"set": name, **chosen.describe()} for key, (name, chosen) in self.set_metrics().items()}
        scores |= {key: {"set": None, **chosen.describe()} for key, chosen in self.suite_metrics().items()}
        return {
            "name": self.name,
            "sets": {name: len(rows) for name, rows in self.sets.items()},
            "metrics": scores,
            "unavailable": dict(self.unavailable),
            **({} if self.judge is None else {"judge": self.judge.describe()}),
            **({"judges": [judge.describe() for judge in self.answer_judges]} if self.answer_judges else {}),
        }


def spread(rows: Sequence[T], limit: int | None, *, option: str, section: str = "suite") -> tuple[T, ...]:
    """At most ``limit`` of ``rows``, evenly spread over them in their order; all where it is None. ``option`` of
    ``section`` set it, for the error on a limit below 1."""
    if limit is None:
        return tuple(rows)
    if limit < 1:
        raise ConfigError(
            f"{section}.{option}={limit}: at least one row of a set must be scored."
            + (f" Set suite.{option}=null to score all." if section == "suite" else "")
        )
    count = min(limit, len(rows))
    return tuple(rows[i * len(rows) // count] for i in range(count))


@dataclass(frozen=True)
class Selection:
    """Which scores of a suite are reported, which are worked out for them (``computed``, set scores only),
    and which of the default ones are left out and why. ``named``: they were asked for by name, so a score
    without a value is an error."""

    reported: tuple[str, ...]
    computed: tuple[str, ...]
    left_out: Mapping[str, str]
    named: bool

    def needs(self, suite: Suite) -> dict[str, frozenset[Need]]:
        """What has to be run on each set."""
        metrics = suite.set_metrics()
        needs: dict[str, frozenset[Need]] = {}
        for key in self.computed:
            name, chosen = metrics[key]
            needs[name] = needs.get(name, frozenset()) | chosen.needs
        return needs


def select(
    suite: Suite, metrics: Sequence[str] | None = None, *, controls: Iterable[Control] = ALL_CONTROLS
) -> Selection:
    """Resolve the scores asked for: keys (``forget_rouge``) or metrics (``rouge``: on every set that has it);
    None means all of the suite.

    A score asked for by name whose control is not among ``controls``, or that the suite's rows cannot give,
    is a :class:`ControlError` that says what to pass; in the default set it is left out with the reason. An
    unknown name is an :class:`UnknownNameError`.
    """
    set_metrics, suite_metrics = suite.set_metrics(), suite.suite_metrics()
    everything: dict[str, SetMetric | SuiteMetric] = {key: chosen for key, (_, chosen) in set_metrics.items()}
    everything |= suite_metrics
    asked = list(everything) if metrics is None else _expand(suite, metrics, everything)
    available = frozenset(controls)
    reported: list[str] = []
    left_out: dict[str, str] = dict(suite.unavailable) if metrics is None else {}
    problems: list[str] = []
    for key in asked:
        missing = sorted(everything[key].controls - available)
        if not missing:
            reported.append(key)
            continue
        reason = f"{key} needs {' and '.join(_REMEDY[control] for control in missing)}"
        left_out[key] = reason
        problems.append(reason)
    if metrics is not None and problems:
        raise ControlError(f"{'; '.join(problems)}.")
    computed = [key for key in reported if key in set_metrics]
    for key in reported:
        if key in suite_metrics:
            computed += [part for part in suite_metrics[key].requires if part not in computed]
    _check_parts(suite, computed, set_metrics)
    return Selection(tuple(reported), tuple(computed), left_out, metrics is not None)


def _expand(suite: Suite, metrics: Sequence[str], everything: Mapping[str, SetMetric | SuiteMetric]) -> list[str]:
    """Score keys for the names given, in the suite's order."""
    chosen: set[str] = set()
    known = {*everything, *suite.unavailable}
    for one in everything.values():
        known |= {one.name} | ({one.label} if isinstance(one, SetMetric) else set())
    for name in metrics:
        if name in suite.unavailable:
            raise ControlError(f"{name} was asked for, but {suite.unavailable[name]}.")
        matches = {
            key
            for key, one in everything.items()
            if name in (key, one.name) or (isinstance(one, SetMetric) and name == one.label)
        }
        if not matches:
            raise UnknownNameError(f"suite '{suite.name}' has no score '{name}'. {did_you_mean(name, known)}")
        chosen |= matches
    return [key for key in everything if key in chosen]


def _check_parts(suite: Suite, computed: Iterable[str], set_metrics: Mapping[str, object]) -> None:
    missing = [key for key in computed if key not in set_metrics]
    if missing:
        raise ConfigError(
            f"suite '{suite.name}' needs {', '.join(missing)} for its scores over sets, which no set gives; "
            "add the metric to the set or take the score out of composites."
        )
