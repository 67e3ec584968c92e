"""``expunge forget --plan`` and ``expunge run --plan``: memory and time of a run, before anything large is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.commands.forget import forget_config, run_config, with_names
from expunge.errors import ConfigError, ModelError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.commands.forget import Review
    from expunge.config.run_file import ModelSpec, RunConfig
    from expunge.methods.weight_method import WeightMethod
    from expunge.training.plan import Plan


def plan(
    model: str,
    forget: str | None = None,
    *,
    method: str = "npo",
    retain: str | None = None,
    neighbours: str | None = None,
    holdout: str | None = None,
    calibration: str | None = None,
    documents: str | None = None,
    subjects: Iterable[str] = (),
    aliases: Iterable[str] = (),
    columns: Mapping[str, str] | None = None,
    allow_overlap: bool = False,
    template: str = "auto",
    world: str | None = None,
    retrained: str | None = None,
    suite: str = "request",
    seeds: int | Iterable[int] | None = None,
    overrides: Iterable[str] = (),
    progress: Progress = silent,
    review: Review | None = None,
) -> Plan:
    """What :func:`expunge.forget` with the same arguments will take in memory and time, and what to change where that
    is more than there is. Reads the rows, the model's configuration and its tokenizer, needs no weights and writes
    nothing; a judge that is an endpoint is asked for a sign of life (its cache, if any, keeps the answer).

    Raises:
        ExpungeError: whatever the run itself would refuse before it trains.
    """
    config = forget_config(
        model,
        method=method,
        retrained=retrained,
        suite=suite,
        seeds=seeds,
        overrides=overrides,
        world=world,
        forget=forget,
        retain=retain,
        neighbours=neighbours,
        holdout=holdout,
        calibration=calibration,
        documents=documents,
        subjects=list(subjects),
        aliases=list(aliases),
        columns=dict(columns or {}),
        allow_overlap=allow_overlap,
        template=template,
    )
    return _plan(with_names(config, review), progress)


def plan_run(
    file: str | Path | Mapping[str, Any],
    *,
    overrides: Iterable[str] = (),
    progress: Progress = silent,
    review: Review | None = None,
) -> Plan:
    """The same for a run file, or its values as a mapping."""
    return _plan(with_names(run_config(file, overrides), review), progress)


def _plan(config: RunConfig, progress: Progress) -> Plan:
    import dataclasses

    from expunge.evaluation.judge import check_judge
    from expunge.evaluation.suite import select
    from expunge.methods.registry import make_method
    from expunge.methods.weight_method import WeightMethod
    from expunge.models.loading import device_of, load_tokenizer, tokens_at_most
    from expunge.parts import build_suite, fit_to, load_request, same_tokenizer
    from expunge.training.fit import check_weights
    from expunge.training.machine import this_machine
    from expunge.training.plan import Model, estimate
    from expunge.training.rows import Rows
    from expunge.training.run import Run
    from expunge.training.sizes import RunSizes

    method = make_method(config.method.name, config.method.options)
    if not isinstance(method, WeightMethod):
        raise ConfigError(f"method {method.name} trains no weights, so there is nothing to estimate. Run it as it is.")
    progress(0, 3, "planning")
    request = load_request(config.request, reads_documents=method.reads_documents)
    tokenizer = load_tokenizer(config.model, weights=False)
    progress(1, 3, "planning")
    settings = config.training
    request = fit_to(request, tokenizer, tokens_at_most(config.model, settings.max_length))
    suite, metrics = build_suite(config.suite, request)
    select(suite, metrics, controls={"target", *(["retrained"] if config.retrained else [])})  # type: ignore[arg-type]
    check_judge(suite, metrics)
    if config.retrained is not None:
        same_tokenizer(tokenizer, config.retrained)
    device = device_of(config.model.device)
    target = _hollow(config.model, device)
    run = Run(settings, template=config.request.template)
    sides = check_weights(
        method,
        target,
        tokenizer,
        forget=request.forget,
        retain=request.retain,
        run=run,
        teaching=method.teaching(request),
    )
    forget, retain = (sides[side].examples for side in ("forget", "retain"))
    compares = any("alternative" in method.sides(epoch) for epoch in range(2))
    alternatives = [[example] for example in forget] if compares else []
    progress(2, 3, "planning")
    machine = this_machine(device, settings)
    number = _number(config.model, machine.device)
    sizes = RunSizes(
        target,
        method,
        Rows(forget, retain, alternatives),
        number=number,
        free=None if machine.device == "cpu" else machine.memory,
    )
    model = Model(number, config.model.quantization, control=config.retrained is not None)
    found = estimate(settings, model, sizes, machine, method=method.name, name=config.model.path)
    progress(3, 3, "planning")
    return dataclasses.replace(found, seeds=len(config.seeds), notes=tuple(_notes(config, method)))


def _hollow(spec: ModelSpec, device: str) -> PreTrainedModel:
    """The model of ``spec`` without its weights."""
    from transformers import AutoConfig

    from expunge.erasures.of_run import target_path
    from expunge.models.loading import check_folder, resolve
    from expunge.models.quantised import quantization_config
    from expunge.training.sizes import hollow_model

    source = resolve(target_path(spec.path), role="target")
    check_folder(source, weights=False)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=spec.trust_remote_code)
        model = hollow_model(config, trust_remote_code=spec.trust_remote_code, device=device)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ModelError(f"the target model {spec.path!r} cannot be built from its configuration: {error}") from error
    if spec.quantization != "none":
        import torch

        model.config.quantization_config = quantization_config(spec.quantization, torch.float32)
    return model


def _number(spec: ModelSpec, device: str) -> int:
    """Bytes of a number as the model is loaded."""
    if spec.dtype == "auto":
        import torch

        return 2 if device != "cpu" and torch.cuda.is_bf16_supported() else 4
    return 4 if spec.dtype == "float32" else 2


def _notes(config: RunConfig, method: WeightMethod) -> list[str]:
    """What the estimate does not know."""
    notes = []
    if "alternative" in method.sides(0):
        notes.append("alternative answers are taken to be as long as the forget answers")
    if config.model.device_map is not None:
        notes.append(f"model.device_map={config.model.device_map}: one device is counted, layers elsewhere are not")
    if config.model.attention == "eager":
        notes.append("model.attention=eager keeps the square of the length, which is not counted")
    if config.training.compile:
        notes.append("training.compile=true saves memory and time that are not counted")
    return notes
