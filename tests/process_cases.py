"""Fits that must end alike in one process and in several; run as a script it does some of them in its process.

Arguments are ``FOLDER=CASE`` or ``FOLDER=CASE@STEP``: stop after that optimizer step, leaving checkpoints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

import zoo
from expunge import distributed
from expunge.methods.registry import get_method, method_names
from expunge.methods.weight_method import WeightMethod
from expunge.requests import Request
from fitting import StoppedError, bits, fit, rows, silent, stop_at
from history import read_history

FULL: dict[str, Any] = {"sharding": "full"}
SGD: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.05}  # Adam makes steps of a gradient that is rounding
FEW = Request(forget=rows(5, "forget"), retain=rows(3, "retain"))

# Name: method, its fields, what else the fit is given.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # optimizer steps of 3, 3, 3 and 1 forget rows: the last has fewer rows than there are processes
    "fewer_rows": ("npo", {}, {"request": FEW, "forget_batch": 3, "retain_batch": 1}),
    "accumulated": ("simnpo", {}, {"accumulation": 3, "forget_batch": 1}),
    "reference_states": ("kl_min", {}, {"score_every_steps": 2}),
    "epochs": ("scrub", {"order": ["max", "min"]}, SGD),
    "state": ("pdu", {"eps": 1.0}, {}),
    "alternatives": ("dpo", {}, {}),
    "lora": ("npo", {}, {"parameters": "lora"}),
    "sharded_tied": ("npo", {"retain": "kl"}, {**FULL, "family": "llama3", "score_every_steps": 2}),
    "sharded_lora": ("npo", {}, {**FULL, "parameters": "lora"}),
    "sharded_layer": ("rmu", {"layer": 1}, {**FULL, "request": FEW}),
    "resumed": ("npo", {}, {"checkpoint_every": 2}),
    "sharded_resumed": ("npo", {}, {**FULL, "checkpoint_every": 2}),
    # the rest is for the slow tests
    "sampled": ("altpo", {}, {"max_new_tokens": 5}),
    "packed": ("grad_diff", {}, {"packing": True}),
    "autocast": ("npo", {}, {"dtype": "bfloat16", **SGD}),
    "checkpointed": ("npo", {}, {"gradient_checkpointing": True}),
    "experts": ("npo", {}, {"family": "mixtral"}),
    "sharded_packed": ("grad_diff", {}, {**FULL, "packing": True}),
    "sharded_autocast": ("npo", {"retain": "kl"}, {**FULL, "dtype": "bfloat16", **SGD}),
    "sharded_checkpointed": ("npo", {}, {**FULL, "gradient_checkpointing": True}),
    "sharded_lora_checkpointed": ("npo", {}, {**FULL, "parameters": "lora", "gradient_checkpointing": True}),
    "compiled": ("npo", {}, {"compile": True, "max_steps": 2}),
    "sharded_compiled": ("npo", {}, {**FULL, "compile": True, "max_steps": 2}),
    "sharded_experts": ("npo", {}, {**FULL, "family": "mixtral"}),
    "sharded_gemma2": ("npo", {}, {**FULL, "family": "gemma2"}),
    "sharded_subset": ("npo", {}, {**FULL, "layers": ("*.layers.1.*",)}),
    "sharded_narrow": ("npo", {}, {**FULL, "narrow": True, **SGD}),
    "sharded_sgd": ("npo", {}, {**FULL, **SGD, "checkpoint_every": 2}),
    "sharded_adagrad": ("npo", {}, {**FULL, "optimizer": "adagrad", "checkpoint_every": 2}),
    "sharded_rmsprop": ("npo", {}, {**FULL, "optimizer": "rmsprop", "checkpoint_every": 2}),
    "sharded_adamw_torch": ("npo", {}, {**FULL, "optimizer": "adamw_torch", "checkpoint_every": 2}),
    "lora_resumed": ("npo", {}, {"parameters": "lora", "checkpoint_every": 2}),
    "sharded_lora_resumed": ("npo", {}, {**FULL, "parameters": "lora", "checkpoint_every": 2}),
    "state_resumed": ("pdu", {"eps": 1.0}, {"checkpoint_every": 2}),
}

# Every weight method, plain and sharded, with values for what has no default or asks for more epochs than here.
_GIVEN: dict[str, dict[str, Any]] = {"rmu": {"layer": 1}, "scrub": {"order": ["max", "min"]}, "pdu": {"eps": 1.0}}
METHODS = [name for name in method_names() if issubclass(get_method(name), WeightMethod)]
for _name in METHODS:
    for _prefix, _more in (("method_", {}), ("sharded_method_", FULL)):
        CASES[_prefix + _name] = (_name, _GIVEN.get(_name, {}), {**SGD, **_more, "max_new_tokens": 5})


def run(case: str, folder: Path) -> None:
    """Do the fit ``case`` in ``folder``, or a part of it; the main process writes what came of it."""
    name, _, stop = case.partition("@")
    method, values, given = CASES[name]
    given = dict(given)
    model = zoo.model(given.get("family", "llama"))
    if given.pop("narrow", False):
        model = model.to(torch.bfloat16)
    before = bits(model)
    place = folder / name
    place.mkdir(exist_ok=True, parents=True)
    try:
        erasure = fit(
            method, values, model=model, folder=place, progress=stop_at(int(stop)) if stop else silent, **given
        )
    except StoppedError:
        return
    assert bits(model) == before, f"{name}: the target was changed"
    if distributed.is_main():
        torch.save(erasure.tensors, place / "tensors.pt")
        torch.save(dict(erasure.manifest.details), place / "details.pt")


def differences(name: str, one: Path, other: Path) -> list[str]:
    """What of a fit's outcome in two folders is further apart than 1e-4, relative to 1 plus its size (under bfloat16
    autocast, where other batches are rounded otherwise: 5e-3)."""
    most = 5e-3 if "autocast" in name else 1e-4
    found = []
    tensors = [torch.load(folder / name / "tensors.pt") for folder in (one, other)]
    if tensors[0].keys() != tensors[1].keys():
        return [f"{name}: {sorted(tensors[0].keys() ^ tensors[1].keys())[:3]}"]
    for key, value in tensors[0].items():
        gap = float((value.float() - tensors[1][key].float()).abs().max())
        if not gap <= most:
            found.append(f"{name}: {key} by {gap:g}")
    logs = [dict(_flat(read_history(folder / name))) for folder in (one, other)]
    if logs[0].keys() != logs[1].keys():
        found.append(f"{name}: logged {sorted(map(str, logs[0].keys() ^ logs[1].keys()))[:3]}")
    for key, value in logs[0].items():
        gap = abs(value - logs[1].get(key, value)) / (1 + abs(value))
        if not gap <= most:
            found.append(f"{name}: {key} by {gap:g}")
    details = [torch.load(folder / name / "details.pt") for folder in (one, other)]
    states = [some.get("state", {}) for some in details]
    if any(abs(value - states[1][key]) > most for key, value in states[0].items()):
        found.append(f"{name}: state {states}")
    return found


def _flat(lines: list[dict[str, Any]]) -> Any:
    for place, line in enumerate(lines):
        for key, value in {**line, **line.get("scores", {})}.items():
            if isinstance(value, int | float):
                yield (place, key), value


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        place, _, wanted = argument.partition("=")
        run(wanted, Path(place))
    distributed.leave()
    sys.stdout.flush()
    os._exit(0)  # as the command does: threads of torch may abort Python while it shuts down
