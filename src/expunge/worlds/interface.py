"""What a world is, and finding worlds by name.

A world is one file (``worlds/<name>.py``, which defines one :class:`World`) and one folder beside it
(``worlds/<name>_files/``): its data with their licence, ``presets.yaml``, and what ``build_world`` writes:
``target/`` and ``retrained/`` (complete transformers folders), ``recipe.json`` and ``scores.json``.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.errors import ConfigError, ModelError, UnknownNameError, did_you_mean
from expunge.worlds.recipe import Recipe, data_hashes, fingerprint, recipe_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.evaluation.suite import Suite
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
    gives ``name``, ``description``, ``recipe`` and the abstract members below.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    recipe: ClassVar[Recipe]

    def __init__(self, folder: str | Path | None = None) -> None:
        self.data_folder = _HERE / f"{self.name}_files"
        self.folder = self.data_folder if folder is None else Path(folder).expanduser()

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

    # What every world has.

    @property
    def target_folder(self) -> Path:
        """A complete transformers folder: the model that knows the forget rows."""
        return self.folder / "target"

    @property
    def retrained_folder(self) -> Path:
        """A complete transformers folder: the same recipe, never trained on the forget rows."""
        return self.folder / "retrained"

    def target(self) -> PreTrainedModel:
        """The model as it is before, in float32 and evaluation mode."""
        return self._model("target")

    def retrained(self) -> PreTrainedModel:
        """The model that never saw the forget rows, in float32 and evaluation mode."""
        return self._model("retrained")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of both models."""
        from transformers import AutoTokenizer

        self._built()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.target_folder, local_files_only=True)
        return tokenizer

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
        return fingerprint(self.recipe, self.data_folder)

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
            for key, old, new in _differences(stored.get("data", {}), data_hashes(self.data_folder, self.recipe.files))
        ]
        if not problems and stored.get("fingerprint") != self.fingerprint():
            problems.append(
                f"fingerprint: {RECIPE_FILE} has {stored.get('fingerprint')}, the recipe {self.fingerprint()}"
            )
        problems += [
            f"{key}: {RECIPE_FILE} has {old}, the folder has {new}"
            for key, old, new in _differences(stored.get("checkpoints", {}), checkpoint_hashes(self.folder))
        ]
        if problems:
            raise ModelError(
                f"world '{self.name}': recipe and checkpoints in {self.folder} have drifted apart:\n  "
                + "\n  ".join(problems)
                + f"\nRebuild them with `expunge world build {self.name}`, or undo the change."
            )

    def _model(self, which: str) -> PreTrainedModel:
        import torch
        from transformers import AutoModelForCausalLM

        self._built()
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.folder / which, dtype=torch.float32, local_files_only=True
        )
        model.eval()
        return model

    def _built(self) -> None:
        """An error unless both checkpoints are there."""
        missing = [which for which in MODELS if not (self.folder / which / "model.safetensors").is_file()]
        if missing:
            raise ModelError(
                f"world '{self.name}': {self.folder} has no {' and no '.join(missing)} model. "
                f"Build it with `expunge world build {self.name}`, or pass the folder of an earlier build."
            )

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"world '{self.name}': {path} cannot be read ({error}). "
                f"Build it with `expunge world build {self.name}`."
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

    Raises :class:`UnknownNameError`, with a suggestion, for a name that is no world.
    """
    known = list_worlds()
    if name not in known:
        raise UnknownNameError(f"there is no world '{name}'. {did_you_mean(name, known)}")
    module = importlib.import_module(f"{__package__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, World) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__name__} must define one World, it defines {len(found)}.")
    return found[0](folder)


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of both models under ``folder``."""
    paths = [path for which in MODELS for path in (folder / which).rglob("*") if path.is_file()]
    return data_hashes(folder, [path.relative_to(folder).as_posix() for path in paths])


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
