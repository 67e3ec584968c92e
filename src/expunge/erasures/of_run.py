"""The erased model of a run as the model of another one: ``run:DIR``, so that one removal follows another.

The target of such a run is whatever the run in ``DIR`` erased, which may be a ``run:`` itself; each erasure of that
chain is applied to the weights in turn, and refused where it was made for others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ErasureError, InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.config.run_file import ModelSpec

PREFIX = "run:"


def erasure_folder(folder: Path) -> Path:
    """Where the erasure of a run folder lies; an erasure's own folder is that itself.

    Raises:
        InputError: no such folder, or a folder of several seeds.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}. Pass a run folder, or an erasure's folder with --model.")
    if (folder / "manifest.json").is_file():
        return folder
    seeds = sorted(folder.glob("seed-*/erasure"), key=lambda path: (len(path.parent.name), path.parent.name))
    if not (folder / "erasure").is_dir() and seeds:
        raise InputError(f"{folder} holds {len(seeds)} seeds. Pass one of them, such as {seeds[0].parent}.")
    return folder / "erasure"


def find_erasure(folder: Path, model: str | None = None) -> tuple[Path, ModelSpec]:
    """:func:`erasure_folder`, and the erasure's target: ``model``, or what the run file names.

    Raises:
        InputError: no such folder, a folder of several seeds, or nothing that names the model.
    """
    from expunge.config.run_file import ModelSpec, read_config

    source = erasure_folder(folder)
    run_file = source.parent / "run.yaml"
    if model is not None:
        return source, ModelSpec(path=model)  # type: ignore[call-arg]
    if not run_file.is_file():
        raise InputError(f"{folder} has no run.yaml that names the model. Pass --model.")
    return source, read_config(run_file).model


def chain(path: str) -> tuple[str, tuple[Path, ...]]:
    """The model that ``path`` began with, and the run folders whose erasures were applied to it, the first one first.
    Of a path that is no ``run:`` these are itself and none.

    Raises:
        InputError: a folder that is no run's.
        ModelError: a run that has itself for a target.
    """
    folders: list[Path] = []
    while path.startswith(PREFIX):
        folder = Path(path.removeprefix(PREFIX)).expanduser()
        source, target = find_erasure(folder)
        folder = source.parent.resolve()
        if folder in folders:
            raise ModelError(f"the run in {folder} has itself for a target. Correct model.path in its run.yaml.")
        folders.insert(0, folder)
        path = target.path
    return path, tuple(folders)


def target_path(path: str) -> str:
    """The path of the model that ``path`` began with, which has the same configuration and tokenizer."""
    return chain(path)[0]


def load_erased(spec: ModelSpec) -> PreTrainedModel:
    """The erased model of the run that ``spec`` names, in the precision that its erasure was made in unless another is
    asked for. Its fingerprint is that of its weights in memory.

    Raises:
        ModelError: it is to be quantised.
        ErasureError: an erasure that is damaged, made for another model, a harmful copy, or that changes no weights.
    """
    from expunge.erasures.merging import merge
    from expunge.erasures.purpose import is_harmful_copy
    from expunge.methods.interface import Erasure
    from expunge.models.fingerprint import SOURCE_FOLDER
    from expunge.models.loading import load_model, load_tokenizer

    start, folders = chain(spec.path)
    if spec.quantization != "none":
        raise ModelError(
            f"the model {spec.path!r} is made by changing weights, and quantised ones cannot be changed. Write it as a "
            f"checkpoint and quantise that: expunge export {folders[-1]} --to DIR"
        )
    erasures = [Erasure.load(folder / "erasure") for folder in folders]
    for folder, erasure in zip(folders, erasures, strict=True):
        if erasure.kind != "weights" or is_harmful_copy(erasure.manifest):
            what = "is a harmful copy" if erasure.kind == "weights" else f"changes no weights (kind '{erasure.kind}')"
            raise ErasureError(
                f"the erasure of the run in {folder} {what}, so there is no erased model that another removal could "
                "begin with. Name a run whose method changes weights."
            )
    precision = erasures[-1].manifest.target.dtype if spec.dtype == "auto" else spec.dtype
    first = spec.model_copy(update={"path": start, "dtype": precision})
    model, tokenizer = load_model(first), load_tokenizer(first)
    for folder, erasure in zip(folders, erasures, strict=True):
        erasure.tokenizer = tokenizer  # so that a target with another tokenizer is refused too
        try:
            merge(model, erasure)
        except ErasureError as error:
            raise ErasureError(f"the run in {folder}: {error}") from error
        # its weights are in no file any more
        setattr(model, SOURCE_FOLDER, f"{PREFIX}{folder}")
        model.config._name_or_path = f"{PREFIX}{folder}"
    return model
