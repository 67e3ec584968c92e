"""Harmful prompts that must no longer be answered, normal ones that must (as in SKU, arXiv 2402.10058)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.judge import Given, make_judge
from expunge.evaluation.suite import Suite, spread
from expunge.requests.request import Request, load_rows
from expunge.requests.responses import NoResponsesError
from expunge.requests.rows import Row

_FLUENCY = ("answer_perplexity", "distinct_4grams", "entropy", "repetition")
_METRICS = {
    "harmful": ("harmful_rate", "rejection", "probability", "rouge", *_FLUENCY),
    "harmful_holdout": ("harmful_rate", "rejection", "probability", "rouge"),
    "harmful_paraphrased": ("harmful_rate", "rejection"),
    "normal": ("perplexity", "exact", "probability", "rouge", "rejection", "harmful_rate", *_FLUENCY),
}
_SHOWN = 5


def build(
    request: Request | None = None,
    harmful: str | Path | None = None,
    normal: str | Path | None = None,
    holdout: str | Path | None = None,
    judge: str = "rules",
    markers: str | Sequence[str] = (),
    judge_label: str | None = None,
    judge_model: str | None = None,
    judge_key: str | None = None,
    judge_cache: str | Path | None = None,
    limit: int | None = 400,
) -> Suite:
    """The suite over harmful prompts, held-out ones and normal prompts.

    ``harmful`` (default: the request's forget rows) and ``holdout``, prompts of the same kind that the request does not
    contain, are files whose unsafe responses are taken; ``normal`` (default: the request's retain rows) is one whose
    safe responses are. Harmful prompts with a reworded form are asked in that form too. ``judge`` decides what is
    unsafe: ``rules`` (with ``markers``, words that only unsafe answers hold), ``classifier``, the folder of a
    sequence-classification model (``judge_label`` names its label for unsafe), or the URL of an OpenAI-compatible
    endpoint (``judge_model``, the environment variable ``judge_key`` with its key (default OPENAI_API_KEY), and
    ``judge_cache``, a file that keeps its verdicts); an option that does not apply to the judge is an error.
    ``limit`` scores at most so many rows of each set, evenly spread over it (None: all).
    """
    forget, retain = (request.forget, request.retain) if request is not None else ((), ())
    given = {"harmful": _rows(harmful, "harmful", forget)}
    if not given["harmful"]:
        raise ConfigError("suite safety has no harmful prompts: pass --forget FILE or suite.harmful=FILE.")
    if holdout is not None:
        given["harmful_holdout"] = _rows(holdout, "holdout", ())
        _check_apart(given["harmful_holdout"], given["harmful"])
    plain = _rows(normal, "normal", retain)
    chosen = make_judge(
        Given(
            text=judge,
            markers=(markers,) if isinstance(markers, str) else tuple(markers),
            unsafe=given["harmful"],
            safe=(*_safe_responses(harmful), *plain),
            label=judge_label,
            model=judge_model,
            key_variable=judge_key,
            cache=judge_cache,
        )
    )
    sets = {name: spread(rows, limit, option="limit") for name, rows in given.items()}
    reworded = [
        row.with_prompt(row.paraphrased_prompt) for row in sets["harmful"] if row.paraphrased_prompt is not None
    ]
    if reworded:
        sets["harmful_paraphrased"] = tuple(reworded)
    if plain:
        sets["normal"] = spread(plain, limit, option="limit")
    metrics = {name: names for name, names in _METRICS.items() if name in sets}
    unavailable: dict[str, str] = {}
    if not plain:
        reason = "there are no normal rows (pass --retain FILE or suite.normal=FILE)"
        unavailable = {f"normal_{name}": reason for name in _METRICS["normal"]}
    elif not chosen.judges_normal:
        metrics["normal"] = tuple(name for name in metrics["normal"] if name != "harmful_rate")
        unavailable["normal_harmful_rate"] = (
            "judge rules without suite.markers takes every answer that does not decline for unsafe"
        )
    return Suite(
        "safety",
        {name: sets[name] for name in metrics},
        metrics,
        utility="normal_probability" if plain else None,
        unavailable=unavailable,
        judge=chosen,
        plays={"forget": "harmful", "retain": "normal"},
    )


def _rows(source: str | Path | None, name: str, otherwise: Sequence[Row]) -> tuple[Row, ...]:
    if source is None:
        return tuple(otherwise)
    return load_rows(source, name=name, responses="safe" if name == "normal" else "unsafe")


def _safe_responses(harmful: str | Path | None) -> tuple[Row, ...]:
    """The safe responses that stand beside the unsafe ones, for a judge that learns from both; none where responses
    are not marked, or all are unsafe."""
    if harmful is None:
        return ()
    try:
        safe = load_rows(harmful, name="harmful", responses="safe")
    except NoResponsesError:
        return ()
    unsafe = set(load_rows(harmful, name="harmful", responses="unsafe"))
    return tuple(row for row in safe if row not in unsafe)


def _check_apart(holdout: Sequence[Row], harmful: Sequence[Row]) -> None:
    known = {" ".join(row.prompt.split()).casefold(): row for row in harmful}
    shared = [row for row in holdout if " ".join(row.prompt.split()).casefold() in known]
    if shared:
        listed = ", ".join(row.source or "?" for row in shared[:_SHOWN])
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise RequestError(
            f"suite.holdout: {len(shared)} of its {len(holdout)} prompts are among the harmful ones ({listed}{more}), "
            "so they are not held out. Take them out of one side."
        )


BENCHMARK = Benchmark(
    name="safety",
    summary="Harmful prompts, held-out ones, normal ones: harmful rate by a judge, perplexity, answers given right.",
    title="Towards Safer Large Language Models through Machine Unlearning",
    reference="arXiv 2402.10058",
    metrics=tuple(dict.fromkeys(name for names in _METRICS.values() for name in names)),
    build=build,
)
