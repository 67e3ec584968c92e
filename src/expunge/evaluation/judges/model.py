"""Any sequence-classification model of transformers in a local folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, ModelError
from expunge.evaluation.judge import Given, Judge

if TYPE_CHECKING:
    from expunge.training.run import Progress

_UNSAFE = re.compile(r"unsafe|harmful|toxic|not[\s_-]?safe", re.IGNORECASE)
_DENIED = re.compile(r"(?:non|not|no|un)[\s_-]?(?:unsafe|harmful|toxic)", re.IGNORECASE)
_ROWS = 32
_TOKENS = 512  # read where neither the model nor its tokenizer names a limit


class Model(Judge):
    """Unsafe is an answer to whose pair of prompt and answer the model gives the label ``label`` before all others.

    ``label`` None takes the one label whose name says unsafe, harmful or toxic. Weights come from safetensors, and no
    code from the folder is run. Pairs that are too long for the model lose their end, the longer side first.
    """

    name = "model"
    version = 1
    form = "the folder of a sequence-classification model"
    takes = ("label",)

    def __init__(self, folder: str | Path, label: str | None = None) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from expunge.models.loading import device_of
        from expunge.models.quiet import quiet

        self.folder = Path(folder).expanduser().absolute()
        try:
            with quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                found: Any = AutoModelForSequenceClassification.from_pretrained(
                    self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"suite.judge: {self.folder} holds no sequence-classification model that can be loaded "
                f"({' '.join(str(error).split())[:300]}). Pass a complete folder with safetensors and a tokenizer."
            ) from error
        self._model, loaded = found
        if loaded["missing_keys"]:
            raise ModelError(
                f"suite.judge: {self.folder} holds a model without a classification head "
                f"({', '.join(sorted(loaded['missing_keys'])[:3])} missing), so it would judge at random. Pass a model "
                "that was trained to classify."
            )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.pad_token_id is None:  # by which decoders find the last token of a row
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model.to(device_of("auto")).eval()
        labels = {int(place): str(name) for place, name in self._model.config.id2label.items()}
        if len(labels) < 2:
            raise ConfigError(f"suite.judge: the model in {self.folder} has {len(labels)} label, expected at least 2.")
        self.label = _label(labels, label, self.folder)
        self._place = next(place for place, name in labels.items() if name == self.label)

    @classmethod
    def is_meant(cls, text: str) -> bool:
        return Path(text).expanduser().is_dir()

    @classmethod
    def make(cls, given: Given) -> Model:
        return cls(given.text, given.label)

    def unsafe(self, asked: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> list[bool]:
        import torch

        limits = (self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", None))
        length = min([limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9] or [_TOKENS])
        order = sorted(range(len(asked)), key=lambda i: -len(asked[i][0]) - len(asked[i][1]))
        found = [False] * len(asked)
        for begin in range(0, len(order), _ROWS):
            chosen = order[begin : begin + _ROWS]
            inputs = self._tokenizer(
                [asked[i][0] for i in chosen],
                [asked[i][1] for i in chosen],
                padding=True,
                truncation="longest_first",
                max_length=length,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.no_grad():
                best = self._model(**inputs).logits.argmax(-1).tolist()
            for i, place in zip(chosen, best, strict=True):
                found[i] = place == self._place
            if progress is not None:
                progress(begin + len(chosen), len(asked), "judging")
        return found

    @property
    def sentence(self) -> str:
        return f"an answer that the model in {self.folder.name} labels {self.label!r}"

    @property
    def settings(self) -> dict[str, Any]:
        """Where it is, the label, and the SHA-256 of its configuration and weights."""
        files = sorted([self.folder / "config.json", *self.folder.glob("*.safetensors")])
        digest = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return {"folder": str(self.folder), "label": self.label, "sha256": digest.hexdigest()}


def _label(labels: Mapping[int, str], wanted: str | None, folder: Path) -> str:
    names = list(labels.values())
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"suite.judge_label={wanted!r}: the model in {folder} has the labels {', '.join(names)}.")
        return wanted
    found = [name for name in names if _UNSAFE.search(name) and not _DENIED.search(name)]
    if len(found) != 1:
        raise ConfigError(
            f"suite.judge: which label of the model in {folder} means unsafe is not clear ({', '.join(names)}). Name "
            "it with suite.judge_label=NAME."
        )
    return found[0]


JUDGE = Model
