"""``expunge evaluate``: score any model, or a target and its erasure, on a suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import ModelSpec, NamedSpec, RequestSpec, make_section
from expunge.config.values import merged, parse_overrides, to_yaml
from expunge.errors import ConfigError, did_you_mean
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.evaluation.score import Scores
    from expunge.evaluation.suite import Suite

_SECTIONS = ("model", "request", "training", "suite", "retrained")


def evaluate(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    suite: Suite | str = "request",
    *,
    target: PreTrainedModel | None = None,
    erasure: str | Path | None = None,
    erased: str | Path | None = None,
    retrained: PreTrainedModel | str | Path | None = None,
    request: Mapping[str, Any] | None = None,
    metrics: Iterable[str] | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Scores:
    """Score a model on a suite.

    With paths, ``model`` is the target as it was before; ``erasure`` (a folder) or ``erased`` (another model) is what
    is judged beside it, ``retrained`` the control; ``suite`` is a name and ``request`` names the user's row files.
    ``out`` receives the run folder's files. With loaded models, ``model`` is what is judged, ``target`` the model
    before, and ``suite`` may be a built :class:`~expunge.evaluation.suite.Suite`; nothing is written without ``out``.

    Raises:
        ControlError: a metric of ``metrics`` lacks its control; the message says what to pass.
    """
    chosen = None if metrics is None else tuple(metrics)
    if not isinstance(model, str | Path):
        return _loaded(model, tokenizer, suite, target, retrained, chosen, out, progress)
    values: dict[str, Any] = {
        "model": {"path": str(model)},
        "training": {},
        "suite": {"name": suite},
        "request": dict(request or {}),
        "retrained": None if retrained is None else {"path": str(retrained)},
    }
    values = merged(values, parse_overrides(overrides))
    unknown = [name for name in values if name not in _SECTIONS]
    if unknown:
        raise ConfigError(f"{unknown[0]}: expunge evaluate has no such section. {did_you_mean(unknown[0], _SECTIONS)}")
    if erasure is not None and erased is not None:
        raise ConfigError("pass an erasure (--erasure DIR) or an erased model (--erased DIR), not both.")
    specs = {
        "model": make_section(ModelSpec, values["model"], "model"),
        "request": make_section(RequestSpec, values["request"], "request"),
        "training": make_section(TrainingSettings, values["training"], "training"),
        "suite": make_section(NamedSpec, values["suite"], "suite"),
        "retrained": None if values["retrained"] is None else make_section(ModelSpec, values["retrained"], "retrained"),
    }
    record: dict[str, Any] = {k: None if v is None else v.model_dump(mode="json") for k, v in specs.items()}
    record |= {"erasure": erasure and str(erasure), "erased": erased and str(erased)}
    record["metrics"] = None if chosen is None else list(chosen)
    text = to_yaml(record)
    if out is not None:
        RunFolder.check(out, text, overwrite=overwrite)

    def opened() -> RunFolder | None:
        return None if out is None else RunFolder.open(out, text, overwrite=overwrite)

    return _from_paths(specs, erasure, erased, chosen, opened, progress)


def _from_paths(
    specs: dict[str, Any],
    erasure: str | Path | None,
    erased: str | Path | None,
    metrics: tuple[str, ...] | None,
    opened: Callable[[], RunFolder | None],
    progress: Progress,
) -> Scores:
    """``opened`` gives the folder to write to; it is called once everything has been loaded."""
    from expunge.evaluation.score import score, write_scores
    from expunge.evaluation.suite import select
    from expunge.methods.interface import Erasure
    from expunge.models.loading import load_model, load_tokenizer
    from expunge.parts import Parts, build_suite, fit_to, load_request, same_tokenizer
    from expunge.reports import report

    progress(0, 2, "loading")
    loaded = None if erasure is None else Erasure.load(_erasure_folder(Path(erasure)))
    spec, settings = specs["request"], specs["training"]
    tokenizer = load_tokenizer(specs["model"])
    progress(1, 2, "loading")
    request = None
    if spec.forget is not None or spec.world is not None:
        request = fit_to(load_request(spec), tokenizer, settings.max_length)
    suite, named = build_suite(specs["suite"], request)
    metrics = metrics or named
    controls = {"target", *(["retrained"] if specs["retrained"] else [])}
    select(suite, metrics, controls=controls)  # type: ignore[arg-type]
    if specs["retrained"] is not None:
        same_tokenizer(tokenizer, specs["retrained"])
    parts = Parts(
        target=load_model(specs["model"]),
        tokenizer=tokenizer,
        request=request,  # type: ignore[arg-type]
        suite=suite,
        settings=settings,
        metrics=metrics,
        retrained=specs["retrained"],
        template=spec.template,
        progress=progress,
    )
    if loaded is not None:
        with loaded.applied(parts.target):
            pass  # an erasure of another model is refused before anything is written
    folder = opened()
    if folder is not None:
        data = {} if request is None else request.digest()
        folder.record(environment(seeds=(), data=data, target=parts.target_fingerprint))
    outputs, effect = None, "none"
    if loaded is not None:
        with loaded.applied(parts.target) as model:
            outputs = parts.outputs(model, "erased")
        effect = "removal" if loaded.kind == "weights" else "suppression"
    elif erased is not None:
        other = ModelSpec(path=str(erased))  # type: ignore[call-arg]
        same_tokenizer(tokenizer, other, role="erased")
        outputs = parts.outputs(load_model(other, role="erased"), "erased")
        effect = "removal"
    if outputs is not None:
        outputs = parts.with_fluency(outputs)
    scores = score(
        suite,
        target=parts.controls.target,
        erased=outputs,
        retrained=parts.controls.retrained,
        metrics=metrics,
        effect=effect,  # type: ignore[arg-type]
    )
    if folder is not None:
        write_scores(scores, folder.path)
        report([folder.path])
    return scores


def _loaded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    suite: Suite | str,
    target: PreTrainedModel | None,
    retrained: PreTrainedModel | str | Path | None,
    metrics: tuple[str, ...] | None,
    out: str | Path | None,
    progress: Progress,
) -> Scores:
    from expunge.evaluation.outputs import add_target_fluency, run_model
    from expunge.evaluation.score import score, write_scores
    from expunge.models.loading import load_model
    from expunge.parts import build_suite

    if tokenizer is None:
        raise ConfigError("evaluate(model, ..) with a loaded model needs its tokenizer: pass tokenizer=.")
    if isinstance(suite, str):
        suite, named = build_suite(NamedSpec(name=suite), None)
        metrics = metrics or named
    if isinstance(retrained, str | Path):
        retrained = load_model(retrained, role="retrained")

    def outputs(one: PreTrainedModel) -> Any:
        return run_model(one, tokenizer, suite, metrics=metrics, progress=progress)

    judged = outputs(model)
    before = None if target is None or target is model else outputs(target)
    control = None if retrained is None else outputs(retrained)
    if before is not None and target is not None:
        before, judged = add_target_fluency(before, target, tokenizer), add_target_fluency(judged, target, tokenizer)
        control = control and add_target_fluency(control, target, tokenizer)
    elif before is None:
        judged = add_target_fluency(judged, model, tokenizer)
        control = control and add_target_fluency(control, model, tokenizer)
    scores = score(
        suite,
        target=judged if before is None else before,
        erased=None if before is None else judged,
        retrained=control,
        metrics=metrics,
    )
    if out is not None:
        write_scores(scores, out)
    return scores


def _erasure_folder(path: Path) -> Path:
    return path / "erasure" if not (path / "manifest.json").is_file() and (path / "erasure").is_dir() else path
