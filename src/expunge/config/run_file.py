"""A run file: everything that decides a run, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from expunge.config.values import merged, parse_overrides, read_yaml, to_yaml
from expunge.errors import ConfigError, did_you_mean
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from expunge.audits.interface import Audit

Section = TypeVar("Section", bound=BaseModel)

_STRICT = ConfigDict(frozen=True, extra="forbid")
_SUITE = "request"
_MAIN_FIELDS = {"model": "path", "retrained": "path", "request": "forget", "method": "name", "suite": "name"}


class ModelSpec(BaseModel):
    """Where a model is and how it is loaded."""

    model_config = _STRICT

    path: str = Field(
        description="a folder, a hub id, world:NAME for an embedded model, or run:DIR for the erased model of a run"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="bfloat16 on a GPU, float32 on CPU"
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none", description="hold linear layers in 8 or 4 bits (bitsandbytes); trained with training.parameters=lora"
    )
    device: str = Field("auto", description="cuda where there is one, else cpu")
    device_map: str | None = Field(None, description="spread over several devices (accelerate)")
    attention: str | None = Field(
        None, description="attn_implementation, such as sdpa or flash_attention_2; the fastest there is unless given"
    )
    trust_remote_code: bool = False


class RequestSpec(BaseModel):
    """Files of the request and how to read them."""

    model_config = _STRICT

    world: str | None = Field(None, description="an embedded world's own request; sets named beside replace its own")
    forget: str | None = None
    retain: str | None = None
    neighbours: str | None = None
    holdout: str | None = None
    calibration: str | None = None
    probes: str | None = Field(None, description="questions about what must go that are only scored")
    documents: str | None = Field(
        None, description="documents that name the subjects, in place of forget: the rows are made from them"
    )
    subjects: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = Field(
        (), description="names that stand in for the subjects, for methods that swap names"
    )
    ignored_names: tuple[str, ...] = Field(
        (), description="parts of the subjects' names that are not taken for them: they mean something else too"
    )
    columns: dict[str, str] = Field(default_factory=dict)
    propose: bool = Field(True, description="use names of the subjects found in the documents besides those given")
    questions: str = Field(
        "templates", description="who writes questions about documents: templates, model (the target) or the URL of one"
    )
    questions_model: str | None = Field(None, description="which model of the URL")
    questions_key: str | None = Field(None, description="environment variable that holds the URL's key")
    tagger: str | None = Field(
        None,
        description="what finds names in documents: spacy:NAME or a token-classification model; rules unless given",
    )
    allow_overlap: bool = False
    template: Literal["auto", "chat", "plain"] = "auto"

    @field_validator("subjects", "aliases", "substitutes", "ignored_names", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> RequestSpec:
        url = self.questions.startswith(("http://", "https://"))
        if not url and self.questions not in ("templates", "model"):
            raise ValueError(f"questions={self.questions!r}: expected templates, model, or a URL (http://HOST/v1)")
        if url and self.questions_model is None:
            raise ValueError(
                f"questions={self.questions}: which model of the endpoint? Pass request.questions_model=NAME"
            )
        return self


class NamedSpec(BaseModel):
    """Something chosen by name with options of its own: a method or a suite."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class RunConfig(BaseModel):
    """The sections of a run file. A plain string stands for the section's main field (``model: ./folder``)."""

    model_config = _STRICT

    model: ModelSpec
    request: RequestSpec
    method: NamedSpec
    training: TrainingSettings = TrainingSettings()  # type: ignore[call-arg]
    suite: NamedSpec = NamedSpec(name=_SUITE)
    audits: dict[str, dict[str, Any]] = Field(default_factory=dict, description="audits to run, with their options")
    retrained: ModelSpec | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for section, main in _MAIN_FIELDS.items():
            if isinstance(values.get(section), str):
                values[section] = {main: values[section]}
        if isinstance(values.get("suite"), dict):
            values["suite"] = {"name": _SUITE, **values["suite"]}
        values["audits"] = _named_audits(values.get("audits"))
        seeds = values.get("seeds")
        training = values.get("training")
        if seeds is None:
            values["seeds"] = (training.get("seed", 0) if isinstance(training, dict) else 0,)
        elif isinstance(seeds, int) and not isinstance(seeds, bool):
            seeds = values["seeds"] = tuple(range(seeds))
        if seeds and isinstance(training, dict) and training.get("seed", seeds[0]) != seeds[0]:
            raise ValueError(f"training.seed={training['seed']} and seeds {list(seeds)} disagree; give one of them")
        return values

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        if [self.request.forget, self.request.world, self.request.documents].count(None) != 2:
            raise ValueError(
                "request needs forget: FILE (--forget FILE), documents: DIR (--documents DIR --subject NAME) or world: "
                "NAME (request.world=NAME), and only one of them"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names a seed twice")
        return self

    def with_seed(self, seed: int) -> RunConfig:
        """The same run for one seed, as a seed's own folder records it."""
        training = self.training.model_copy(update={"seed": seed})
        return self.model_copy(update={"seeds": (seed,), "training": training})

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the order of the sections; the method with every field at its value."""
        from expunge.methods.registry import make_method

        values = self.model_dump(mode="json")
        values["method"] = {"name": self.method.name, **make_method(self.method.name, self.method.options).values()}
        values["suite"] = {"name": self.suite.name, **self.suite.options}
        values["training"]["seed"] = self.seeds[0]
        values["audits"] = {one.name: one.values() for one in self.chosen_audits()} or []
        return values

    def chosen_audits(self) -> list[Audit]:
        """The audits that run after scoring, in the order in which they are named."""
        if not self.audits:
            return []
        from expunge.audits.running import chosen_audits

        return chosen_audits(list(self.audits), self.audits)

    def to_yaml(self) -> str:
        """The resolved run file: reading it again gives the same run."""
        return to_yaml(self.to_dict())


def _named_audits(given: Any) -> Any:
    """Audits by name with their options: from a name, a list of names, or such a mapping."""
    names = [given] if isinstance(given, str) else given or {}
    if isinstance(names, (list, tuple)):
        twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
        if twice:
            raise ValueError(f"audits {list(names)} names {', '.join(map(str, twice))} twice")
        return {name: {} for name in names}
    return {name: {} if options is None else options for name, options in names.items()}


def make_config(values: dict[str, Any], overrides: Iterable[str] = ()) -> RunConfig:
    """Check ``values`` with ``overrides`` on top; every problem, the method's fields included, in one error."""
    for section, main in _MAIN_FIELDS.items():
        if isinstance(values.get(section), str):
            values = {**values, section: {main: values[section]}}
    values = _anchored(merged(values, parse_overrides(overrides)))
    problems: list[str] = []
    config = None
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [_in_words(problem) for problem in error.errors()]
    method = values.get("method")
    if isinstance(method, dict) and isinstance(method.get("name"), str):
        from expunge.methods.registry import make_method

        try:
            make_method(method["name"], {k: v for k, v in method.items() if k != "name"})
        except ConfigError as error:
            problems.append(str(error))
    suite = values.get("suite")
    if isinstance(suite, dict) and isinstance(suite.get("name"), str):
        from expunge.benchmarks.registry import get_benchmark

        try:
            get_benchmark(suite["name"])
        except ConfigError as error:
            problems.append(str(error))
    if config is not None:
        try:
            config.chosen_audits()
        except ConfigError as error:
            problems.append(str(error))
    if problems or config is None:
        raise ConfigError(_listed(problems))
    return config


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """A run file with overrides on top; relative paths in it are taken from the working directory."""
    return make_config(read_yaml(Path(path)), overrides)


_PATHS = {
    "model": ("path",),
    "retrained": ("path",),
    "request": ("forget", "retain", "neighbours", "holdout", "calibration", "probes", "documents", "tagger"),
    "training": ("reference_cache",),
    "suite": ("data", "harmful", "normal", "holdout"),
}


def _anchored(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with every file and folder that is there named from the root, so that the recorded run can be repeated
    from anywhere; hub ids and whatever does not exist stay as they are."""
    values = dict(values)
    for section, names in _PATHS.items():
        given = values.get(section)
        if not isinstance(given, dict):
            continue
        found = {}
        for name in names:
            if not isinstance(text := given.get(name), str) or not text:
                continue
            prefix = "run:" if name == "path" and text.startswith("run:") else ""
            place = Path(text.removeprefix(prefix)).expanduser()
            if section == "training" or place.exists():  # a cache may be yet to be made
                found[name] = f"{prefix}{place.absolute()}"
        values[section] = {**given, **found}
    return values


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    lines = [line for problem in problems for line in problem.splitlines()]
    return f"{len(lines)} settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)


def _in_words(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section = place.rpartition(".")[0]
        return f"{place}: no such setting. {did_you_mean(place.rpartition('.')[2], _fields(section))}"
    if problem["type"] == "missing":
        return f"{place}: missing; every run needs it"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}={problem['input']!r}: {message}" if place else message


def _fields(section: str) -> list[str]:
    holders: dict[str, type[BaseModel]] = {
        "": RunConfig,
        "model": ModelSpec,
        "retrained": ModelSpec,
        "request": RequestSpec,
        "training": TrainingSettings,
    }
    holder = holders.get(section.split(".")[0], RunConfig)
    return list(holder.model_fields)


def make_section(kind: type[Section], values: Any, name: str) -> Section:
    """One section of a run file by itself; every problem in one error."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_in_words({**problem, "loc": (name, *problem["loc"])}) for problem in error.errors()]
        raise ConfigError(_listed(lines)) from error
