"""What the frozen target says, computed once: log-probabilities of answers, and states that stand for distributions.

A whole distribution is kept as the state that the output head makes it from: H numbers a token instead of V. The store
is keyed by the target's fingerprint, the precision of its forwards and each row's tokens (so by data and template), and
holds what it has of any row: methods and seeds of the same target share it, and compute only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge.data.batches import collate, length_batches
from expunge.data.encode import Example
from expunge.distributed import gather, is_main, on_main, processes, share
from expunge.errors import CacheError
from expunge.files import write_json, writing
from expunge.models.halves import Halves
from expunge.models.logprobs import label_logps
from expunge.models.state import evaluating
from expunge.training.sharding import is_sharded, rest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.training.run import Progress

SCHEMA = 1
LOGPS, STATES = "logps", "states"
_FACTS = "facts.json"
_TOKENS = 8192  # padded tokens of one forward
_TENSOR = "values"


def layer_kind(layer: int) -> str:
    """The store's name for the outputs of a decoder layer."""
    return f"layer-{layer}"


def example_key(example: Example) -> str:
    """A digest of a row's tokens and of where its answer begins."""
    text = f"{example.answer_start}:{example.input_ids}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class ReferenceStore:
    """Values by kind and row: ``logps`` one number a row, ``states`` [T, H] a row, ``layer-K`` [tokens, H] a row.

    ``folder`` None keeps them in memory alone. ``facts`` are what makes the values what they are; a folder with other
    facts is an error, not a source of wrong numbers.
    """

    facts: Mapping[str, Any]
    folder: Path | None = None
    _held: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(self.folder) / digest
        path = self.folder / _FACTS
        expected = {"schema": SCHEMA, **json.loads(json.dumps(self.facts))}
        if not path.exists():
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, expected)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            found = None
        if found != expected:
            raise CacheError(
                f"{self.folder} is a cache of references of another model: {_differences(found, expected)}. "
                "Delete that folder, or name another one (training.reference_cache)."
            )

    def missing(self, kind: str, examples: Sequence[Example]) -> list[Example]:
        """The rows, each once, that have no value of this kind yet."""
        held = self._load(kind)
        found = {example_key(e): e for e in examples}
        return [e for key, e in found.items() if key not in held]

    def get(self, kind: str, example: Example) -> Tensor:
        """The value of one row, in host memory."""
        return self._load(kind)[example_key(example)]

    def add(self, kind: str, examples: Sequence[Example], values: Sequence[Tensor]) -> None:
        """Keep values of rows, in memory and, where there is one, in the folder."""
        held = self._load(kind)
        held.update(zip(map(example_key, examples), values, strict=True))
        if self.folder is None or not examples or not is_main():
            return
        flat, lengths = _end_to_end(values)
        metadata = {
            "kind": kind,
            "rows": json.dumps([example_key(e) for e in examples]),
            "lengths": json.dumps(lengths),
            "sha256": _digest(flat),
        }
        # Several runs may fill one folder: every file has a name of its own and appears whole.
        path = self.folder / f"{kind}-{uuid.uuid4().hex[:12]}.safetensors"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with writing(path):
            save_file({_TENSOR: flat}, temporary, metadata)
            temporary.replace(path)

    def _load(self, kind: str) -> dict[str, Tensor]:
        if kind in self._held:
            return self._held[kind]
        held = self._held[kind] = {}
        for path in sorted(self.folder.glob(f"{kind}-*.safetensors")) if self.folder else ():
            held.update(_read(path, kind))
        return held


def _read(path: Path, kind: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata, values = file.metadata() or {}, file.get_tensor(_TENSOR)
        rows, lengths = json.loads(metadata["rows"]), json.loads(metadata["lengths"])
        whole = metadata["kind"] == kind and sum(lengths) == len(values) and metadata["sha256"] == _digest(values)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError):
        whole = False
    if not whole:
        raise CacheError(f"{path} is damaged or no cache of references. Delete it; it will be computed again.")
    return dict(zip(rows, _apart(kind, values, lengths), strict=True))


def _end_to_end(values: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """The values of rows as one tensor, and how much of it is whose."""
    flat = torch.cat([value.reshape(1) if value.ndim == 0 else value for value in values])
    return flat.contiguous(), [1 if value.ndim == 0 else len(value) for value in values]


def _apart(kind: str, flat: Tensor, lengths: list[int]) -> list[Tensor]:
    return [piece[0] if kind == LOGPS else piece for piece in flat.split(lengths)]


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().view(torch.uint8).numpy().data).hexdigest()


def _differences(found: Any, expected: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "its facts cannot be read"
    names = sorted({key for key in {*found, *expected} if found.get(key) != expected.get(key)})
    return ", ".join(f"{name} is {found.get(name)!r}, this run's is {expected.get(name)!r}" for name in names[:4])


@torch.no_grad()
def fill(
    store: ReferenceStore,
    model: PreTrainedModel,
    examples: Sequence[Example],
    kinds: set[str],
    *,
    pad_id: int,
    most_tokens: int,
    layers: Sequence[torch.nn.Module] = (),
    progress: Progress,
) -> None:
    """Compute what ``store`` lacks of ``kinds`` for ``examples``, in evaluation mode: dropout takes no part in a
    reference. ``most_tokens`` bounds the logits in memory. Several processes compute a share each and have all."""
    halves, by_key = Halves(model), {example_key(e): e for e in examples}
    # log-probabilities and states come from one forward, the output of a layer from one of its own
    for group in (kinds & {LOGPS, STATES}, *({kind} for kind in sorted(kinds - {LOGPS, STATES}))):
        lacking = on_main(partial(_lacking, store, group, examples))
        rows = [by_key[key] for key in lacking]
        rows = [rows[i] for i in share([len(e.input_ids) for e in rows])]
        batches = length_batches([len(e.input_ids) for e in rows], 64, _TOKENS)
        # all processes run every forward of a sharded model together, those that have no rows left on some row
        turns = max(gather([len(batches)])) if is_sharded(model) else len(batches)
        found: dict[str, tuple[list[Example], list[Tensor]]] = {kind: ([], []) for kind in sorted(group)}
        with evaluating(model):
            for turn in range(turns):
                chosen = [rows[i] for i in batches[turn]] if turn < len(batches) else []
                some_rows = chosen or examples[:1]
                for kind, values in _values(halves, some_rows, group, pad_id, most_tokens, list(layers)).items():
                    found[kind][0].extend(chosen)
                    found[kind][1].extend(values if chosen else [])
                progress(turn + 1, turns, "reference")
        rest(model)
        for kind, (some, values) in found.items():
            if processes() > 1:
                some, values = _of_all_processes(kind, some, values)
            store.add(kind, some, values)


def _lacking(store: ReferenceStore, kinds: set[str], examples: Sequence[Example]) -> list[str]:
    return list({example_key(e): None for kind in kinds for e in store.missing(kind, examples)})


def _of_all_processes(kind: str, examples: list[Example], values: list[Tensor]) -> tuple[list[Example], list[Tensor]]:
    """What all processes found. It travels end to end: the pickle of a piece of a tensor holds the whole tensor."""
    found = gather([(examples, *_end_to_end(values))] if examples else [])
    rows = [example for some, _, _ in found for example in some]
    return rows, [piece for _, flat, lengths in found for piece in _apart(kind, flat, lengths)]


def _values(
    halves: Halves,
    examples: Sequence[Example],
    kinds: set[str],
    pad_id: int,
    most_tokens: int,
    layers: list[torch.nn.Module],
) -> dict[str, list[Tensor]]:
    batch = collate(examples, pad_id).to(halves.model.device)
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    result: dict[str, list[Tensor]] = {}
    answers = [e.answer_length for e in examples]
    for kind in kinds - {LOGPS, STATES}:
        states = halves.layer_states(layers, int(kind.removeprefix("layer-")), **inputs)
        result[kind] = _split(states[batch.attention_mask.bool()].cpu(), [len(e.input_ids) for e in examples])
    if kinds & {LOGPS, STATES}:
        states = halves.states(**inputs)[:, :-1][batch.answer_mask[:, 1:]]
        if STATES in kinds:
            result[STATES] = _split(states.cpu(), answers)
        if LOGPS in kinds:
            labels = batch.input_ids[:, 1:][batch.answer_mask[:, 1:]]
            logps = label_logps(halves, states, labels, most_tokens)
            result[LOGPS] = [part.sum() for part in logps.cpu().split(answers)]
    return result


def _split(values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return list(values.split(list(lengths)))
