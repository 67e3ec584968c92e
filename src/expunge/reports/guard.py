"""What an erasure's manifest says of its input guard: tables, words, and what the page draws.

It is found by the keys of the manifest's details, whatever method wrote them; what is not there is not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reports.load import Run, finite, is_number
from expunge.reports.numbers import count, number, percent, percent_at_most

_CLASSIFIERS = {
    "tfidf": "words and characters (TF-IDF)",
    "hidden": "the target's own hidden states",
    "encoder": "a sentence encoder",
    "sequence": "a fine-tuned sequence classifier",
}
_PLAIN = "plain"
_DISGUISES = {
    _PLAIN: "as they are",
    "typos": "with typos",
    "upper_case": "in upper case",
    "lower_case": "in lower case",
    "alternating_case": "in alternating case",
    "look_alikes": "with look-alike letters of other scripts",
    "zero_width": "with invisible characters between letters",
    "spaced_letters": "with blanks between all letters",
    "spaced_name": "with blanks between the name's letters",
    "separated_letters": "with signs between all letters",
    "letter_pairs": "cut into pairs of letters",
    "leet": "with digits for letters",
    "split_over_turns": "with the name split over two turns",
    "jailbreak_prefix": "behind a jailbreak prefix",
    "buried_in_text": "buried in a longer text",
    "paraphrase": "paraphrased",
    "other_language": "in another language",
}
_RATE = ("flagged", "rows", "low", "high", "rate")
_BOUND = ("rows", "bound", "upper")
_CURVE = ("threshold", "precision", "recall")
_LISTED = 40  # evaluations in the table of the history
_DRAWN = {"guard": ("precision_recall", "reliability", "robustness"), "learned": ("history",)}


@dataclass(frozen=True)
class RateRow:
    """The rate of one kind of prompts as text; ``bound`` is empty where none was set, ``weak``: a weak spot."""

    name: str
    rows: str
    flagged: str
    rate: str
    interval: str
    bound: str = ""
    weak: bool = False


@dataclass(frozen=True)
class Learned:
    """What a strength or a number of dimensions was learned from, in words, and its evaluations."""

    words: str
    rows: tuple[tuple[str, ...], ...]
    left_out: int


@dataclass(frozen=True)
class Shown:
    """What the page shows of one run's guard. ``at`` is the run's position, ``index`` that of what is drawn."""

    at: int
    index: int
    first_seed: bool
    facts: tuple[tuple[str, str], ...]
    false: tuple[RateRow, ...]
    recall: tuple[RateRow, ...]
    robustness: tuple[RateRow, ...]
    weak_spots: str
    curve: str
    reliability: str
    learned: Learned | None


def shown(runs: list[Run]) -> tuple[list[Shown], list[dict[str, Any]]]:
    """Every run that has a guard, and beside them what is drawn, for the page's scripts."""
    found: list[Shown] = []
    figures: list[dict[str, Any]] = []
    for at, run in enumerate(runs):
        guard, learned = _guard(run.details), _learned(run.details)
        if guard is None and learned is None:
            continue
        found.append(_shown(at, len(figures), run, guard or {}, learned))
        figures.append({"run": at, **drawn(run.details)})
    return found, figures


def summary(run: Run) -> str:
    """The guard in one sentence, for the terminal; empty where there is none."""
    guard = _guard(run.details)
    if guard is None:
        return ""
    threshold, false, recall = guard["threshold"], _every(guard, "false_positives"), _every(guard, "recall")
    said = f"{'First seed: guard' if run.seeds else 'Guard'} acts from score {number(finite(threshold['value']))} on"
    if false:
        said += (
            f"; false alarms {percent(false['rate'])} of {count(false['rows'], 'benign prompt')}, "
            f"{_level(threshold)} asked for"
        )
    return said + (f"; recall {percent(recall['rate'])} of {_own(guard, recall)}." if recall else ".")


def drawn(details: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's scripts draw, as JSON: ``curve`` and where the threshold lies on it (``mark``), ``reliability``,
    ``history``; each None where there is none."""
    guard, learned = _guard(details) or {}, _learned(details)
    curve = _curve(guard)
    return {"curve": curve, "mark": _mark(guard, curve), "reliability": _bins(guard), "history": _history(learned)}


def without_drawn(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details without what the page draws or has in tables of its own."""
    kept = dict(details)
    for name, lists in _DRAWN.items():
        if isinstance(kept.get(name), Mapping):
            kept[name] = {key: value for key, value in kept[name].items() if key not in lists}
    learned = kept.get("learned")
    if isinstance(learned, Mapping) and isinstance(learned.get("point"), list):  # a strength for each dimension
        kept["learned"] = {**learned, "point": _points_in_words(learned["point"])}
    return kept


def _shown(at: int, index: int, run: Run, guard: Mapping[str, Any], learned: Mapping[str, Any] | None) -> Shown:
    robustness = _rates(guard.get("robustness"), _DISGUISES)
    weak = [name for name in guard.get("weak_spots") or () if name in robustness]
    curve, bins = _curve(guard), _bins(guard)
    bounds = {str(one["kind"]): one for one in _bounds(guard)}
    return Shown(
        at=at,
        index=index,
        first_seed=bool(run.seeds),
        facts=tuple(_facts(run, guard)),
        false=_rows(guard.get("false_positives"), bounds),
        recall=_rows(guard.get("recall"), {}),
        robustness=tuple(
            _row(_disguise(name), one, weak=name in weak)
            for name, one in sorted(robustness.items(), key=lambda item: (item[0] != _PLAIN, item[1]["rate"]))
        ),
        weak_spots=_weak_in_words(weak, robustness),
        curve=f"Average precision {number(curve['average'])}." if curve and curve["average"] is not None else "",
        reliability=_reliability_in_words(bins),
        learned=_learned_in_words(learned),
    )


def _facts(run: Run, guard: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What is recognised, how, from which score on, and what happens then."""
    manifest = run.manifest or {}
    given = manifest.get("parameters")
    parameters: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    request = (run.settings or {}).get("request")
    names = [*request.get("subjects", ()), *request.get("aliases", ())] if isinstance(request, Mapping) else []
    about = f" ({', '.join(map(str, names))})" if names else ""
    if guard:
        kind = str(guard.get("classifier", ""))
        yield "Recognises", f"prompts like those of the forget rows{about}, by {_CLASSIFIERS.get(kind, kind)}."
        threshold = guard["threshold"]
        decides = threshold.get("decides")
        own = f"decided by the group “{decides}”" if decides else "decided by all benign prompts together"
        asked = f"at most {_level(threshold)} of benign prompts asked for, {own}."
        yield "Threshold", f"a score of {number(finite(threshold['value']))}; {asked}"
        if _made(guard):
            own = count(guard["prompts"]["own"], "prompt")
            yield (
                "Fitted on",
                f"{own} of the request's own and {_made(guard):,} made, which are left out of the recall.",
            )
        if guard.get("unseen") is False:
            yield "Rates", "too few benign prompts to judge them unseen: by the threshold in use, which saw them."
    if isinstance(parameters.get("refusal"), str):
        yield "Then", f"the answer is “{parameters['refusal']}”"
    elif isinstance(parameters.get("corruption"), str):
        yield "Then", f"embeddings are corrupted: {_corruption_in_words(parameters, run.details)}."


def _own(guard: Mapping[str, Any], recall: Mapping[str, Any]) -> str:
    """How many prompts the recall is over, and whose, where others were made beside them."""
    rows = int(recall["rows"])
    return (
        f"{count(rows, 'prompt')} of the request's own ({_made(guard):,} made ones aside)"
        if _made(guard)
        else f"{rows:,}"
    )


def _made(guard: Mapping[str, Any]) -> int:
    found = guard.get("prompts")
    there = isinstance(found, Mapping) and is_number(found.get("own")) and is_number(found.get("made"))
    return int(found["made"]) if there and isinstance(found, Mapping) else 0


def _corruption_in_words(parameters: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    learned = _learned(details)
    said = [str(parameters["corruption"])]
    for name, word in (("strength", "strength"), ("dims", "dimensions")):
        value = parameters.get(name)
        if learned is not None and learned["what"] == name:
            said.append(f"{word} {_points_in_words(learned['point'])} (learned)")
        elif is_number(value):
            said.append(f"{word} {number(value)}")
    if parameters.get("tagger"):
        said.append(f"tokens: {str(parameters['tagger']).replace('_', ' ')}")
    return ", ".join(said)


def _weak_in_words(weak: list[str], robustness: Mapping[str, Mapping[str, Any]]) -> str:
    if len(robustness) < 2:
        return ""
    tried = count(len(robustness) - 1, "disguise")
    if not weak:
        return f"No weak spot: under none of {tried} is recall surely lower than on the prompts as they are."
    each = ", ".join(f"{_disguise(name)} ({percent(robustness[name]['rate'])})" for name in weak)
    said = f"Weak {'spot' if len(weak) == 1 else 'spots'}: prompts {each}."
    if _PLAIN in robustness:
        plain = percent(robustness[_PLAIN]["rate"])
        said += f" Recall there is surely lower than on the prompts as they are ({plain}): their intervals do not meet."
    return said


def _reliability_in_words(bins: Mapping[str, Any] | None) -> str:
    if bins is None:
        return ""
    error = f" They are off by {number(bins['error'])} on average." if bins["error"] is not None else ""
    return f"{count(sum(bins['rows']), 'prompt')}, both classes weighing the same.{error}"


def _learned_in_words(learned: Mapping[str, Any] | None) -> Learned | None:
    if learned is None:
        return None
    what = {"dims": "The number of dimensions"}.get(str(learned["what"]), f"The {learned['what']}")
    history = learned["history"]
    source = learned.get("surrogate_from")
    said = f"{what} in use, {_points_in_words(learned['point'])}, was the best of {count(len(history), 'evaluation')}. "
    if is_number(learned.get("surrogate")):
        said += f"It was to bring the score ({learned.get('score', 'of the forget rows')}) to "
        said += f"{number(finite(learned['surrogate']))}{_from(source)}; it came within {number(learned['value'])}."
    if is_number(learned.get("score_of_target")):
        said += f" Unguarded, the target's score is {number(finite(learned['score_of_target']))}."
    rows = tuple(
        (str(at), str(one["step"]), _points_in_words(one["point"]), number(finite(one["value"])))
        for at, one in enumerate(history[:_LISTED], 1)
    )
    return Learned(said, rows, max(0, len(history) - _LISTED))


def _from(source: object) -> str:
    known = {
        "given": ", as was given",
        "chance": ", which is chance",
        "holdout rows": ", the target's on holdout rows, which it never saw",
        "other rows' answers": ", the target's for answers of other rows",
    }
    return known.get(str(source), f" (from {source})" if source else "")


def _points_in_words(point: object) -> str:
    """A number, or of a vector its mean and range."""
    if not isinstance(point, list):
        return number(finite(point))
    values = [value for value in map(finite, point) if value is not None]
    if not values:
        return number(None)
    mean, low, high = sum(values) / len(values), min(values), max(values)
    return f"{number(mean)} on average over {len(values):,} dimensions ({number(low)} to {number(high)})"


def _rows(found: object, bounds: Mapping[str, Mapping[str, Any]]) -> tuple[RateRow, ...]:
    """All kinds together, then each; a single kind is all there are."""
    rates = _rates(found)
    if len(rates) == 2 and "" in rates:
        rates = {"": rates[""]}
    every = "The request's own" if "made" in rates else ""
    return tuple(_row(kind or every, one, bounds.get(kind)) for kind, one in rates.items())


def _row(kind: str, one: Mapping[str, Any], bound: Mapping[str, Any] | None = None, *, weak: bool = False) -> RateRow:
    return RateRow(
        name=kind or "All together",
        rows=f"{int(one['rows']):,}",
        flagged=f"{int(one['flagged']):,}",
        rate=percent(one["rate"]),
        interval=f"{percent(one['low'])} to {percent(one['high'])}",
        bound=percent_at_most(bound["bound"]) if bound else "",
        weak=weak,
    )


def _disguise(name: str) -> str:
    return _DISGUISES.get(name, name.replace("_", " "))


def _level(threshold: Mapping[str, Any]) -> str:
    return f"{100 * threshold['level']:g}%"


def _guard(details: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Figures of a guard; whatever else may be under the key is none."""
    found = details.get("guard")
    if not isinstance(found, Mapping) or not isinstance(found.get("threshold"), Mapping):
        return None
    return found if all(is_number(found["threshold"].get(key)) for key in ("value", "level")) else None


def _learned(details: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = details.get("learned")
    if not isinstance(found, Mapping) or not found.keys() >= {"what", "point", "value", "history"}:
        return None
    history = found["history"]
    there = isinstance(history, list) and history and all(map(_is_evaluation, history))
    return found if there and is_number(found["value"]) and _is_point(found["point"]) else None


def _is_evaluation(one: object) -> bool:
    return isinstance(one, Mapping) and is_number(one.get("step")) and _is_point(one.get("point")) and "value" in one


def _is_point(point: object) -> bool:
    return is_number(point) or (isinstance(point, list) and bool(point) and all(map(is_number, point)))


def _rates(found: object, order: Iterable[str] = ()) -> dict[str, Mapping[str, Any]]:
    """Rates by name: those of ``order`` first."""
    if not isinstance(found, Mapping):
        return {}
    known = {str(name): one for name, one in found.items() if _is_rate(one)}
    return {name: known[name] for name in (*(name for name in order if name in known), *known)}


def _is_rate(one: object) -> bool:
    return isinstance(one, Mapping) and all(is_number(one.get(key)) for key in _RATE)


def _every(guard: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    return _rates(guard.get(key)).get("")


def _bounds(guard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = (guard.get("threshold") or {}).get("bounds")
    listed = found if isinstance(found, list | tuple) else ()
    return [
        one
        for one in listed
        if isinstance(one, Mapping) and "kind" in one and all(is_number(one.get(key)) for key in _BOUND)
    ]


def _curve(guard: Mapping[str, Any]) -> dict[str, Any] | None:
    found = guard.get("precision_recall")
    lists = _lists(found, _CURVE)
    return None if lists is None else {**lists, "average": finite(found.get("average_precision"))}  # type: ignore[union-attr]


def _bins(guard: Mapping[str, Any]) -> dict[str, Any] | None:
    found = guard.get("reliability")
    lists = _lists(found, ("probability", "share", "rows"))
    return None if lists is None else {**lists, "error": finite(found.get("error"))}  # type: ignore[union-attr]


def _lists(found: object, names: Iterable[str]) -> dict[str, list[Any]] | None:
    """Lists of the same length, of numbers alone; None where they are not."""
    if not isinstance(found, Mapping):
        return None
    lists = {name: found.get(name) for name in names}
    whole = {name: one for name, one in lists.items() if isinstance(one, list) and one and all(map(is_number, one))}
    return whole if len(whole) == len(lists) and len({len(one) for one in whole.values()}) == 1 else None


def _mark(guard: Mapping[str, Any], curve: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The last point of the curve at which no prompt below the threshold is flagged."""
    if curve is None:
        return None
    above = [at for at, value in enumerate(curve["threshold"]) if value >= guard["threshold"]["value"]]
    return {"precision": curve["precision"][above[-1]], "recall": curve["recall"][above[-1]]} if above else None


def _history(learned: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if learned is None:
        return None
    history = learned["history"]
    several = isinstance(learned["point"], list)
    word = {"dims": "Dimensions", "strength": "Strength"}.get(str(learned["what"]), str(learned["what"]).capitalize())
    return {
        "what": f"{word}, mean over the dimensions" if several else word,
        "step": [one["step"] for one in history],
        "point": [_mean(one["point"]) for one in history],
        "value": [finite(one["value"]) for one in history],
        "best": {"point": _mean(learned["point"]), "value": finite(learned["value"])},
    }


def _mean(point: Any) -> float | None:
    return finite(sum(point) / len(point) if isinstance(point, list) else point)
