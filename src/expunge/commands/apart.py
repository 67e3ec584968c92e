"""An output folder apart from everything that is read: with ``--overwrite`` a run's folder is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.erasures.of_run import PREFIX
from expunge.errors import OutputError

if TYPE_CHECKING:
    from expunge.config.run_file import RequestSpec

_DOCUMENTS = "--documents"
_ROWS = ("forget", "retain", "neighbours", "holdout", "calibration", "probes", "documents")


def row_inputs(request: RequestSpec) -> dict[str, Any]:
    """The files and folders of a request, by their options."""
    return {f"--{name}": getattr(request, name) for name in _ROWS}


def check_apart(out: str | Path | None, inputs: Mapping[str, Any]) -> None:
    """Refuse an ``out`` that is or holds what is read, and one in the folder of documents, which would be read next.

    ``inputs`` are paths by the name that the user knows them by; what is no path that exists (a hub id, a world, a
    loaded model) is passed over, and a path as ``run:DIR`` means the run folder.

    Raises:
        OutputError: names every such input.
    """
    if out is None:
        return
    place = Path(out).expanduser().resolve()
    problems = []
    for name, given in inputs.items():
        if not isinstance(given, str | Path) or not str(given):
            continue
        read = Path(str(given).removeprefix(PREFIX)).expanduser()
        if not read.exists():
            continue
        read = read.resolve()
        if place == read:
            problems.append(f"it is {name} ({given})")
        elif read.is_relative_to(place):
            problems.append(f"it holds {name} ({given})")
        elif name == _DOCUMENTS and place.is_relative_to(read):
            problems.append(f"it lies in {name} ({given})")
    if problems:
        raise OutputError(
            f"{out} cannot be the folder to write to: {'; '.join(problems)}, which is only read here and must stay as "
            "it is. Choose another folder."
        )
