"""Knowledge recovery scores of all windows and components against a whole forward for each of them.

A Llama shape of random weights, 100 M parameters or more, and a second one in the erased model's place. The baseline is
what research code does: for each window and component the target and the erased model are run anew, and the patched
model from its first layer to all of its logits. Both are timed in turn in one process; ratios are medians of pairs.
Memory is the peak of a fresh process beyond what it held with both models, against one forward that keeps what patching
needs of a model. ``python -m benchmarks.patching`` takes a few minutes on two cores. Parts: speed memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import paired, peak_mb, write
from benchmarks.weight_methods import TOKENIZER, model_of, tofu
from expunge.audits.parts.activation_patching import ROLES_OF, Patching, patches_of
from expunge.audits.parts.comparing import Change, Errors, predicting
from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.models.layer_runs import LayerRuns
from expunge.models.roles import find_sites

HIDDEN, LAYERS, VOCABULARY = 768, 12, 32_000
ROWS = {"speed": 8, "memory": 24}  # the baseline takes minutes a round; memory is what full batches take
ANSWER = 30


def models(hidden: int, layers: int) -> tuple[Any, Any]:
    """A target and a model that differs in every weight of its layers."""
    target, erased = (model_of(VOCABULARY, hidden=hidden, layers=layers) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in erased.named_parameters():
            if ".layers." in name and parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.005)
    return target, erased


def examples(count: int) -> list[Example]:
    """TOFU rows with at most 30 tokens of their answers; the tokens' values make no difference here."""
    found = encode_all(TOKENIZER, Template.of(TOKENIZER), tofu(count, 0).forget, max_length=512)
    cut = [min(len(one.input_ids), one.answer_start + ANSWER) for one in found]
    return [Example(one.input_ids[:end], one.answer_start, False, end) for one, end in zip(found, cut, strict=True)]


def ours(target: Any, erased: Any, rows: Sequence[Example]) -> Errors:
    """All patches, as the audit runs them."""
    changes, _ = patches_of(target)
    opened = (partial(nullcontext, target), partial(nullcontext, erased))
    return Patching(*opened, rows, changes, padding=pad_id(TOKENIZER), same_model=False).errors()


@torch.no_grad()
def one_by_one(target: Any, erased: Any, rows: Sequence[Example]) -> dict[Change, np.ndarray]:
    """The same numbers, each patch by itself and everything computed again."""
    changes, _ = patches_of(target)
    found = {change: np.zeros(len(rows)) for change in changes}
    for change in changes:
        for places in length_batches([len(one.input_ids) for one in rows], 16, 2048):
            batch = collate([rows[place] for place in places], pad_id(TOKENIZER))
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
            sites = [site for role in ROLES_OF[change.component] for site in find_sites(target, role, change.layers)]
            kept: dict[str, Tensor] = {}

            def keep(_: Any, arguments: tuple[Tensor, ...], name: str, into: dict[str, Tensor] = kept) -> None:
                into[name] = arguments[0].clone()

            def put(_: Any, __: Any, name: str, into: dict[str, Tensor] = kept) -> tuple[Tensor]:
                return (into[name],)

            with ExitStack() as stack:
                for site in sites:
                    hook = partial(keep, name=site.module)
                    stack.callback(target.get_submodule(site.module).register_forward_pre_hook(hook).remove)
                wanted = target(**inputs).logits
            plain = erased(**inputs).logits
            with ExitStack() as stack:
                for site in sites:
                    swap = partial(put, name=site.module)
                    stack.callback(erased.get_submodule(site.module).register_forward_pre_hook(swap).remove)
                patched = erased(**inputs).logits
            there = predicting(batch)[..., None]
            errors = [
                ((logits - wanted).square() * there).sum((1, 2), dtype=torch.float64) for logits in (patched, plain)
            ]
            found[change][places] = (1 - errors[0] / errors[1]).numpy()
    return found


def speed(rounds: int = 3, *, hidden: int = HIDDEN, layers: int = LAYERS, rows: int = ROWS["speed"]) -> dict[str, Any]:
    """Our seconds against the baseline's, and how far the scores of both are apart at most."""
    target, erased = models(hidden, layers)
    some = examples(rows)
    errors, baseline = ours(target, erased, some), one_by_one(target, erased, some)
    apart = max(
        float(np.abs(1 - values / errors.erased - baseline[change]).max()) for change, values in errors.changed.items()
    )
    pair = paired(lambda: ours(target, erased, some), lambda: one_by_one(target, erased, some), rounds)
    return {
        "shape": f"Llama, hidden {hidden}, {layers} layers, {VOCABULARY} tokens",
        "parameters": sum(parameter.numel() for parameter in target.parameters()),
        "rows": rows,
        "patches": len(errors.changed),
        "scores_apart": apart,
        **pair,
    }


@torch.no_grad()
def one_forward(model: Any, rows: Sequence[Example]) -> int:
    """One forward that keeps MLP keys, attention outputs, layer outputs and the answers' logits; the bytes of these."""
    runs = LayerRuns(model)
    batch = collate(rows, pad_id(TOKENIZER))
    sites = find_sites(model, ("mlp_key", "attention_output"))
    recorded = runs.record(batch, layers=range(len(runs.layers)), sites=sites)
    parts = [runs.halves.logits(part) for part in recorded.states[predicting(batch)].split(128)]
    return recorded.bytes + torch.cat(parts).nbytes


def measured(what: str, hidden: int, layers: int, count: int) -> dict[str, float]:
    """Peak MB of this process beyond what it held with the models and after a first small run, and the MB kept."""
    target, erased = models(hidden, layers)
    rows = examples(count)
    ours(target, erased, [Example(rows[0].input_ids[:8], 4, False, 8)])
    kept: list[int] = []

    def run() -> None:
        kept.append(one_forward(erased, rows) if what == "forward" else ours(target, erased, rows).cached_bytes)

    return {"peak": peak_mb(run), "kept": kept[0] / 2**20}


def memory(*, hidden: int = HIDDEN, layers: int = LAYERS, rows: int = ROWS["memory"]) -> dict[str, Any]:
    """Peaks of all patches and of one forward that keeps its activations, in MB, each in a process of its own."""
    found: dict[str, Any] = {}
    for what in ("patching", "forward"):
        options = ["--measured", what, "--hidden", str(hidden), "--layers", str(layers), "--rows", str(rows)]
        command = [sys.executable, "-m", "benchmarks.patching", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        found[f"{what}_peak"], found[f"{what}_kept"] = (round(float(part), 1) for part in done.stdout.split()[-2:])
    return {**found, "ratio": round(found["patching_peak"] / found["forward_peak"], 3)}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"speed": speed, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--measured", choices=["patching", "forward"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        found = measured(options.measured, options.hidden, options.layers, options.rows)
        print(found["peak"], found["kept"])
        return
    for name in PARTS if options.parts == "all" else options.parts:
        shape = (options.hidden, options.layers, options.rows or ROWS[name])
        result = PARTS[name](hidden=shape[0], layers=shape[1], rows=shape[2])
        if shape == (HIDDEN, LAYERS, ROWS[name]):
            write("patching", {name: result}, keep=True)
        else:
            print(name, result)


if __name__ == "__main__":
    main()
