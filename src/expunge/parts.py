"""The parts of a run, loaded from its configuration: models, tokenizer, request, suite, and the controls' outputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from expunge.config.run_file import ModelSpec, NamedSpec, RequestSpec, RunConfig
from expunge.data.documents import split_documents
from expunge.distributed import on_main
from expunge.errors import ConfigError, ModelError, did_you_mean
from expunge.evaluation.suite import select
from expunge.models.fingerprint import fingerprint, tokenizer_digest
from expunge.models.loading import load_model, load_tokenizer, tokens_at_most
from expunge.requests import Request
from expunge.requests.request import SETS, load_rows
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.audits.interface import Audited
    from expunge.benchmarks.registry import Benchmark
    from expunge.evaluation.harness import Abilities, Harness
    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.methods.interface import Erasure
    from expunge.probing.result import ProbeResult
    from expunge.requests.documents.make import MadeRequest
    from expunge.training.references import ReferenceStore
    from expunge.training.settings import TrainingSettings

_log = logging.getLogger(__name__)

_OPTIONS = ConfigDict(
    extra="forbid",
    arbitrary_types_allowed=True,
    coerce_numbers_to_str=True,
    allow_inf_nan=False,
    protected_namespaces=(),
)


@dataclass(frozen=True)
class Controls:
    """What the target and, where there is one, the retrained model say about the suite."""

    target: ModelOutputs
    retrained: ModelOutputs | None


@dataclass
class Parts:
    """Everything a run works on. The retrained model is in memory only while it answers the suite.

    ``made`` is what the request's documents gave, where it has some.
    ``harness`` runs tasks on every model that answers the suite, and ``abilities`` has what it said, by model.
    """

    target: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    request: Request
    suite: Suite
    settings: TrainingSettings
    metrics: tuple[str, ...] | None = None
    retrained: ModelSpec | None = None
    template: Any = "auto"
    progress: Progress = silent
    references: dict[str, ReferenceStore] = field(default_factory=dict)
    probes: dict[str, ProbeResult] = field(default_factory=dict)
    harness: Harness | None = None
    abilities: dict[str, Abilities] = field(default_factory=dict)
    made: MadeRequest | None = None

    @classmethod
    def load(cls, config: RunConfig, progress: Progress = silent, *, kept: Path | None = None) -> Parts:
        """Load and check everything, the cheap parts first, so that a bad request fails before a large model loads.

        ``kept`` is where an earlier start of the run may have kept what its documents gave.
        """
        model = cache(lambda: load_model(config.model))  # a request whose questions it writes needs it first
        progress(0, 3, "loading")
        made = None if config.request.documents is None else on_main(lambda: _made(config, model, kept))
        request = load_request(config.request) if made is None else _request_of(made, config)
        progress(1, 3, "loading")
        tokenizer = load_tokenizer(config.model)
        progress(2, 3, "loading")
        length = tokens_at_most(config.model, config.training.max_length)
        whole, request = request, fit_to(request, tokenizer, length)
        if made is not None:
            _say_what_was_cut(whole, request, length)
        suite, metrics = build_suite(config.suite, request)
        select(suite, metrics, controls={"target", *(["retrained"] if config.retrained else [])})  # type: ignore[arg-type]
        if config.retrained is not None:
            same_tokenizer(tokenizer, config.retrained)
        target = model()
        progress(3, 3, "loading")
        return cls(
            target=target,
            tokenizer=tokenizer,
            request=request,
            suite=suite,
            settings=config.training,
            metrics=metrics,
            retrained=config.retrained,
            template=config.request.template,
            progress=progress,
            made=made,
        )

    @cached_property
    def target_fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.target, self.tokenizer).as_dict()

    @cached_property
    def controls(self) -> Controls:
        """The controls' outputs, computed once for all methods and seeds."""
        retrained = None
        if self.retrained is not None:
            model = load_model(self.retrained, role="retrained")
            retrained = self.outputs(model, "retrained")
            del model
        target = self.outputs(self.target, "target")
        return Controls(target, retrained)

    def outputs(self, model: PreTrainedModel, name: str) -> ModelOutputs:
        """What ``model`` says about the suite; the fluency of its answers is added where the target is not in use."""
        from expunge.evaluation.outputs import run_model

        outputs = run_model(
            model,
            self.tokenizer,
            self.suite,
            max_length=self.settings.max_length,
            max_new_tokens=self.settings.max_new_tokens,
            metrics=self.metrics,
            template=self.template,
            progress=named(name, self.progress),
        )
        if self.harness is not None:
            self.abilities[name] = self.harness.run(model, self.tokenizer, progress=named(name, self.progress))
        return outputs if name == "erased" else self.with_fluency(outputs)

    def with_fluency(self, outputs: ModelOutputs) -> ModelOutputs:
        """The outputs with their greedy answers scored under the target."""
        from expunge.evaluation.outputs import add_target_fluency

        return add_target_fluency(outputs, self.target, self.tokenizer)

    def audited(self, erasure: Erasure, seed: int) -> Audited:
        """What audits of ``erasure`` work on. The retrained model is loaded for them."""
        from expunge.audits.interface import Audited

        return Audited(
            target=self.target,
            tokenizer=self.tokenizer,
            request=self.request,
            erasure=erasure,
            retrained=None if self.retrained is None else load_model(self.retrained, role="retrained"),
            template=self.template,
            max_length=self.settings.max_length,
            max_new_tokens=self.settings.max_new_tokens,
            seed=seed,
        )


def load_request(spec: RequestSpec, *, reads_documents: bool = True) -> Request:
    """The request that a run file's ``request`` section names, for a method that reads documents or does not."""
    if spec.world is not None:
        from expunge.worlds.interface import get_world

        return _with_sets(get_world(spec.world).request(), spec)
    if spec.documents is not None:
        from expunge.requests.documents.from_spec import make_from, request_of

        return request_of(make_from(spec), spec, reads_documents=reads_documents)
    if spec.forget is None:
        raise ConfigError("request.forget is missing: name the file with the rows that must go.")
    return Request.load(
        spec.forget,
        retain=spec.retain,
        neighbours=spec.neighbours,
        holdout=spec.holdout,
        calibration=spec.calibration,
        probes=spec.probes,
        subjects=spec.subjects,
        aliases=spec.aliases,
        substitutes=spec.substitutes,
        ignored_names=spec.ignored_names,
        columns=spec.columns,
        allow_overlap=spec.allow_overlap,
    )


def _with_sets(request: Request, spec: RequestSpec) -> Request:
    """A world's request with the sets that ``spec`` names in place of its own."""
    named = {name: source for name in SETS if name != "forget" and (source := getattr(spec, name, None)) is not None}
    if not named:
        return request
    given: dict[str, Any] = {
        name: load_rows(source, name=name, columns=spec.columns or None) for name, source in named.items()
    }
    found = dataclasses.replace(request, **given)
    if not spec.allow_overlap:
        found.check_overlap()
    return found


def _made(config: RunConfig, model: Callable[[], PreTrainedModel], kept: Path | None) -> MadeRequest:
    """What the request's documents give; the target is loaded where it is to write questions."""
    from expunge.requests.documents.from_spec import make_from
    from expunge.requests.documents.written import by_target

    def writer() -> Callable[[str], str]:
        return by_target(model(), load_tokenizer(config.model), config.request.template)

    return make_from(config.request, target=writer, kept=kept)


def _request_of(made: MadeRequest, config: RunConfig) -> Request:
    from expunge.methods.registry import get_method
    from expunge.requests.documents.from_spec import request_of

    return request_of(made, config.request, reads_documents=get_method(config.method.name).reads_documents)


def _say_what_was_cut(whole: Request, cut: Request, length: int) -> None:
    before, after = (
        sum(row.kind == "document" for rows in request.sets.values() for row in rows) for request in (whole, cut)
    )
    if after > before:
        _log.warning("documents longer than the %d tokens of a row were cut: %d became %d rows", length, before, after)


def fit_to(request: Request, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Request:
    """The request with long documents in pieces that fit the model."""
    pieces = {name: split_documents(rows, tokenizer, max_length) for name, rows in request.sets.items()}
    return dataclasses.replace(request, **pieces)  # type: ignore[arg-type]


def build_suite(spec: NamedSpec, request: Request | None) -> tuple[Suite, tuple[str, ...] | None]:
    """The suite by name with its options, and the scores asked for by name (``suite.metrics``), if any."""
    from expunge.benchmarks.registry import get_benchmark

    benchmark = get_benchmark(spec.name)
    options = _checked_options(benchmark, spec.options)
    metrics = options.pop("metrics", None)
    metrics = (metrics,) if isinstance(metrics, str) else metrics
    for name, value in options.items():
        if isinstance(value, str) and value.startswith("world:"):
            from expunge.worlds.interface import get_world

            world, _, part = value.removeprefix("world:").partition("/")
            options[name] = get_world(world).data_folder / part
    asked = next((p for p in benchmark.parameters() if p["name"] == "request"), None)
    if asked is not None:
        if request is None and asked["required"]:
            raise ConfigError(
                f"suite '{spec.name}' scores a request's own rows: pass --forget FILE (and --retain FILE)."
            )
        options["request"] = request
    return benchmark.build(**options), None if metrics is None else tuple(metrics)


def _checked_options(benchmark: Benchmark, options: dict[str, Any]) -> dict[str, Any]:
    """The options given, of the types that the suite's ``build`` declares: a number is taken for text where text is
    asked for. Every bad or missing one is named in one :class:`ConfigError`."""
    try:
        types = get_type_hints(benchmark.build)
    except NameError:  # a suite from another package that imports its types for checkers alone
        types = {}
    fields: dict[str, Any] = {"metrics": (str | Sequence[str] | None, None)}
    for one in benchmark.parameters():
        if one["name"] != "request":
            fields[one["name"]] = (types.get(one["name"], Any), ... if one["required"] else one["default"])
    try:
        checked = create_model("Options", __config__=_OPTIONS, **fields)(**options)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            problems.setdefault(str(problem["loc"][0]), []).append(problem["msg"])
        lines = []
        for name, why in problems.items():
            if name not in fields:
                lines.append(f"suite.{name}: suite {benchmark.name} has no such option. {did_you_mean(name, fields)}")
            elif name not in options:
                lines.append(f"suite.{name} is required. Pass suite.{name}=..")
            else:
                lines.append(f"suite.{name}={options[name]!r}: {', or: '.join(why)}")
        raise ConfigError("\n".join(lines)) from error
    return {name: getattr(checked, name) for name in options}


def same_tokenizer(tokenizer: PreTrainedTokenizerBase, other: ModelSpec, *, role: str = "retrained") -> None:
    """A model with another vocabulary would be scored on other tokens."""
    if tokenizer_digest(load_tokenizer(other, role=role)) != tokenizer_digest(tokenizer):
        raise ModelError(
            f"the {role} model {other.path!r} has another tokenizer than the target, so their scores cannot be "
            "compared. Pass one made from the same base with the same tokenizer (expunge train makes a retrained one)."
        )
