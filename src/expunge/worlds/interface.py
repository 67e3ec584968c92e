"""What a world is, and finding worlds by name.

A world is one file (``worlds/<name>.py``, which defines one :class:`World`) and one folder beside it
(``worlds/<name>_files/``): its data with their licence, ``presets.yaml``, and what ``build_world`` writes:
``target/`` and ``retrained/`` (complete transformers folders), ``recipe.json`` and ``scores.json``. A world may have
several forms (``<name>-<form>``), which differ in what is to be forgotten, and several retrained models.
"""

from __future__ import annotations

import copy
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.errors import ConfigError, ModelError, UnknownNameError, did_you_mean
from expunge.worlds.recipe import Recipe, data_hashes, fingerprint_of, recipe_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.requests.request import Request
    from expunge.requests.rows import Row

MODELS = ("target", "retrained")
RECIPE_FILE = "recipe.json"
SCORES_FILE = "scores.json"
_SHARED = "shared"
_HERE = Path(__file__).parent


class World(ABC):
    """A tiny model, its retrained twin, its tokenizer, its rows and its request.

    ``folder`` holds the checkpoints; the default is the one inside the package, another is one that
    ``build_world`` wrote. Data and presets always come from ``data_folder``, inside the package. A subclass
    gives ``name``, ``description``, ``recipe`` and the abstract members below. ``models`` are the folders of all its
    checkpoints, ``shipped_models`` those inside the package, ``retrained_model`` the twin that belongs to the request.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    recipe: Recipe
    models: ClassVar[tuple[str, ...]] = MODELS
    shipped_models: tuple[str, ...] = MODELS
    retrained_model: str = MODELS[1]
    answer_tokens: ClassVar[int] = 200  # generated at most when a build is scored

    def __init__(self, folder: str | Path | None = None) -> None:
        self.data_folder = _HERE / f"{self.name}_files"
        self.folder = self.data_folder if folder is None else Path(folder).expanduser()

    @classmethod
    def forms(cls) -> tuple[str, ...]:
        """What may follow the world's name and a hyphen; nothing unless a subclass says so."""
        return ()

    @classmethod
    def of_form(cls, form: str, folder: str | Path | None = None) -> World:
        """The world in one of its forms; ``""`` is what the name alone means."""
        del form  # a world of one form
        return cls(folder)

    def at(self, folder: Path) -> World:
        """The same world with the checkpoints of another folder."""
        other = copy.copy(self)
        other.folder = folder
        return other

    # What a subclass gives.

    @abstractmethod
    def training_rows(self, *, retrained: bool = False) -> list[Row]:
        """The rows the target was trained on, in order; with ``retrained`` those of its twin (the forget rows left
        out)."""

    @abstractmethod
    def tokenizer_rows(self) -> list[Row]:
        """The rows whose text the tokenizer was trained on."""

    @abstractmethod
    def request(self) -> Request:
        """What must go and what must stay."""

    @abstractmethod
    def suite(self) -> Suite:
        """The benchmark that the world's results are scored on."""

    @property
    @abstractmethod
    def suite_options(self) -> dict[str, Any]:
        """The same suite as a run file's ``suite`` section names it."""

    @abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """The scores of the suite that a build writes down (those that cost little)."""

    # What a subclass may change.

    def rows_of(self, model: str) -> list[Row]:
        """The rows that the model in folder ``model`` was trained on, in order."""
        return self.training_rows(retrained=model == self.retrained_model)

    def data_hashes(self) -> dict[str, str]:
        """The SHA-256 of the data that the recipe reads, by name."""
        return data_hashes(self.data_folder, self.recipe.files)

    def score_build(
        self, outputs: Mapping[str, ModelOutputs], names: Sequence[str], seconds: Mapping[str, float]
    ) -> dict[str, Any]:
        """The content of ``scores.json``: scores ``names`` of the outputs of every model that was built."""
        from expunge.evaluation.score import score

        target, retrained = (outputs[model] for model in MODELS)
        return score(self.suite(), target=target, retrained=retrained, metrics=names, seconds=seconds).to_json()

    # What every world has.

    @property
    def target_folder(self) -> Path:
        """A complete transformers folder: the model that knows the forget rows."""
        return self.folder / MODELS[0]

    @property
    def retrained_folder(self) -> Path:
        """A complete transformers folder: the same recipe, never trained on the forget rows."""
        return self.folder / self.retrained_model

    @property
    def build_name(self) -> str:
        """What ``build_world`` is given to write these checkpoints."""
        return self.name

    @property
    def has_retrained(self) -> bool:
        """Whether the retrained model is there."""
        return _is_model(self.retrained_folder)

    def model_folder(self, role: str) -> Path:
        """The folder of the model that is the ``target`` or else the retrained one; a :class:`ModelError` that says
        how to build it where it is not there."""
        return self._built(MODELS[0] if role == MODELS[0] else self.retrained_model)

    def target(self) -> PreTrainedModel:
        """The model as it is before, in float32 and evaluation mode."""
        return self.model(MODELS[0])

    def retrained(self) -> PreTrainedModel:
        """The model that never saw the forget rows, in float32 and evaluation mode."""
        return self.model(self.retrained_model)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of both models."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            self._built(MODELS[0]), local_files_only=True
        )
        return tokenizer

    def model(self, name: str) -> PreTrainedModel:
        """The model in folder ``name``, in float32 and evaluation mode."""
        import torch
        from transformers import AutoModelForCausalLM

        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self._built(name), dtype=torch.float32, local_files_only=True
        )
        model.eval()
        return model

    def scores(self) -> dict[str, Any]:
        """What the build scored, in the form of a run's ``scores.json``."""
        return self._json(SCORES_FILE)

    def preset(self, method: str) -> dict[str, Any]:
        """Dotted overrides for ``method`` on this world, such as ``{"method.beta": 0.03, "training.epochs": 24}``.

        The training settings that every method shares here, then the method's own entry of ``presets.yaml``. A
        method without an entry gets the shared settings alone (its fields stay at the paper's defaults).
        """
        presets = self._presets()
        return {**presets[_SHARED], **presets.get(method, {})}

    def preset_names(self) -> list[str]:
        """The methods that have an entry of their own."""
        return sorted(set(self._presets()) - {_SHARED})

    def fingerprint(self) -> str:
        """SHA-256 of the recipe as the code has it now, and of the data it reads."""
        return fingerprint_of(self.recipe, self.data_hashes())

    def check(self) -> None:
        """Raise a :class:`ModelError` if the checkpoints were not made by this recipe from these data, or have
        changed since; the message names every difference."""
        stored = self._json(RECIPE_FILE)
        problems = [
            f"recipe.{key}: the checkpoints have {old!r}, the code has {new!r}"
            for key, old, new in _differences(stored.get("recipe", {}), recipe_values(self.recipe))
        ]
        problems += [
            f"data {key}: the checkpoints have {old}, the package has {new}"
            for key, old, new in _differences(stored.get("data", {}), self.data_hashes())
        ]
        if not problems and stored.get("fingerprint") != self.fingerprint():
            problems.append(
                f"fingerprint: {RECIPE_FILE} has {stored.get('fingerprint')}, the recipe {self.fingerprint()}"
            )
        problems += [
            f"{key}: {RECIPE_FILE} has {old}, the folder has {new}"
            for key, old, new in _differences(
                stored.get("checkpoints", {}), checkpoint_hashes(self.folder, self.models)
            )
        ]
        if problems:
            raise ModelError(
                f"world '{self.name}': recipe and checkpoints in {self.folder} have drifted apart:\n  "
                + "\n  ".join(problems)
                + f"\nRebuild them with `expunge world build {self.build_name}`, or undo the change."
            )

    def _built(self, model: str) -> Path:
        """The folder of ``model``, which must be there."""
        folder = self.folder / model
        if not _is_model(folder):
            raise ModelError(
                f"world '{self.name}': {self.folder} has no {model} model. {self._remedy(model)}, or pass the folder "
                "of an earlier build."
            )
        return folder

    def _remedy(self, model: str) -> str:
        """How to come by ``model``, where it is not there."""
        del model
        return f"Build it with `expunge world build {self.build_name}`"

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"world '{self.name}': {path} cannot be read ({error}). "
                f"Build it with `expunge world build {self.build_name}`."
            ) from error
        return value

    def _presets(self) -> dict[str, dict[str, Any]]:
        import yaml

        path = self.data_folder / "presets.yaml"
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        wrong = [
            f"{name}.{key}"
            for name, values in loaded.items()
            for key in values
            if not str(key).startswith(("method.", "training."))
        ]
        if wrong or _SHARED not in loaded:
            raise ConfigError(
                f"{path}: needs an entry '{_SHARED}' and keys that begin with 'method.' or 'training.'; "
                f"found {', '.join(wrong) or f'no {_SHARED!r}'}."
            )
        return {str(name): dict(values) for name, values in loaded.items()}


def list_worlds() -> list[str]:
    """The names of all worlds, without importing one."""
    return sorted(path.stem for path in _HERE.glob("*.py") if (_HERE / f"{path.stem}_files").is_dir())


def get_world(name: str, folder: str | Path | None = None) -> World:
    """The world called ``name``, with the checkpoints of ``folder`` (default: those inside the package).

    ``name`` may go on with a hyphen and one of the world's forms (``skills-german``). Raises :class:`UnknownNameError`,
    with a suggestion, for a name that is no world.
    """
    known = list_worlds()
    base, _, form = name.partition("-")
    if base not in known:
        raise UnknownNameError(f"there is no world '{name}'. {did_you_mean(name, known)}")
    module = importlib.import_module(f"{__package__}.{base}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, World) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__name__} must define one World, it defines {len(found)}.")
    names = [base, *(f"{base}-{one}" for one in found[0].forms())]
    if name not in names:
        raise UnknownNameError(f"there is no world '{name}'. {did_you_mean(name, names)}")
    return found[0].of_form(form, folder)


def checkpoint_hashes(folder: Path, models: Sequence[str] = MODELS) -> dict[str, str]:
    """The SHA-256 of every file of ``models``, those that are there, under ``folder``."""
    paths = [path for which in models for path in (folder / which).rglob("*") if path.is_file()]
    return data_hashes(folder, [path.relative_to(folder).as_posix() for path in paths])


def _is_model(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) wherever two nested dictionaries differ; what one lacks is None there."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            found
            for key in keys
            for found in _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [(prefix, old, new)]
