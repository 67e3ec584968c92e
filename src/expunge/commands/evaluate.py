"""``expunge evaluate``: score any model, or a target and its erasure, on a suite or on the harness's tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.commands.apart import check_apart, row_inputs
from expunge.commands.asked import Asked
from expunge.commands.loaded import check_models, described, erased_spec, fingerprint_of
from expunge.config.run_file import ModelSpec, RequestSpec, make_section
from expunge.distributed import on_main
from expunge.errors import ConfigError
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, named, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.evaluation.findings import Effect
    from expunge.evaluation.harness import Abilities, Harness
    from expunge.evaluation.score import Scores
    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.requests import Request


def evaluate(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    suite: Suite | str | None = None,
    *,
    target: PreTrainedModel | None = None,
    erasure: str | Path | None = None,
    erased: str | Path | None = None,
    retrained: PreTrainedModel | str | Path | None = None,
    request: Mapping[str, Any] | Request | None = None,
    metrics: Iterable[str] | None = None,
    tasks: str | Iterable[str] | None = None,
    tasks_path: str | Path | None = None,
    evalplus: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Scores:
    """Score a model on a suite, on tasks of lm-evaluation-harness, or on both.

    With paths, ``model`` is the target as it was before; ``erasure`` (a folder) or ``erased`` (another model) is what
    is judged beside it, ``retrained`` the control; ``suite`` is a name.

    With loaded models, ``model`` is what is judged and ``tokenizer`` is its tokenizer. It is the erased model where an
    erasure is applied to it (inside ``erasure.applied``) or where ``target``, the model before, is passed beside it;
    else its scores are those of a target as it is. ``suite`` may be a built
    :class:`~expunge.evaluation.suite.Suite`, and ``retrained`` a loaded model or a path. Inside ``applied`` the target
    can only be scored from another copy of it; without one the verdict says which of its rules were not judged.

    Both ways: ``request`` is a :class:`~expunge.Request`, or values of a run file's ``request`` section (its row files
    and template); ``metrics`` takes only these scores; ``overrides`` are dotted settings such as
    ``training.max_length=256`` and ``suite.limit=40``. ``out`` receives the run folder's files, under the same rules as
    every run (``overwrite``); without it nothing is written.

    ``tasks`` are names of the harness's tasks (``"mmlu,gsm8k"`` or a list), ``tasks_path`` a folder with tasks of your
    own, ``harness.limit=100`` and the like their settings (:class:`~expunge.evaluation.harness.HarnessSettings`). The
    suite is ``request`` by default, and none where tasks are named and no suite is. ``evalplus`` is a folder that
    receives each model's code answers as evalplus reads them.

    Raises:
        ConfigError: an option that does not go with what was passed, a task that is not there, no harness installed.
        ControlError: a metric of ``metrics`` lacks its control; the message says what to pass.
        OutputError: ``out`` holds something else, or this run finished.
    """
    chosen = (metrics,) if isinstance(metrics, str) else None if metrics is None else tuple(metrics)
    named_tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks or ())
    asked = Asked(
        suite or (None if named_tasks else "request"),
        request,
        chosen,
        out,
        tuple(overrides),
        overwrite,
        progress,
        named_tasks,
        None if tasks_path is None else str(tasks_path),
        None if evalplus is None else Path(evalplus),
    )
    asked.check()
    if not isinstance(model, str | Path):
        if erasure is not None or erased is not None:
            raise ConfigError(
                f"{'erasure' if erasure is not None else 'erased'}= goes with paths, and the model was passed loaded. "
                "Use: with erasure.applied(model) as erased: evaluate(erased, ..); or pass the erased model as the "
                "first argument and the one before as target=."
            )
        if tokenizer is None:
            raise ConfigError("evaluate(model, ..) with a loaded model needs its tokenizer: pass tokenizer=.")
        return _from_models(asked, model, tokenizer, target, retrained)
    loaded = {"tokenizer": tokenizer, "target": target, "retrained": retrained, "suite": suite}
    for name, value in loaded.items():
        if value is not None and (name in ("tokenizer", "target") or not isinstance(value, str | Path)):
            raise ConfigError(
                f"{name}= was passed loaded, and the model as a path ({model}). Pass paths and names for all, or load "
                "the model too (load_model, load_tokenizer)."
            )
    if erasure is not None and erased is not None:
        raise ConfigError("pass an erasure (--erasure DIR) or an erased model (--erased DIR), not both.")
    return _from_paths(asked, model, erasure, erased, retrained)  # type: ignore[arg-type]


def _from_paths(
    asked: Asked,
    model: str | Path,
    erasure: str | Path | None,
    erased: str | Path | None,
    retrained: str | Path | None,
) -> Scores:
    from expunge.erasures.of_run import erasure_folder
    from expunge.erasures.purpose import effect_of
    from expunge.evaluation.judge import check_judge
    from expunge.evaluation.score import score
    from expunge.evaluation.suite import select
    from expunge.methods.interface import Erasure
    from expunge.models.loading import load_model, load_tokenizer, tokens_at_most
    from expunge.parts import Parts, same_tokenizer

    values = asked.sections(
        model={"path": str(model)},
        retrained=None if retrained is None else {"path": str(retrained)},
        **asked.chosen,
    )
    spec = make_section(ModelSpec, values["model"], "model")
    wanted = make_section(RequestSpec, values["request"], "request")
    settings = make_section(TrainingSettings, values["training"], "training")
    suite_spec = asked.suite_section(values)
    control = None if values["retrained"] is None else make_section(ModelSpec, values["retrained"], "retrained")
    harness = asked.harness(values)
    text = asked.run_file(
        model=spec.model_dump(mode="json"),
        request=wanted,
        training=settings,
        suite=suite_spec.model_dump(mode="json"),
        retrained=None if control is None else control.model_dump(mode="json"),
        erasure=erasure and str(erasure),
        erased=erased and str(erased),
        harness=harness,
    )
    read = {"--model": spec.path, "--erasure": erasure, "--erased": erased, "--retrained": control and control.path}
    check_apart(asked.out, {**read, **row_inputs(wanted)})
    asked.check_out(text)
    asked.progress(0, 2, "loading")
    loaded = None if erasure is None else Erasure.load(erasure_folder(Path(erasure).expanduser()))
    tokenizer = load_tokenizer(spec)
    if loaded is not None:
        loaded.tokenizer = tokenizer  # so that a target with another tokenizer is refused too
    asked.progress(1, 2, "loading")
    request = asked.load_request(wanted, tokenizer, tokens_at_most(spec, settings.max_length))
    suite, names = asked.build_suite(suite_spec, request)
    metrics = asked.metrics or names
    select(suite, metrics, controls={"target", *(["retrained"] if control else [])})  # type: ignore[arg-type]
    asked.check_evalplus(suite, metrics)
    check_judge(suite, metrics)
    if control is not None:
        same_tokenizer(tokenizer, control)
    other = None if erased is None else erased_spec(erased, spec)
    if other is not None:
        same_tokenizer(tokenizer, other, role="erased")
    parts = Parts(
        target=load_model(spec),
        tokenizer=tokenizer,
        request=request,  # type: ignore[arg-type]
        suite=suite,
        settings=settings,
        metrics=metrics,
        retrained=control,
        template=wanted.template,
        progress=asked.progress,
        harness=harness,
    )
    if loaded is not None:
        with loaded.applied(parts.target):
            pass  # an erasure of another model is refused before anything is written
    folder = asked.open_out(text)
    if folder is not None:
        data = {} if request is None else request.digest()
        folder.record(environment(seeds=(), data=data, target=parts.target_fingerprint))
    outputs: ModelOutputs | None = None
    effect: Effect = "none"
    if loaded is not None:
        with loaded.applied(parts.target) as applied:
            outputs = parts.outputs(applied, "erased")
        effect = effect_of(loaded)
    elif other is not None:
        outputs = parts.outputs(load_model(other, role="erased"), "erased")
        effect = "removal"
    if outputs is not None:
        outputs = parts.with_fluency(outputs)
    controls = parts.controls
    scores = score(
        suite, target=controls.target, erased=outputs, retrained=controls.retrained, metrics=metrics, effect=effect
    )
    answers = {"target": controls.target, "erased": outputs, "retrained": controls.retrained}
    return _finished(asked, scores, folder, answers, harness, parts.abilities)


def _from_models(
    asked: Asked,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: PreTrainedModel | None,
    retrained: PreTrainedModel | str | Path | None,
) -> Scores:
    from expunge.evaluation.judge import check_judge
    from expunge.evaluation.outputs import add_target_fluency, run_model
    from expunge.evaluation.score import score
    from expunge.evaluation.suite import select
    from expunge.models.limits import max_tokens
    from expunge.models.loading import load_model
    from expunge.models.state import APPLIED
    from expunge.parts import same_tokenizer
    from expunge.requests.request import rows_sha256

    applied: tuple[str, ...] = tuple(getattr(model, APPLIED, ()))
    is_erased = bool(applied) or target is not None
    check_models(model, target, retrained, erased=bool(applied))
    from_path = isinstance(retrained, str | Path)
    values = asked.sections(**asked.chosen, **({"retrained": {"path": str(retrained)}} if from_path else {}))
    wanted = make_section(RequestSpec, values["request"], "request")
    settings = make_section(TrainingSettings, values["training"], "training")
    control = make_section(ModelSpec, values["retrained"], "retrained") if from_path else None
    request = asked.load_request(wanted, tokenizer, max_tokens(model, settings.max_length))
    harness = asked.harness(values)
    names = None
    if asked.suite is None or isinstance(asked.suite, str):
        suite_spec = asked.suite_section(values)
        suite, names = asked.build_suite(suite_spec, request)
        about_suite: dict[str, Any] = suite_spec.model_dump(mode="json")
    else:
        suite = asked.suite
        about_suite = {"name": suite.name, "rows": {name: len(rows) for name, rows in suite.sets.items()}}
        if request is not None:
            raise ConfigError(
                f"suite '{suite.name}' is built and brings its own rows, so a request would not be used. "
                "Leave request= out, or pass suite='request' to score the request's rows."
            )
    metrics = asked.metrics or names
    # whose likelihood the answers' perplexity is: inside an erasure's context the target itself is not to be had
    before = target if is_erased else model
    controls = [*(["target"] if before is not None else []), *(["retrained"] if retrained is not None else [])]
    select(suite, metrics, controls=controls)  # type: ignore[arg-type]
    text = asked.run_file(
        model={**(described(model) or {}), "applied": list(applied)},
        request=wanted,
        training=settings,
        suite=about_suite,
        retrained=control.model_dump(mode="json") if control else described(retrained),
        target=described(target),
        harness=harness,
    )
    read = {"retrained": control and control.path, **row_inputs(wanted)}
    check_apart(asked.out, {**read, "model": model.config._name_or_path})
    asked.check_out(text)
    asked.check_evalplus(suite, metrics)
    check_judge(suite, metrics)
    if control is not None:
        same_tokenizer(tokenizer, control)
        retrained = load_model(control, role="retrained")
    folder = asked.open_out(text)
    if folder is not None:
        rows = {name: {"rows": len(part), "sha256": rows_sha256(part)} for name, part in suite.sets.items()}
        data = rows if request is None else request.digest()
        folder.record(environment(seeds=(), data=data, target=fingerprint_of(before, model, tokenizer)))

    abilities: dict[str, Abilities] = {}

    def outputs(one: Any, name: str) -> ModelOutputs | None:
        if one is None:
            return None
        progress = named(name, asked.progress)
        found = run_model(
            one,
            tokenizer,
            suite,
            max_length=settings.max_length,
            max_new_tokens=settings.max_new_tokens,
            metrics=metrics,
            template=wanted.template,
            progress=progress,
        )
        if harness is not None:
            abilities[name] = harness.run(one, tokenizer, progress=progress)
        return found if before is None else add_target_fluency(found, before, tokenizer, progress=progress)

    removed = all(kind == "weights" for kind in applied)
    answers = {
        "target": outputs(before, "target"),
        "erased": outputs(model, "erased") if is_erased else None,
        "retrained": outputs(retrained, "retrained"),
    }
    effect: Effect = "none" if not is_erased else "removal" if removed else "suppression"
    scores = score(suite, **answers, metrics=metrics, effect=effect)  # type: ignore[arg-type]
    return _finished(asked, scores, folder, answers, harness, abilities)


def _finished(
    asked: Asked,
    scores: Scores,
    folder: RunFolder | None,
    answers: Mapping[str, ModelOutputs | None],
    harness: Harness | None,
    abilities: Mapping[str, Abilities],
) -> Scores:
    """The scores with what the harness said, written to where it was asked for."""
    from expunge.evaluation.code_answers import write_evalplus_folder
    from expunge.evaluation.harness import with_abilities
    from expunge.evaluation.score import write_scores
    from expunge.reports import report

    if harness is not None:
        scores = with_abilities(scores, abilities, harness.settings)
    if asked.evalplus is not None:
        place = asked.evalplus
        on_main(lambda: write_evalplus_folder(answers, place))
    if folder is not None:
        path = folder.path
        on_main(lambda: write_scores(scores, path))
        on_main(lambda: report([path]))
    return scores
