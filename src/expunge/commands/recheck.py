"""``expunge recheck``: removals that followed one another, all checked on the last model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import ModelSpec, RequestSpec, read_config
from expunge.errors import InputError
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SIGNIFICANT = 2.0
"""Standard errors of a difference from which on it counts."""

KNOWING = (
    "leakage",
    "rouge",
    "top_option",
    "solved",
    "exact_number",
    "pass_at_1",
    "exact",
    "harmful_rate",
    "rouge_f1",
    "probability",
)
"""Scores that are higher the more a model knows, the one to go by first. Likelihoods come last: they move long before
an answer does."""

_GONE = ("forget", "probes", "harmful")  # how sets begin that ask about what was removed
_NEITHER = ("holdout", "calibration")


@dataclass(frozen=True)
class Rechecked:
    """A set of one request's: what its score ``key`` was ``before`` that removal, right ``after`` it and at the
    ``end``, each a value with its standard error (None where there is none).

    ``changed`` says that the end differs from right after by more than :data:`SIGNIFICANT` standard errors, for the
    worse: "comes back" of what was removed, "lost" of what was to stay; else it is empty.
    """

    run: str
    about: str
    key: str
    before: tuple[float, float | None] | None
    after: tuple[float, float | None]
    end: tuple[float, float | None]
    changed: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def recheck(folder: str | Path, *, progress: Progress = silent) -> list[Rechecked]:
    """Score the request of every removal that led to the model of ``folder`` on that model.

    ``folder`` is a finished run folder whose target was another run's erased model (``model.path: run:DIR``), and so
    on. Each request is scored with its own run's suite and settings, and set beside what that run says of its erased
    model; of each set one score is compared, the first of :data:`KNOWING` that it has.

    Raises:
        InputError: a folder that is no run's, or a run without scores.
        ErasureError: an erasure of the chain that is damaged or does not follow the one before it.
    """
    from expunge.erasures.of_run import PREFIX, chain
    from expunge.models.loading import load_model, load_tokenizer

    path = f"{PREFIX}{folder}"
    _, runs = chain(path)
    then = [_scores(run) for run in runs]
    spec = ModelSpec(path=path)  # type: ignore[call-arg]
    model, tokenizer = load_model(spec), load_tokenizer(spec)
    found: list[Rechecked] = []
    for number, (run, scored) in enumerate(zip(runs, then, strict=True), 1):
        watched = named(f"request {number} of {len(runs)}", progress)
        found += _compared(run, scored, model, tokenizer, watched)
    return found


def difference(after: tuple[float, float | None], end: tuple[float, float | None], *, gone: bool) -> str:
    """What a score says that was ``after`` right after a removal and is ``end`` now (value, standard error): see
    :class:`Rechecked`. ``gone`` is for sets that ask about what was removed."""
    worse = end[0] - after[0] if gone else after[0] - end[0]
    if worse <= SIGNIFICANT * math.hypot(after[1] or 0.0, end[1] or 0.0) or math.isclose(worse, 0.0, abs_tol=1e-9):
        return ""
    return "comes back" if gone else "lost"


def _scores(run: Path) -> dict[str, Any]:
    file = run / "scores.json"
    if not file.is_file():
        raise InputError(f"{run} has no scores.json: that run did not finish. Give its command again.")
    rows: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def _compared(
    run: Path,
    scored: Mapping[str, Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
) -> list[Rechecked]:
    from expunge.evaluation.outputs import run_model
    from expunge.evaluation.score import score
    from expunge.methods.registry import get_method
    from expunge.models.limits import max_tokens
    from expunge.parts import build_suite, fit_to, load_request

    config = read_config(run / "run.yaml")
    reads_documents = get_method(config.method.name).reads_documents
    request = load_request(_recorded(config.request, run), reads_documents=reads_documents)
    request = fit_to(request, tokenizer, max_tokens(model, config.training.max_length))
    suite, _ = build_suite(config.suite, request)
    keys = _keys([(key, name) for key, (name, _) in suite.set_metrics().items()], scored["erased"])
    outputs = run_model(
        model,
        tokenizer,
        suite,
        max_length=config.training.max_length,
        max_new_tokens=config.training.max_new_tokens,
        metrics=list(keys.values()),
        template=config.request.template,
        progress=progress,
    )
    now = score(suite, target=outputs, metrics=list(keys.values())).rows["target"]
    about = ", ".join(request.subjects) or run.name
    found = []
    for name, key in keys.items():
        after, end = _pair(scored["erased"][key]), (now[key].value, now[key].stderr)
        before = _pair(scored["target"][key]) if key in scored.get("target", {}) else None
        changed = difference(after, end, gone=name.startswith(_GONE))
        found.append(Rechecked(str(run), about, key, before, after, end, changed))
    return found


def _keys(every: list[tuple[str, str]], scored: Mapping[str, Any]) -> dict[str, str]:
    """Set -> the key of the score that it is compared by; ``every`` are the suite's keys with their sets."""
    found: dict[str, str] = {}
    for metric in KNOWING:
        for key, name in every:
            if key == f"{name}_{metric}" and key in scored and not name.startswith(_NEITHER):
                found.setdefault(name, key)
    order = list(dict.fromkeys(name for _, name in every))
    return dict(sorted(found.items(), key=lambda one: order.index(one[0])))


def _recorded(spec: RequestSpec, run: Path) -> RequestSpec:
    """The request as the run kept it where it was made from documents, which may be gone."""
    from expunge.requests.documents.record import is_made

    if spec.documents is None:
        return spec
    for folder in (run / "request", run.parent / "request"):  # beside the folders of seeds
        if is_made(folder):
            return spec.model_copy(update={"documents": str(folder)})
    return spec


def _pair(entry: Mapping[str, Any]) -> tuple[float, float | None]:
    return float(entry["value"]), entry.get("stderr")
