"""Weight-changing methods against textbook steps: rows per second, peak memory, and how both grow.

Same TOFU rows (forget10 against retain90), same Llama shape of random weights, same optimiser and number of rows. Rates
are of single optimizer steps after a first one, taken in turn in one process, and medians of their ratios. Memory is
each side in a fresh process: its peak, less its size before the model was made, less the bytes of parameters, gradients
and optimiser states, which both sides need.

``python -m benchmarks.weight_methods`` takes about 40 minutes on two cores. Parts: speed memory overhead growth.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Semaphore
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import textbook
from benchmarks.measure import RESULTS, write
from benchmarks.plot import lines
from expunge import Request, Run, TrainingSettings, get_world, make_method
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.methods.interface import Paper
from expunge.methods.weight_method import WeightMethod
from expunge.requests.rows import Row
from expunge.training.alternatives import refusals
from expunge.training.step import Step

METHODS = ("npo", "dpo", "kl_min", "undial")
VOCABULARIES = (32_000, 128_256)
BATCH, ACCUMULATION, RATE = 8, 4, 1e-4
EPOCHS = 5  # over which the one reference pass is counted
_PATIENCE = 600
SHAPE = "Llama, hidden 512, 8 layers, untied head"


def model_of(vocabulary: int, *, hidden: int = 512, layers: int = 8) -> LlamaForCausalLM:
    """A randomly initialised Llama."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def tofu(forget: int, retain: int) -> Request:
    """Rows of forget10 (the last 400 of TOFU) and of retain90 (the others), spread evenly; more than there are come
    again with another number behind the question."""
    with gzip.open(Path(__file__).parent / "data" / "tofu" / "full.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [Row(entry["question"], entry["answer"]) for entry in map(json.loads, file)]

    def some(of: list[Row], count: int) -> tuple[Row, ...]:
        if count <= len(of):
            return tuple(of[i * len(of) // count] for i in range(count))
        return tuple(of[i % len(of)].with_prompt(f"{of[i % len(of)].prompt} ({i})") for i in range(count))

    return Request(forget=some(rows[3600:], forget), retain=some(rows[:3600], retain))


class Turns:
    """Two loops that take their optimizer steps in turn, each timed while the other waits: what else the machine does
    meets both alike."""

    def __init__(self) -> None:
        self._turn = {"ours": Semaphore(1), "textbook": Semaphore(0)}
        self._began = 0.0
        self.seconds: dict[str, list[float]] = {"ours": [], "textbook": []}

    def begin(self, side: str) -> None:
        """Wait for the other side's step to end."""
        if not self._turn[side].acquire(timeout=_PATIENCE):
            raise RuntimeError(f"{side} waited {_PATIENCE} s for a step of the other side")
        self._began = time.perf_counter()

    def end(self, side: str, *, last: bool) -> None:
        """One step is done: the other side's turn, and after it this one's again."""
        self.seconds[side].append(time.perf_counter() - self._began)
        self._turn["textbook" if side == "ours" else "ours"].release()
        if not last:
            self.begin(side)


@dataclass
class Clock:
    """When the last reference and every optimizer step ended."""

    marks: dict[str, list[float]] = field(default_factory=dict)
    turns: Turns | None = None

    def __call__(self, done: int, total: int, what: str) -> None:
        self.marks.setdefault(what, []).append(time.perf_counter())
        if what == "training" and self.turns:
            self.turns.end("ours", last=done == total)


def ours(
    name: str | WeightMethod, model: Any, request: Request, steps: int, turns: Turns | None = None, **settings: Any
) -> tuple[Clock, float]:
    """(when each step ended, seconds of the one reference pass)."""
    clock = Clock(turns=turns)
    given = {"learning_rate": RATE, "accumulation": ACCUMULATION, "epochs": 1, "max_steps": steps, **settings}
    method = make_method(name) if isinstance(name, str) else name
    with tempfile.TemporaryDirectory() as folder:
        run = Run(TrainingSettings(checkpoint_every=10**6, **given), Path(folder), progress=clock)  # type: ignore[arg-type]
        began = time.perf_counter()
        erasure = method.fit(model, TOKENIZER, request, run=run)
    clock.marks["began"] = [began]
    return clock, float(erasure.details.get("reference_seconds", 0.0))


def loop_seconds(clock: Clock) -> float:
    """All steps, from the end of the reference pass (where there is none, from the start)."""
    start = clock.marks["reference"][-1] if "reference" in clock.marks else clock.marks["began"][0]
    return clock.marks["training"][-1] - start


def theirs(name: str, model: Any, request: Request, steps: int, turns: Turns | None = None) -> None:
    """The textbook's loop over the same rows."""
    left = iter(reversed(range(steps)))

    def after_step() -> None:
        last = next(left) == 0
        if turns:
            turns.end("textbook", last=last)

    if turns:
        turns.begin("textbook")
    textbook.train(
        model,
        name,
        textbook_rows(request),
        pad_id(TOKENIZER),
        steps=steps,
        batch=BATCH,
        accumulation=ACCUMULATION,
        rate=RATE,
        after_step=after_step,
    )


def textbook_rows(request: Request) -> dict[str, list[tuple[list[int], int]]]:
    template = Template.of(TOKENIZER)
    sides: Mapping[str, Sequence[Row]] = {
        "forget": request.forget,
        "retain": request.retain,
        "alternative": [some[0] for some in refusals(request.forget, seed=0)],
    }
    return {
        side: [(e.input_ids, e.answer_start) for e in encode_all(TOKENIZER, template, rows, max_length=512)]
        for side, rows in sides.items()
    }


def speed(rounds: int = 3) -> dict[str, Any]:
    """Rows per second of whole optimizer steps, ours with its share of the reference pass; each side's first step, in
    which buffers are made, is not counted."""
    rows = BATCH * ACCUMULATION
    request, result = tofu(rows * (rounds + 1), rows * (rounds + 1)), {}
    for vocabulary in VOCABULARIES:
        for name in METHODS:
            turns = Turns()
            with ThreadPoolExecutor(1) as pool:
                other = pool.submit(theirs, name, model_of(vocabulary), request, rounds + 1, turns)
                turns.begin("ours")
                _, reference = ours(name, model_of(vocabulary), request, rounds + 1, turns)
                other.result()
            share = reference / EPOCHS / (rounds + 1)
            mine = [seconds + share for seconds in turns.seconds["ours"][1:]]
            textbooks = turns.seconds["textbook"][1:]
            ratios = sorted(b / a for a, b in zip(mine, textbooks, strict=True))
            result[f"{name}_{vocabulary}"] = {
                "ours_rows_per_second": round(2 * rows / median(mine), 3),
                "textbook_rows_per_second": round(2 * rows / median(textbooks), 3),
                "ratio": round(median(ratios), 3),
                "ratio_min": round(ratios[0], 3),
                "ratio_max": round(ratios[-1], 3),
                "steps": rounds,
            }
            print(name, vocabulary, result[f"{name}_{vocabulary}"], flush=True)
    return result


def memory() -> dict[str, Any]:
    """Peak bytes beyond parameters, gradients and optimiser states, each side in a process of its own."""
    result = {}
    for vocabulary in VOCABULARIES:
        for name in METHODS:
            sides = {side: measured("peak", side, name, str(vocabulary)) for side in ("ours", "textbook")}
            result[f"{name}_{vocabulary}"] = {
                "ours_mb": round(sides["ours"]["extra"] / 2**20, 1),
                "textbook_mb": round(sides["textbook"]["extra"] / 2**20, 1),
                "ratio": round(sides["ours"]["extra"] / sides["textbook"]["extra"], 3),
            }
            print(name, vocabulary, result[f"{name}_{vocabulary}"], flush=True)
    return result


def measured(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.weight_methods", *arguments],
        capture_output=True,
        text=True,
        check=True,
        # by itself glibc keeps freed blocks of up to 32 MB, which would be counted as used, on either side
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak(side: str, name: str, vocabulary: int) -> dict[str, float]:
    """What a fresh process measures of itself."""
    global ACCUMULATION
    ACCUMULATION = 1  # more forwards a step have the same peak
    request = tofu(BATCH, BATCH)
    if side == "ours":
        import expunge.training.fit  # noqa: F401 - what is imported belongs to the size before
    before = status("VmRSS")
    model = model_of(vocabulary)
    trained = sum(p.numel() for p in model.parameters())
    if side == "ours":
        ours(name, model, request, 1)
    else:
        theirs(name, model, request, 1)
    needed = 4 * trained * 4  # parameters, gradients and two moments, float32
    return {"extra": status("VmHWM") - before - needed}


def status(key: str) -> int:
    """Bytes that the kernel says this process has (VmRSS) or had at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


class PlainFinetuning(WeightMethod):
    """nll of forget and retain answers: the same tokens, no unlearning."""

    name: ClassVar[str] = "plain_finetuning"
    paper: ClassVar[Paper] = Paper("none", "none")

    @property
    def uses_retain(self) -> bool:
        return True

    def values(self) -> dict[str, Any]:
        return {}

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {
            "forget_loss": step.forget.mean_over_tokens(-step.forget.logps),
            "retain_loss": step.retain.mean_over_tokens(-step.retain.logps),
        }


def overhead(rounds: int = 2, rows: int = 16) -> dict[str, Any]:
    """npo with its reference pass against plain fine-tuning on the same tokens, 5 epochs each."""
    request, pairs = tofu(rows, rows * EPOCHS), []
    for round_number in range(rounds + 1):
        times = []
        for method in ("npo", PlainFinetuning()):
            clock, reference = ours(method, model_of(VOCABULARIES[0]), request, rows, epochs=EPOCHS, accumulation=1)
            times.append(loop_seconds(clock) + reference)
        if round_number:
            pairs.append(times)
        print("overhead", times, flush=True)
    ratios = sorted(a / b for a, b in pairs)
    return {
        "npo_seconds": round(median(a for a, _ in pairs), 2),
        "plain_seconds": round(median(b for _, b in pairs), 2),
        "ratio": round(median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
    }


def growth() -> dict[str, Any]:
    """One epoch of npo, small shape: seconds and peak memory by forget rows and by tokens of a row."""
    result: dict[str, Any] = {"rows": {}, "tokens": {}}
    for rows in (40, 400, 1000, 2000, 4000):
        result["rows"][rows] = measured("grow", "rows", str(rows))
    for tokens in (64, 128, 256, 512, 1024):
        result["tokens"][tokens] = measured("grow", "tokens", str(tokens))
    print(json.dumps(result), flush=True)
    for what, label in (("rows", "forget rows"), ("tokens", "tokens of a row")):
        found = {int(x): values for x, values in result[what].items()}
        lines(
            RESULTS / f"growth_{what}.svg",
            label,
            {"seconds": {x: v["seconds"] for x, v in found.items()}, "MB": {x: v["mb"] for x, v in found.items()}},
        )
    return result


def grow(what: str, size: int) -> dict[str, float]:
    """What a fresh process measures of one point of the growth."""
    import expunge.training.fit  # noqa: F401

    if what == "rows":
        request = tofu(size, size)
    else:
        text = " ".join(row.answer for row in tofu(400, 1).forget)
        ids = TOKENIZER(text)["input_ids"]
        texts = [TOKENIZER.decode(ids[i * 100 : i * 100 + size]) for i in range(64)]
        request = Request(
            forget=tuple(Row("", one, kind="document") for one in texts[:32]),
            retain=tuple(Row("", one, kind="document") for one in texts[32:]),
        )
    before = status("VmRSS")
    model = model_of(2_048, hidden=128, layers=4)
    clock, reference = ours("npo", model, request, 10**6, max_length=2048, accumulation=1)
    return {"seconds": round(loop_seconds(clock) + reference, 3), "mb": round((status("VmHWM") - before) / 2**20, 1)}


TOKENIZER: Any = get_world("authors").tokenizer()


def main(parts: Sequence[str] = ("speed", "memory", "overhead", "growth")) -> None:
    path = RESULTS / "weight_methods.json"
    result: dict[str, Any] = json.loads(path.read_text())["result"] if path.exists() else {}
    result["shape"] = f"{SHAPE}; {BATCH} forget + {BATCH} retain rows, {ACCUMULATION} forwards a step"
    result["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not measured on one"
    actions = {"speed": speed, "memory": memory, "overhead": overhead, "growth": growth}
    for part in parts:
        result[part] = actions[part]()
        write("weight_methods", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print(json.dumps(peak(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    elif sys.argv[1:2] == ["grow"]:
        print(json.dumps(grow(sys.argv[2], int(sys.argv[3]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("parts", nargs="*", default=["speed", "memory", "overhead", "growth"])
        main(parser.parse_args().parts)
