"""How what audits cost grows with the examples and with the layers of a model.

Models of world ``authors``' shape and random weights, deeper than it or not; its rows as forget rows, as many as are
asked for. Each audit runs with its defaults, but for the limit on rows. Seconds are those of the processor, so that
what else runs on the machine counts little. ``python -m benchmarks.audit_growth`` takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import write
from expunge.audits.interface import Audited
from expunge.audits.registry import make_audit
from expunge.requests import Request
from expunge.worlds.interface import get_world
from expunge.worlds.pretrain import new_model

EXAMPLES, LAYERS = (20, 40, 80), (4, 8, 16, 32)
AUDITS = (
    "patching",
    "restoration",
    "unlearning_depth",
    "logit_lens",
    "membership",
    "relearning",
    "quantization",
    "many_shot",
    "paraphrase",
)


def audited(examples: int, layers: int) -> Audited:
    """Three models that differ in their weights, and ``examples`` forget rows."""
    world = get_world("authors")
    request, tokenizer = world.request(), world.tokenizer()
    shape = replace(world.recipe.model, layers=layers)
    models: list[Any] = [new_model(tokenizer, shape, seed=seed).eval() for seed in range(3)]  # type: ignore[arg-type]
    rows = [row for row in (*request.forget, *request.retain) if row.wrong_answers]
    if len(rows) < examples:
        raise ValueError(f"{examples} examples of {len(rows)} rows")
    kept = tuple(row for row in request.retain if row not in rows[:examples])
    asked = Request(forget=tuple(rows[:examples]), retain=kept, holdout=request.holdout)
    return Audited(
        models[0], tokenizer, asked, erased=models[1], retrained=models[2], template="plain", max_new_tokens=20
    )


def cost(examples: int, layers: int) -> dict[str, float]:
    """Seconds of the processor for each audit."""
    given = audited(examples, layers)
    found = {}
    for name in AUDITS:
        given.memory.clear()
        began = time.process_time()
        make_audit(name, {"limit": examples}).run(given)
        found[name] = round(time.process_time() - began, 3)
    return found


def grown(by_size: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """By audit: seconds by size, and the exponent of the growth from the second size to the last, by least squares of
    logarithms: 1 is linear."""
    sizes = list(by_size)
    found = {}
    for name in AUDITS:
        taken = [by_size[size][name] for size in sizes]
        exponent = float(np.polyfit(np.log(sizes[1:]), np.log(taken[1:]), 1)[0])
        found[name] = {"seconds": dict(zip(map(str, sizes), taken, strict=True)), "exponent": round(exponent, 2)}
    return found


def measure(examples: Sequence[int], layers: Sequence[int]) -> dict[str, Any]:
    torch.set_num_threads(1)
    cost(2, 2)  # what is imported and compiled on first use
    by_examples = grown({count: cost(count, 4) for count in examples})
    by_layers = grown({count: cost(20, count) for count in layers})
    shape = "hidden 128, random weights"
    return {"models": shape, "by_examples, 4 layers": by_examples, "by_layers, 20 examples": by_layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; not written down")
    if parser.parse_args().quick:
        print(measure((4, 8, 16), (2, 4, 8)))
    else:
        write("audit_growth", measure(EXAMPLES, LAYERS))


if __name__ == "__main__":
    main()
