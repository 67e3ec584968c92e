"""``expunge forget`` and ``expunge run``: from files to an erasure, its scores and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import RunConfig, make_config, read_config
from expunge.config.values import merged
from expunge.errors import ConfigError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from expunge.requests.documents.aliases import Alias

Review = Callable[[Mapping[str, "tuple[Alias, ...]"], "tuple[str, ...]"], None]
"""Is shown every form of each subject that documents hold, and the aliases that will be used."""


def forget(
    model: str,
    forget: str | None = None,
    *,
    out: str | Path,
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
    overwrite: bool = False,
    progress: Progress = silent,
    review: Review | None = None,
) -> Path:
    """Make a model forget the rows of a file, or whom documents are about; fits, saves, scores and reports. Returns the
    run folder.

    ``model`` and ``retrained`` are folders or hub ids; the row files are JSONL, JSON, CSV, Parquet, text, a folder or a
    datasets hub id. ``documents`` is a file or folder that names the ``subjects``, in place of ``forget``; ``review``
    is shown the names found in them before anything is loaded, and may raise. ``overrides`` are dotted settings such as
    ``method.beta=0.2`` or ``training.epochs=3``.

    Raises:
        ExpungeError: whatever is wrong with the input, all of it at once where possible.
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
    check_suite(config)
    config = with_names(config, review)
    from expunge.pipeline import run_pipeline

    return run_pipeline(config, out, overwrite=overwrite, progress=progress)


def run(
    file: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
    review: Review | None = None,
) -> Path:
    """The same from a run file (or its values as a mapping), with overrides on top. Returns the run folder."""
    config = run_config(file, overrides)
    check_suite(config)
    config = with_names(config, review)
    from expunge.pipeline import run_pipeline

    return run_pipeline(config, out, overwrite=overwrite, progress=progress)


def forget_config(
    model: str,
    *,
    method: str,
    retrained: str | None,
    suite: str,
    seeds: int | Iterable[int] | None,
    overrides: Iterable[str],
    **request: Any,
) -> RunConfig:
    """The checked settings of a run on ``model``; ``request`` are the values of that section."""
    values: dict[str, Any] = {
        "model": {"path": model},
        "request": request,
        "method": {"name": method},
        "suite": {"name": suite},
        "seeds": seeds if seeds is None or isinstance(seeds, int) else list(seeds),
    }
    if retrained is not None:
        values["retrained"] = {"path": retrained}
    return make_config(values, overrides)


def run_config(file: str | Path | Mapping[str, Any], overrides: Iterable[str]) -> RunConfig:
    """The checked settings of a run file, or of its values as a mapping."""
    if isinstance(file, Mapping):
        return make_config(merged({}, dict(file)), overrides)
    return read_config(file, overrides)


def check_suite(config: RunConfig) -> None:
    """Refuse an embedded world's own suite without the options that say where its rows are: they would be another
    data set's, of the hub."""
    world = config.request.world
    if world is None and config.model.path.startswith("world:"):
        world = config.model.path.removeprefix("world:").partition("/")[0]
    if world is None:
        return
    from expunge.worlds.interface import get_world

    own = get_world(world).suite_options
    missing = [
        name
        for name, value in own.items()
        if str(value).startswith("world:") and name not in config.suite.options and own["name"] == config.suite.name
    ]
    if missing:
        said = " ".join(f"suite.{name}={value}" for name, value in own.items())
        others = ", ".join(f"suite.{name}" for name in missing)
        raise ConfigError(
            f"suite '{config.suite.name}' would take rows that are not those of world '{world}', since {others} is not "
            f"given. Set {said}; or name other rows by {others}."
        )


def with_names(config: RunConfig, review: Review | None = None) -> RunConfig:
    """The settings with the names that a request's documents have for its subjects, as the run records them."""
    from expunge.requests.documents.from_spec import resolve

    request, names = resolve(config.request)
    if names and review is not None:
        review(names, request.aliases)
    return config.model_copy(update={"request": request})
