"""``expunge evaluate``: score any model, or a target and its erasure, on a suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import ModelSpec, NamedSpec, RequestSpec, make_section
from expunge.config.values import merged, parse_overrides, to_yaml
from expunge.distributed import on_main
from expunge.errors import ConfigError, did_you_mean
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, named, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.evaluation.findings import Effect
    from expunge.evaluation.score import Scores
    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.requests import Request

_SECTIONS = ("model", "request", "training", "suite", "retrained")


@dataclass(frozen=True)
class _Asked:
    """What :func:`evaluate` is asked for, whatever kind of models it is given."""

    suite: Suite | str
    request: Mapping[str, Any] | Request | None
    metrics: tuple[str, ...] | None
    out: str | Path | None
    overrides: tuple[str, ...]
    overwrite: bool
    progress: Progress

    @property
    def rows(self) -> Request | None:
        """The request where it was passed as an object and not as the files of one."""
        return None if self.request is None or isinstance(self.request, Mapping) else self.request

    def sections(self, **values: Any) -> dict[str, Any]:
        """The values of the sections that apply, with the overrides on top."""
        request = dict(self.request) if isinstance(self.request, Mapping) else {}
        values = {"request": request, "training": {}, **values}
        given = parse_overrides(self.overrides)
        for name in given:
            if name not in _SECTIONS:
                raise ConfigError(f"{name}: expunge evaluate has no such section. {did_you_mean(name, _SECTIONS)}")
            if name not in values:
                raise ConfigError(
                    f"{name}: it was passed loaded, so no setting can change it. Set it up as it should be, or pass "
                    "a path or a name."
                )
        return merged(values, given)


def evaluate(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    suite: Suite | str = "request",
    *,
    target: PreTrainedModel | None = None,
    erasure: str | Path | None = None,
    erased: str | Path | None = None,
    retrained: PreTrainedModel | str | Path | None = None,
    request: Mapping[str, Any] | Request | None = None,
    metrics: Iterable[str] | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Scores:
    """Score a model on a suite.

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

    Raises:
        ConfigError: an option that does not go with what was passed.
        ControlError: a metric of ``metrics`` lacks its control; the message says what to pass.
        OutputError: ``out`` holds something else, or this run finished.
    """
    chosen = (metrics,) if isinstance(metrics, str) else None if metrics is None else tuple(metrics)
    asked = _Asked(suite, request, chosen, out, tuple(overrides), overwrite, progress)
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
    asked: _Asked,
    model: str | Path,
    erasure: str | Path | None,
    erased: str | Path | None,
    retrained: str | Path | None,
) -> Scores:
    from expunge.erasures.purpose import effect_of
    from expunge.evaluation.judge import check_judge
    from expunge.evaluation.score import score
    from expunge.evaluation.suite import select
    from expunge.methods.interface import Erasure
    from expunge.models.loading import load_model, load_tokenizer, tokens_at_most
    from expunge.parts import Parts, build_suite, same_tokenizer

    values = asked.sections(
        model={"path": str(model)},
        suite={"name": asked.suite},
        retrained=None if retrained is None else {"path": str(retrained)},
    )
    spec = make_section(ModelSpec, values["model"], "model")
    wanted = make_section(RequestSpec, values["request"], "request")
    settings = make_section(TrainingSettings, values["training"], "training")
    suite_spec = make_section(NamedSpec, values["suite"], "suite")
    control = None if values["retrained"] is None else make_section(ModelSpec, values["retrained"], "retrained")
    text = _run_file(
        asked,
        model=spec.model_dump(mode="json"),
        request=wanted,
        training=settings,
        suite=suite_spec.model_dump(mode="json"),
        retrained=None if control is None else control.model_dump(mode="json"),
        erasure=erasure and str(erasure),
        erased=erased and str(erased),
    )
    _check_out(asked, text)
    asked.progress(0, 2, "loading")
    loaded = None if erasure is None else Erasure.load(_erasure_folder(Path(erasure)))
    tokenizer = load_tokenizer(spec)
    if loaded is not None:
        loaded.tokenizer = tokenizer  # so that a target with another tokenizer is refused too
    asked.progress(1, 2, "loading")
    request = _request(asked, wanted, tokenizer, tokens_at_most(spec, settings.max_length))
    suite, names = build_suite(suite_spec, request)
    metrics = asked.metrics or names
    select(suite, metrics, controls={"target", *(["retrained"] if control else [])})  # type: ignore[arg-type]
    check_judge(suite, metrics)
    if control is not None:
        same_tokenizer(tokenizer, control)
    other = None if erased is None else ModelSpec(path=str(erased))  # type: ignore[call-arg]
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
    )
    if loaded is not None:
        with loaded.applied(parts.target):
            pass  # an erasure of another model is refused before anything is written
    folder = _open_out(asked, text)
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
    _write(scores, folder)
    return scores


def _from_models(
    asked: _Asked,
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
    from expunge.parts import build_suite, same_tokenizer
    from expunge.requests.request import rows_sha256

    applied: tuple[str, ...] = tuple(getattr(model, APPLIED, ()))
    is_erased = bool(applied) or target is not None
    _check_models(model, target, retrained, erased=bool(applied))
    from_path = isinstance(retrained, str | Path)
    given: dict[str, Any] = {"suite": {"name": asked.suite}} if isinstance(asked.suite, str) else {}
    values = asked.sections(**given, **({"retrained": {"path": str(retrained)}} if from_path else {}))
    wanted = make_section(RequestSpec, values["request"], "request")
    settings = make_section(TrainingSettings, values["training"], "training")
    control = make_section(ModelSpec, values["retrained"], "retrained") if from_path else None
    request = _request(asked, wanted, tokenizer, max_tokens(model, settings.max_length))
    names = None
    if isinstance(asked.suite, str):
        suite_spec = make_section(NamedSpec, values["suite"], "suite")
        suite, names = build_suite(suite_spec, request)
        described: dict[str, Any] = suite_spec.model_dump(mode="json")
    else:
        suite = asked.suite
        described = {"name": suite.name, "rows": {name: len(rows) for name, rows in suite.sets.items()}}
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
    text = _run_file(
        asked,
        model={**(_described(model) or {}), "applied": list(applied)},
        request=wanted,
        training=settings,
        suite=described,
        retrained=control.model_dump(mode="json") if control else _described(retrained),
        target=_described(target),
    )
    _check_out(asked, text)
    check_judge(suite, metrics)
    if control is not None:
        same_tokenizer(tokenizer, control)
        retrained = load_model(control, role="retrained")
    folder = _open_out(asked, text)
    if folder is not None:
        rows = {name: {"rows": len(part), "sha256": rows_sha256(part)} for name, part in suite.sets.items()}
        data = rows if request is None else request.digest()
        folder.record(environment(seeds=(), data=data, target=_fingerprint(before, model, tokenizer)))

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
        return found if before is None else add_target_fluency(found, before, tokenizer, progress=progress)

    removed = all(kind == "weights" for kind in applied)
    scores = score(
        suite,
        target=outputs(before, "target"),
        erased=outputs(model, "erased") if is_erased else None,
        retrained=outputs(retrained, "retrained"),
        metrics=metrics,
        effect="none" if not is_erased else "removal" if removed else "suppression",
    )
    _write(scores, folder)
    return scores


def _check_models(model: Any, target: Any, retrained: Any, *, erased: bool) -> None:
    """Refuse one model in two roles, and a control that carries an erasure."""
    from expunge.models.state import APPLIED

    for role, other in (("target", target), ("retrained", retrained)):
        if other is None or isinstance(other, str | Path):
            continue
        if other is model:
            carries = ", which carries the erasure" if erased else ""
            raise ConfigError(
                f"{role}= is the very model that is judged{carries}. Leave it out, or pass another copy of the "
                f"{role} model that was loaded by itself."
            )
        if getattr(other, APPLIED, ()):
            raise ConfigError(f"{role}= carries an erasure, so it is no control. Leave the context that applied it.")
    if target is not None and target is retrained:
        raise ConfigError("target= and retrained= are one model. Pass the one that never saw the rows as retrained=.")


def _request(asked: _Asked, spec: RequestSpec, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Request | None:
    """The request as passed or as its files say, with long documents in pieces; None where none was named."""
    from expunge.parts import fit_to, load_request

    named_rows = spec.forget is not None or spec.world is not None
    if asked.rows is not None and named_rows:
        raise ConfigError("request= was passed with its rows, and the overrides name row files too. Pass one of them.")
    request = asked.rows or (load_request(spec) if named_rows else None)
    return None if request is None else fit_to(request, tokenizer, max_length)


def _run_file(asked: _Asked, *, request: RequestSpec, training: TrainingSettings, **sections: Any) -> str:
    """The text of ``run.yaml``: all that decides the scores."""
    rows = {} if asked.rows is None else {"rows": asked.rows.digest()}
    record = {
        "model": sections.pop("model"),
        "request": {**request.model_dump(mode="json"), **rows},
        "training": training.model_dump(mode="json"),
        **sections,
        "metrics": None if asked.metrics is None else list(asked.metrics),
    }
    return to_yaml(record)


def _check_out(asked: _Asked, text: str) -> None:
    if asked.out is not None:
        RunFolder.check(asked.out, text, overwrite=asked.overwrite)


def _open_out(asked: _Asked, text: str) -> RunFolder | None:
    """The folder to write to; asked for once everything has been loaded."""
    return None if asked.out is None else RunFolder.open(asked.out, text, overwrite=asked.overwrite)


def _write(scores: Scores, folder: RunFolder | None) -> None:
    from expunge.evaluation.score import write_scores
    from expunge.reports import report

    if folder is not None:
        path = folder.path
        on_main(lambda: write_scores(scores, path))
        on_main(lambda: report([path]))


def _described(model: Any) -> dict[str, Any] | None:
    """A loaded model for ``run.yaml``: its class and the folder or hub id it came from."""
    if model is None:
        return None
    return {"path": str(getattr(model.config, "_name_or_path", "") or "") or None, "loaded": type(model).__name__}


def _fingerprint(
    before: PreTrainedModel | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """The target's fingerprint; that of an erased model is the target's only where it is taken from files."""
    from expunge.models.fingerprint import fingerprint

    found = fingerprint(model if before is None else before, tokenizer)
    return found.as_dict() if before is not None or found.basis == "source" else {}


def _erasure_folder(path: Path) -> Path:
    return path / "erasure" if not (path / "manifest.json").is_file() and (path / "erasure").is_dir() else path
