"""A teacher of one document under many names against as many plain forwards of it, and its storage against dense rows.

A Llama shape of random weights. Both are timed in turn in one process; ratios are medians of pairs. Memory is each
one's own process: its peak less what it held before. ``python -m benchmarks.teacher`` measures a document of 500
tokens, 20 names and a vocabulary of 32,000; ``--small`` tries everything on a tiny one and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.measure import paired, write
from benchmarks.weight_methods import TOKENIZER, model_of, tofu
from expunge.teachers.build import Teacher, build_teacher
from expunge.teachers.names import Subject, substitute_names
from expunge.teachers.swap import swap

SUBJECT = Subject("Nikolai Abilov")
PLAIN_BATCH = 5  # texts of a plain forward, whose logits are all in memory


@dataclass(frozen=True)
class Size:
    """What is measured."""

    tokens: int = 500
    names: int = 20
    vocabulary: int = 32_000
    hidden: int = 768
    layers: int = 12
    rounds: int = 3


SMALL = Size(tokens=120, names=4, vocabulary=8_000, hidden=64, layers=2, rounds=1)


def document(tokens: int) -> str:
    """Answers about one author of TOFU, one after the other, up to so many tokens."""
    answers = [row.answer for row in tofu(400, 1).forget if "Abilov" in row.answer]
    ids = TOKENIZER(" ".join(answers), return_offsets_mapping=True)
    ends = ids["offset_mapping"]
    return " ".join(answers)[: ends[min(tokens, len(ends)) - 1][1]]


def names_of(size: Size) -> tuple[str, ...]:
    return substitute_names(SUBJECT, size.names)


def ours(model: Any, size: Size) -> Teacher:
    """The teacher, from text to sparse rows."""
    return build_teacher(model, TOKENIZER, [document(size.tokens)], SUBJECT, names_of(size))


@torch.no_grad()
def plain(model: Any, size: Size, *, keep: bool = False) -> torch.Tensor | None:
    """The document under every name in batched forwards with their logits; ``keep`` makes the dense teacher of them:
    the mean of float32 rows, all names' at a time."""
    texts = [swap(document(size.tokens), SUBJECT, name).text for name in names_of(size)]
    held = []
    for begin in range(0, len(texts), PLAIN_BATCH):
        batch = TOKENIZER(texts[begin : begin + PLAIN_BATCH], return_tensors="pt", padding=True)
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        if keep:
            held.append(logits.float().softmax(-1)[:, : size.tokens // 2])  # places that all have, whatever their names
    return torch.cat(held).mean(0) if keep else None


def speed(size: Size) -> dict[str, Any]:
    """Seconds of the teacher over those of the plain forwards."""
    model = model_of(size.vocabulary, hidden=size.hidden, layers=size.layers)
    found = paired(lambda: plain(model, size), lambda: ours(model, size), size.rounds)
    store = ours(model, size).store
    return {
        "size": asdict(size),
        "plain_seconds": found["ours_seconds"],
        "teacher_seconds": found["other_seconds"],
        **{key: found[key] for key in ("ratio", "ratio_min", "ratio_max", "rounds")},
        "storage": store.summary(),
    }


def memory(size: Size) -> dict[str, Any]:
    """Peak memory in MiB beyond the model of the sparse teacher, of the plain forwards and of the dense teacher (which
    here keeps half of its places)."""
    found = {}
    for what in ("sparse", "plain", "dense"):
        asked = [sys.executable, "-m", "benchmarks.teacher", "--one", what, "--size", json.dumps(asdict(size))]
        found[what] = json.loads(
            subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    return found


def one(what: str, size: Size) -> float:
    """MiB by which the peak of this process grows."""
    model = model_of(size.vocabulary, hidden=size.hidden, layers=size.layers)
    plain(model, Size(20, 1, size.vocabulary, size.hidden, size.layers))  # what libraries keep after a first call
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what == "sparse":
        ours(model, size)
    else:
        plain(model, size, keep=what == "dense")
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["speed", "memory", "all"], default="all")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", choices=["sparse", "plain", "dense"])
    parser.add_argument("--size")
    options = parser.parse_args()
    size = Size(**json.loads(options.size)) if options.size else SMALL if options.small else Size()
    if options.one:
        print(one(options.one, size))
        return
    for name, measure in (("speed", speed), ("memory", memory)):
        if options.parts == "all" or name in options.parts or "all" in options.parts:
            found = measure(size)
            if options.small or options.size:
                print(name, json.dumps(found))
            else:
                write("teacher", {name: found}, keep=True)


if __name__ == "__main__":
    main()
