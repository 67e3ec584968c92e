"""``expunge audit``: try to find or bring back what an erasure was to remove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audits.running import Findings, check_options, chosen_audits, run_audits
from expunge.commands.apart import check_apart, row_inputs
from expunge.config.run_file import ModelSpec, RequestSpec, make_section
from expunge.config.values import merged, parse_overrides, to_yaml
from expunge.distributed import on_main
from expunge.errors import ConfigError, did_you_mean
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.methods.interface import Erasure
    from expunge.requests import Request

_SECTIONS = ("model", "request", "training", "retrained", "audits")
_ROWS = ("forget", "documents", "world")


def audit(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    erasure: Erasure | str | Path | None = None,
    erased: PreTrainedModel | str | Path | None = None,
    retrained: PreTrainedModel | str | Path | None = None,
    request: Mapping[str, Any] | Request | None = None,
    audits: str | Iterable[str] | None = None,
    budget: float | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Findings:
    """Audit a target and its erasure, or a target and another model that is said to be erased.

    ``model`` is the target as it was before, ``retrained`` the control. Each may be a path, a hub id, ``world:NAME`` or
    loaded; a loaded target needs its ``tokenizer``. ``request`` is a :class:`~expunge.Request`, or values of a run
    file's ``request`` section; where it names no rows, those of the run are taken whose folder ``erasure`` is.
    ``audits`` are names (``"paraphrase,many_shot"`` or a list); without them the default
    set runs, and what does not apply is left out with the reason. ``overrides`` are dotted settings such as
    ``training.max_length=256`` and ``audits.many_shot.shots=20``.

    ``out`` receives ``audits.json``, written after each audit, and a report. The same call goes on where it stopped:
    with what failed, and with what ``budget`` (seconds, after which no audit begins) did not allow. Further ``audits``
    beside those of the folder are added to what is done there.

    Raises:
        ConfigError: what was passed does not go together; an unknown audit or option.
        OutputError: ``out`` holds something else, or all of these audits are done; it is one of the folders that are
            read, or lies in one; a model or an erasure is no longer what it was when the audits in it began.
    """
    names = None if audits is None else _names(audits)
    if budget is not None and (not isinstance(budget, Real) or isinstance(budget, bool) or not budget > 0):
        raise ConfigError(f"budget={budget!r}: expected a number of seconds above 0.")
    if (erasure is None) == (erased is None):
        raise ConfigError(
            "pass an erasure (--erasure DIR) or an erased model (--erased DIR), "
            + ("not both." if erasure is not None else "to be audited beside the target.")
        )
    if not isinstance(model, str | Path) and tokenizer is None:
        raise ConfigError("audit(model, ..) with a loaded model needs its tokenizer: pass tokenizer=.")
    values = _sections(model, retrained, request, overrides)
    if request is None or isinstance(request, Mapping):
        values["request"] = {**(_own_request(erasure, values["request"]) or {}), **values["request"]}
    options = {name: _options(name, value) for name, value in values["audits"].items()}
    chosen = chosen_audits(names, options)
    wanted = make_section(RequestSpec, values["request"], "request")
    settings = make_section(TrainingSettings, values["training"], "training")
    specs = {name: make_section(ModelSpec, values[name], name) for name in ("model", "retrained") if values.get(name)}
    text = to_yaml(
        {
            "model": _described(specs.get("model"), model),
            "request": {**wanted.model_dump(mode="json"), **_digest(request)},
            "training": settings.model_dump(mode="json"),
            "retrained": _described(specs.get("retrained"), retrained),
            "erasure": _described(None, erasure),
            "erased": _described(None, erased),
            "audits": {one.name: one.values() for one in chosen},
        }
    )
    paths = {name: spec.path for name, spec in specs.items()}
    given = {**paths, "erasure": erasure, "erased": erased}
    if out is not None:
        check_apart(out, {**{f"--{name}": one for name, one in given.items()}, **row_inputs(wanted)})
        RunFolder.check(out, text, overwrite=overwrite)
    audited = _load(specs, wanted, settings, model, tokenizer, erasure, erased, retrained, request, progress)
    check_options(audited, chosen)
    folder = None
    if out is not None:
        from expunge.commands.loaded import identities
        from expunge.models.fingerprint import fingerprint

        folder = RunFolder.open(out, text, overwrite=overwrite)
        target = fingerprint(audited.target, audited.tokenizer).as_dict()
        named = {name: str(one) for name, one in given.items() if isinstance(one, str | Path)}
        facts = environment(
            seeds=(settings.seed,),
            data=audited.request.digest(),
            target=target,
            **identities(audited),
            audited=named,
        )
        folder.record(facts)
    found = run_audits(
        audited,
        chosen,
        None if folder is None else folder.path,
        named_by_user=names is not None,
        budget=budget,
        progress=progress,
    )
    if folder is not None:
        from expunge.reports import report

        path = folder.path
        on_main(lambda: report([path]))
    return found


def _names(audits: str | Iterable[str]) -> list[str]:
    names = audits.split(",") if isinstance(audits, str) else list(audits)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError(
            f"audits={audits!r}: expected names, such as paraphrase,many_shot (expunge audits lists them). Leave it "
            "out for the default set."
        )
    return [name.strip() for name in names]


def own_request(erasure: str | Path, request: Mapping[str, Any], overrides: Iterable[str] = ()) -> Path | None:
    """The run whose request :func:`audit` takes, since ``request`` and ``overrides`` name no rows; None where they do,
    or where ``erasure`` is no run's that recorded where its rows are."""
    given = merged({"request": dict(request)}, parse_overrides(overrides)).get("request", {})
    return None if _own_request(erasure, given) is None else _run_of(Path(erasure))


def _own_request(erasure: Any, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request section of the erasure's run; made from documents, as the run kept it."""
    from expunge.config.run_file import read_config
    from expunge.requests.documents.record import kept_request

    if not isinstance(erasure, str | Path) or any(given.get(name) is not None for name in _ROWS):
        return None
    run = _run_of(Path(erasure))
    if not (run / "run.yaml").is_file():
        return None
    try:
        recorded = read_config(run / "run.yaml").request
    except ConfigError:  # of another verb, without a request of this form
        return None
    if all(getattr(recorded, name) is None for name in _ROWS):
        return None
    found: dict[str, Any] = recorded.model_dump(mode="json", exclude_defaults=True)
    kept = kept_request(run) if recorded.documents is not None else None
    return found if kept is None else {**found, "documents": str(kept)}


def _run_of(erasure: Path) -> Path:
    return erasure.parent if (erasure / "manifest.json").is_file() else erasure


def _sections(model: Any, retrained: Any, request: Any, overrides: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "request": _given(request) if isinstance(request, Mapping) else {},
        "training": {},
        "audits": {},
    }
    values |= {
        name: {"path": str(one)}
        for name, one in (("model", model), ("retrained", retrained))
        if isinstance(one, str | Path)
    }
    given = parse_overrides(overrides)
    for name in given:
        if name not in _SECTIONS:
            raise ConfigError(f"{name}: expunge audit has no such section. {did_you_mean(name, _SECTIONS)}")
        if name not in values and name == "model":
            raise ConfigError(f"{name}: it was passed loaded, so no setting can change it. Set it up, or pass a path.")
    return merged(values, given)


def _given(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a request: an option that was left out is no word against the run's own."""
    return {name: value for name, value in request.items() if value not in (None, (), [], {})}


def _options(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"audits.{name}={value!r}: expected an option, such as audits.{name}.limit=20.")
    return dict(value)


def _digest(request: Any) -> dict[str, Any]:
    return {"rows": request.digest()} if request is not None and not isinstance(request, Mapping) else {}


def _described(spec: ModelSpec | None, given: Any) -> Any:
    """A model or an erasure for ``run.yaml``: its settings, its path, or what was passed loaded."""
    if spec is not None:
        return spec.model_dump(mode="json")
    if given is None:
        return None
    if isinstance(given, str | Path):
        place = Path(given).expanduser()
        return str(place.absolute() if place.exists() else given)
    path = getattr(getattr(given, "config", None), "_name_or_path", "") or None
    return {"path": path, "loaded": type(given).__name__}


def _load(
    specs: Mapping[str, ModelSpec],
    wanted: RequestSpec,
    settings: TrainingSettings,
    model: Any,
    tokenizer: Any,
    erasure: Any,
    erased: Any,
    retrained: Any,
    request: Any,
    progress: Progress,
) -> Any:
    """Everything that is audited, the cheap parts first."""
    from expunge.audits.interface import Audited
    from expunge.commands.loaded import erased_spec
    from expunge.erasures.of_run import erasure_folder
    from expunge.erasures.purpose import is_harmful_copy
    from expunge.methods.interface import Erasure
    from expunge.models.limits import max_tokens
    from expunge.models.loading import load_model, load_tokenizer, tokens_at_most
    from expunge.parts import fit_to, load_request, same_tokenizer

    progress(0, 3, "loading")
    words = tokenizer or load_tokenizer(specs["model"])
    rows = load_request(wanted) if request is None or isinstance(request, Mapping) else request
    most = (
        tokens_at_most(specs["model"], settings.max_length)
        if "model" in specs
        else max_tokens(model, settings.max_length)
    )
    rows = fit_to(rows, words, most)
    if isinstance(erasure, str | Path):
        erasure = Erasure.load(erasure_folder(Path(erasure).expanduser()))
    if erasure is not None:
        erasure.tokenizer = words  # so that a target with another tokenizer is refused too
        if is_harmful_copy(erasure.manifest):
            raise ConfigError(
                "this erasure is a harmful copy, made to be subtracted: negate it first (expunge negate)."
            )
    other = erased_spec(erased, specs.get("model", model)) if isinstance(erased, str | Path) else None
    for spec, role in ((other, "erased"), (specs.get("retrained"), "retrained")):
        if spec is not None:
            same_tokenizer(words, spec, role=role)
    progress(1, 3, "loading")
    target = load_model(specs["model"]) if "model" in specs else model
    if erasure is not None:
        with erasure.applied(target):
            pass  # an erasure of another model is refused before anything is written
    progress(2, 3, "loading")
    return Audited(
        target=target,
        tokenizer=words,
        request=rows,
        erasure=erasure,
        erased=load_model(other, role="erased") if other is not None else erased,
        retrained=load_model(specs["retrained"], role="retrained") if "retrained" in specs else retrained,
        template=wanted.template,
        max_length=settings.max_length,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
    )
