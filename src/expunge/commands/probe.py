"""``expunge probe``: which layers and neurons tell forget rows from retain rows, in figures and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from expunge.config.run_file import ModelSpec, RequestSpec, make_section
from expunge.config.values import merged, parse_overrides, to_yaml
from expunge.distributed import on_main
from expunge.errors import ConfigError, InputError, did_you_mean
from expunge.files import write_json
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, named, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.models.fingerprint import Fingerprint
    from expunge.probing.probe import Probe
    from expunge.probing.result import ProbeResult
    from expunge.requests import Row

SCHEMA = 1
FACTS, PAGE = "probe.json", "probe.html"
_FOLDER: dict[str, Any] = {"run_name": "probe.yaml", "last": PAGE}
_NAME_LENGTH = 64


class ProbeSpec(BaseModel):
    """What is read of a model, and of which part of the rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: tuple[str, ...] = Field(("mlp_activation",), description="roles, or patterns such as *.down_proj:input")
    layers: tuple[int, ...] | None = Field(None, description="counted from 0; all unless given")
    part: Literal["prompt", "answer", "all"] = "all"
    pooling: Literal["last", "all", "mean"] = "all"
    max_length: int = Field(TrainingSettings.model_fields["max_length"].default, ge=1)
    batch_tokens: int | None = Field(None, ge=1, description="tokens of a forward at most")

    @field_validator("sites", mode="before")
    @classmethod
    def _one_site(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


_SECTIONS: dict[str, type[BaseModel]] = {"model": ModelSpec, "request": RequestSpec, "probe": ProbeSpec}


def probe(
    model: str | Path,
    forget: str | None = None,
    *,
    out: str | Path,
    retain: str | None = None,
    world: str | None = None,
    sites: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    part: str | None = None,
    pooling: str | None = None,
    columns: Mapping[str, str] | None = None,
    template: str = "auto",
    allow_overlap: bool = False,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Compare a model's activations on forget rows with those on retain rows. Returns the folder.

    ``model`` is a folder, a hub id or ``world:NAME``; the row files are as for :func:`expunge.forget`, or ``world``
    names an embedded world whose request is taken. ``sites`` are roles or patterns
    (:func:`expunge.models.roles.find_sites`; the MLPs' activations unless given), ``part`` and ``pooling`` say which
    values count (all tokens of all of a row unless given). ``overrides`` are dotted settings of the sections model,
    request and probe.

    ``out`` receives both probes (``forget/``, ``retain/``, and ``groups/NAME/`` for each group of retain rows;
    :meth:`expunge.probing.result.ProbeResult.load` reads them), the figures (``probe.json``) and a page
    (``probe.html``). A killed call goes on with the probes that it had saved.

    Raises:
        ConfigError: unknown settings, or no forget or retain rows are named.
        InputError: rows so few that there is no standard deviation.
        ModelError: a site or a layer that the model does not have, or activations that are no finite numbers.
        OutputError: ``out`` holds something else, or this probe finished.
    """
    given = {
        "sites": sites if sites is None or isinstance(sites, str) else list(sites),
        "layers": None if layers is None else list(layers),
        "part": part,
        "pooling": pooling,
    }
    files = {"world": world, "forget": forget, "retain": retain, "columns": dict(columns or {})}
    values = {
        "model": {"path": str(model)},
        "request": {**files, "template": template, "allow_overlap": allow_overlap},
        "probe": {name: value for name, value in given.items() if value is not None},
    }
    spec, wanted, settings = _sections(values, overrides)
    text = to_yaml(
        {
            "model": spec.model_dump(mode="json"),
            "request": wanted.model_dump(mode="json"),
            "probe": settings.model_dump(mode="json"),
        }
    )
    RunFolder.check(out, text, overwrite=overwrite, **_FOLDER)

    from expunge.models.fingerprint import fingerprint
    from expunge.models.loading import load_model, load_tokenizer, tokens_at_most
    from expunge.models.roles import checked_words
    from expunge.parts import fit_to, load_request
    from expunge.probing.probe import Probe

    checked_words(settings.sites)
    progress(0, 2, "loading")
    request = load_request(wanted)
    tokenizer = load_tokenizer(spec)
    length = tokens_at_most(spec, settings.max_length)
    request = fit_to(request, tokenizer, length)
    _check_rows({"forget": request.forget, "retain": request.retain}, settings)
    progress(1, 2, "loading")
    target = load_model(spec)
    progress(2, 2, "loading")
    reader = Probe(
        sites=settings.sites,
        layers=settings.layers,
        part=settings.part,
        pooling=settings.pooling,
        max_length=length,
        template=wanted.template,
        batch_tokens=settings.batch_tokens,
    )
    reader.find(target)  # what the model does not have is said before anything is written
    folder = RunFolder.open(out, text, overwrite=overwrite, **_FOLDER)
    found = on_main(lambda: fingerprint(target, tokenizer))
    folder.record(environment(seeds=(), data=request.digest(), target=found.as_dict()))
    probing = _Probing(reader, target, tokenizer, found, folder.path, progress)
    facts = {"schema": SCHEMA, "model": spec.path, **_facts(probing, request.forget, request.retain)}
    on_main(lambda: _write(folder.path, facts))
    return folder.path


def _sections(values: dict[str, Any], overrides: Iterable[str]) -> tuple[ModelSpec, RequestSpec, ProbeSpec]:
    """The checked sections, with the overrides on top."""
    values = merged(values, parse_overrides(overrides))
    for section, given in values.items():
        if section not in _SECTIONS:
            raise ConfigError(f"{section}: expunge probe has no such section. {did_you_mean(section, _SECTIONS)}")
        if not isinstance(given, dict):
            raise ConfigError(f"{section}={given!r}: settings are named with their section, as in {section}.NAME=..")
        for name in given:
            known = list(_SECTIONS[section].model_fields)
            if name not in known:
                raise ConfigError(f"{section}.{name}: no such setting. {did_you_mean(name, known)}")
    spec = make_section(ModelSpec, values["model"], "model")
    request = make_section(RequestSpec, values["request"], "request")
    settings = make_section(ProbeSpec, values["probe"], "probe")
    if request.world is not None and (request.forget is not None or request.retain is not None):
        raise ConfigError("row files were passed, and a world's request too (request.world). Pass one of them.")
    missing = [name for name in ("forget", "retain") if request.world is None and getattr(request, name) is None]
    if missing:
        raise ConfigError(
            f"there are no {' and no '.join(missing)} rows, and a probe compares forget rows with retain rows. Pass "
            f"{' and '.join(f'--{name} FILE' for name in missing)}, or request.world=NAME for an embedded world's rows."
        )
    return spec, request, settings


def _check_rows(sets: Mapping[str, Sequence[Row]], settings: ProbeSpec) -> None:
    """Refuse sets that leave nothing to compare, or no standard deviation."""
    missing = [name for name, rows in sets.items() if not rows]
    if missing:
        raise InputError(f"the request has no {' and no '.join(missing)} rows. A probe compares the two; pass both.")
    single = [name for name, rows in sets.items() if len(rows) == 1]
    if single and settings.pooling != "all":
        raise InputError(
            f"{' and '.join(single)}: one row each gives one value with pooling={settings.pooling}, and a standard "
            "deviation takes two. Pass another row, or count every token (--pooling all)."
        )


@dataclass(frozen=True)
class _Probing:
    """Probes sets of rows of one model and keeps them in the folder."""

    reader: Probe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    target: Fingerprint
    folder: Path
    progress: Progress

    def run(self, name: str, rows: Sequence[Row]) -> ProbeResult:
        shown = named(name, self.progress)
        return self.reader.run(self.model, self.tokenizer, rows, progress=shown, target=self.target)

    def saved(self, name: str) -> ProbeResult | None:
        """What a killed call had saved; the folder's record says that rows, model and settings are the same."""
        from expunge.probing.result import ProbeResult

        place = self.folder / name
        return ProbeResult.load(place, self.model, self.tokenizer) if on_main(place.is_dir) else None

    def save(self, name: str, result: ProbeResult) -> ProbeResult:
        on_main(lambda: result.save(self.folder / name))
        return result

    def of(self, name: str, rows: Sequence[Row]) -> ProbeResult:
        """The probe of ``rows``, saved under ``name``."""
        return self.saved(name) or self.save(name, self.run(name, rows))


def _facts(probing: _Probing, forget_rows: Sequence[Row], retain_rows: Sequence[Row]) -> dict[str, Any]:
    """What ``probe.json`` holds. Rows of a group are read once, for the group and for all retain rows."""
    import expunge
    from expunge.probing.figures import THRESHOLD, TOP_SHARE, figures
    from expunge.probing.result import ProbeResult
    from expunge.probing.separation import separation

    forget, retain = probing.of("forget", forget_rows), probing.saved("retain")
    by_name: dict[str, list[Row]] = {}
    for row in retain_rows:
        by_name.setdefault(getattr(row, "group", ""), []).append(row)
    rest = by_name.pop("", [])
    groups, parts = [], []
    for name, place in _folders(by_name).items():
        part = probing.of(f"groups/{place}", by_name[name])
        groups.append(_group(name, place, forget, part))
        if retain is None:
            parts.append(part)
    if retain is None:
        parts += [probing.run("retain", rest)] if rest else []
        retain = probing.save("retain", reduce(ProbeResult.merged, parts))
    return {
        "expunge": expunge.__version__,
        "target": forget.target.as_dict(),
        "scope": {name: value for name, value in asdict(forget.scope).items() if name not in ("rows", "cut")},
        "rows": {name: _rows(one) for name, one in (("forget", forget), ("retain", retain))},
        "threshold": THRESHOLD,
        "top_share": TOP_SHARE,
        **figures(separation(forget, retain)),
        "groups": groups,
    }


def _rows(result: ProbeResult) -> dict[str, int]:
    return {"rows": result.scope.rows, "cut": result.scope.cut}


def _group(name: str, place: str, forget: ProbeResult, group: ProbeResult) -> dict[str, Any]:
    """The forget rows against one group of retain rows, in few figures."""
    from expunge.probing.figures import figures
    from expunge.probing.separation import separation

    entry: dict[str, Any] = {"name": name, "folder": f"groups/{place}", **_rows(group)}
    try:
        found = figures(separation(forget, group))
    except InputError as error:  # a group of one row, next to larger ones
        return {**entry, "left_out": str(error)}
    kept = ("role", "layer", "share", "by_chance", "largest")
    for part in ("roles", "layers"):
        entry[part] = [{name: one[name] for name in kept if name in one} for one in found[part]]
    return entry


def _folders(names: Iterable[str]) -> dict[str, str]:
    """A folder for each group, named like it where file systems allow."""
    found: dict[str, str] = {}
    for name in names:
        short = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:_NAME_LENGTH] or "group"
        taken = {place.casefold() for place in found.values()}
        tries = chain([short], (f"{short}-{number}" for number in count(2)))
        found[name] = next(place for place in tries if place.casefold() not in taken)
    return found


def _write(folder: Path, facts: Mapping[str, Any]) -> None:
    from expunge.reports.probe_page import write_probe_page

    write_json(folder / FACTS, facts)
    write_probe_page(folder / PAGE, facts)
