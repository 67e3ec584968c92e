"""A sequence-classification model of transformers that reads pairs of texts, from a folder or the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from expunge.training.run import Progress

_ROWS = 32
_TOKENS = 512  # read where neither the model nor its tokenizer names a limit


class PairClassifier:
    """Scores the labels of pairs of texts. ``source`` is a folder, or with ``local`` false also a hub id; ``option`` is
    what the user set it with, for messages. Weights come from safetensors, and no code that comes with the model is
    run. Pairs that are too long for the model lose their end, the longer side first.
    """

    def __init__(self, source: str | Path, *, option: str, local: bool = True) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from expunge.models.loading import device_of
        from expunge.models.quiet import quiet

        folder = Path(source).expanduser()
        self.folder = folder.absolute() if local or folder.is_dir() else None
        self.source = str(self.folder or source)
        try:
            with quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(self.source, local_files_only=local)
                found: Any = AutoModelForSequenceClassification.from_pretrained(
                    self.source, local_files_only=local, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{option}: {self.source} holds no sequence-classification model that can be loaded "
                f"({' '.join(str(error).split())[:300]}). Pass a complete folder with safetensors and a tokenizer."
            ) from error
        self._model, loaded = found
        if loaded["missing_keys"]:
            raise ModelError(
                f"{option}: {self.source} holds a model without a classification head "
                f"({', '.join(sorted(loaded['missing_keys'])[:3])} missing), so it would judge at random. Pass a model "
                "that was trained to classify."
            )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.pad_token_id is None:  # by which decoders find the last token of a row
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model.to(device_of("auto")).eval()
        self.labels = {int(place): str(name) for place, name in self._model.config.id2label.items()}
        if len(self.labels) < 2:
            raise ConfigError(
                f"{option}: the model in {self.source} has {len(self.labels)} label, expected at least 2."
            )

    def logits(self, pairs: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> np.ndarray:
        """[n, labels] float32 scores of ``pairs``, before the softmax."""
        import torch

        limits = (self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", None))
        length = min([limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9] or [_TOKENS])
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        found = np.zeros((len(pairs), len(self.labels)), dtype=np.float32)
        for begin in range(0, len(order), _ROWS):
            chosen = order[begin : begin + _ROWS]
            inputs = self._tokenizer(
                [pairs[i][0] for i in chosen],
                [pairs[i][1] for i in chosen],
                padding=True,
                truncation="longest_first",
                max_length=length,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.no_grad():
                found[chosen] = self._model(**inputs).logits.float().cpu().numpy()
            if progress is not None:
                progress(begin + len(chosen), len(pairs), "judging")
        return found

    def fingerprint(self) -> str | None:
        """The SHA-256 of the folder's configuration and weights; of a hub model its revision, where it is known."""
        if self.folder is None:
            return getattr(self._model.config, "_commit_hash", None)
        digest = hashlib.sha256()
        for path in sorted([self.folder / "config.json", *self.folder.glob("*.safetensors")]):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
