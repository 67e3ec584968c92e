"""The user's own rows as a suite: what must go, what must stay, and the sets that check both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.benchmarks.registry import Benchmark
from expunge.evaluation.answer_judge import JUDGED, judged_metrics, make_answer_judges
from expunge.evaluation.suite import Suite, spread
from expunge.requests.request import Request

_SETS = ("forget", "probes", "retain", "neighbours", "holdout")
_MEMORY = ("extraction_strength", "exact_memorization")
_GENERATED = ("rouge", "answer_perplexity", "distinct_4grams", "entropy", "repetition")
_TELLING = ("forget", "probes", "neighbours")  # sets of which it matters what an answer gives away
_COMPARED = ("forget_quality", "forget_quality_ks")
_NO_WRONG = "the forget rows carry no wrong answers (columns perturbed_answer or wrong_answers)"


def build(
    request: Request,
    limit: int | None = 400,
    answer_judge: str | Sequence[str] | None = None,
    entailment_model: str | Path | None = None,
    answer_judge_model: str | None = None,
    answer_judge_key: str | None = None,
    answer_judge_cache: str | Path | None = None,
    answer_judge_rate: float | None = None,
) -> Suite:
    """The suite over a request's forget, retain, neighbours and holdout rows, and its probes.

    The truth ratio is scored on sets whose rows carry wrong answers, and forget quality where the forget rows
    do; the forget scores are repeated on paraphrased questions where there are any. Documents ask nothing, so
    they have no scores of generated answers. ``limit`` scores at most so many rows of each set, evenly spread
    over it (None: all; answers are generated for each, which is most of the time a run takes).

    ``answer_judge`` adds scores of what the answers give away, how they read and whether they decline, by a judge
    (``rules``, ``entailment``, the URL of an OpenAI-compatible endpoint) or several, the first of which the scores go
    by: ``entailment_model`` is a folder or hub id, and of endpoints ``answer_judge_model`` is the model,
    ``answer_judge_key`` the environment variable with the key (default OPENAI_API_KEY), ``answer_judge_cache`` a file
    that keeps replies, ``answer_judge_rate`` the most requests a minute. An option that applies to none of the judges
    is an error.
    """
    judges = make_answer_judges(
        answer_judge,
        entailment_model=entailment_model,
        answer_judge_model=answer_judge_model,
        answer_judge_key=answer_judge_key,
        answer_judge_cache=answer_judge_cache,
        answer_judge_rate=answer_judge_rate,
    )
    judged = judged_metrics(judges)
    sets = {name: spread(rows, limit, option="limit") for name, rows in request.sets.items() if name in _SETS}
    reworded = tuple(
        row.with_prompt(row.paraphrased_prompt) for row in sets["forget"] if row.paraphrased_prompt is not None
    )
    if reworded:
        sets["forget_paraphrased"] = reworded
    metrics: dict[str, tuple[str, ...]] = {}
    unavailable: dict[str, str] = {}
    for name, rows in sets.items():
        chosen = ["probability"]
        asked = any(row.kind != "document" for row in rows)
        if asked:
            chosen += ["rouge"] if name == "forget_paraphrased" else _GENERATED
            chosen += ["leakage"] if name in _TELLING else []
            chosen += judged if name != "holdout" else []
        else:
            reason = f"the {name} rows are plain documents, which ask nothing that could be answered"
            unavailable |= {f"{name}_{label}": reason for label in _GENERATED}
            unavailable |= {f"{name}_leakage": reason} if name in _TELLING else {}
            unavailable |= {f"{name}_{label}": reason for label in judged if name != "holdout"}
        if name != "forget_paraphrased":
            chosen += _MEMORY
        if any(row.wrong_answers for row in rows):
            chosen.append("truth_ratio" if name.startswith("forget") else "kept_truth_ratio")
            chosen += ["truth_probability"] if name != "forget_paraphrased" else []
        metrics[name] = tuple(chosen)
    compared: tuple[str, ...] = _COMPARED
    if "truth_ratio" not in metrics["forget"]:
        compared = ()
        unavailable |= dict.fromkeys((*_COMPARED, "forget_truth_ratio"), _NO_WRONG)
    utility = "retain_probability" if "retain" in sets else None
    return Suite("request", sets, metrics, compared, utility=utility, unavailable=unavailable, answer_judges=judges)


BENCHMARK = Benchmark(
    name="request",
    summary="Your own rows: what must go, what must stay, close neighbours and rows never trained on.",
    title="the request's own rows",
    reference="",
    metrics=(
        "probability",
        *_GENERATED,
        "leakage",
        *JUDGED,
        "leakage_entailment",
        *_MEMORY,
        "truth_ratio",
        "kept_truth_ratio",
        "truth_probability",
        *_COMPARED,
    ),
    build=build,
    leading=(
        *_COMPARED,
        "probes_leakage",
        "probes_rejection",
        "probes_probability",
        "forget_leakage",
        "forget_rejection",
        "forget_probability",
        "neighbours_leakage",
        "neighbours_probability",
        "retain_rouge",
        "retain_probability",
    ),
)
