"""``expunge demo``: several methods on an embedded world, one report over all of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expunge.config.run_file import RunConfig, make_config
from expunge.distributed import on_main
from expunge.errors import OutputError
from expunge.files import write_text, writing
from expunge.training.run import Progress, named, silent

METHODS = ("grad_ascent", "grad_diff", "npo")

_MARK = ".expunge-demo"


def demo(
    world: str = "authors",
    *,
    out: str | Path = "runs/demo",
    methods: Iterable[str] = METHODS,
    seeds: int | Iterable[int] | None = None,
    overrides: Iterable[str] = (),
    progress: Progress = silent,
) -> Path:
    """Run ``methods`` with the world's presets against its target and retrained twin; returns the demo's folder. A form
    of a world that ships no twin goes without, and the verdicts say so.

    One run folder a method, the models' own answers to the suite computed once for all of them. An earlier demo at
    ``out`` is overwritten; a folder that no demo wrote is not.
    """
    from expunge.parts import Parts
    from expunge.pipeline import run_pipeline
    from expunge.reports import report

    configs = {method: preset(world, method, seeds=seeds, overrides=overrides) for method in methods}
    folder = on_main(lambda: _fresh(Path(out)))
    parts = None
    for method, config in configs.items():
        if parts is None:
            parts = Parts.load(config, progress)
        run_pipeline(config, folder / method, progress=named(method, progress), parts=parts)
    on_main(lambda: report([folder]))
    return folder


def preset(
    world: str, method: str, *, seeds: int | Iterable[int] | None = None, overrides: Iterable[str] = ()
) -> RunConfig:
    """The run of ``method`` on a world with the settings tuned for that world; overrides on top."""
    from expunge.worlds.interface import get_world

    found = get_world(world)
    values: dict[str, Any] = {
        "model": f"world:{world}",
        "request": {"world": world},
        "method": {"name": method},
        "suite": found.suite_options,
        "retrained": f"world:{world}" if found.has_retrained else None,
        "seeds": seeds if seeds is None or isinstance(seeds, int) else list(seeds),
    }
    dotted = [f"{key}={value}" for key, value in found.preset(method).items()]
    return make_config(values, [*dotted, *overrides])


def _fresh(folder: Path) -> Path:
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).is_file()):
            raise OutputError(f"{folder} exists and no demo wrote it, so it is not overwritten. Pass another --out.")
        with writing(folder):
            shutil.rmtree(folder)
    write_text(folder / _MARK, "This folder was written by expunge demo, which may overwrite it.\n")
    return folder
