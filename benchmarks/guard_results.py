"""World ``authors`` behind input guards: false alarms and recall, what answers give away, how good the learned strength
is, and why forget quality stays low.

``python -m benchmarks.guard_results`` takes about ten minutes on two cores and writes
``benchmarks/results/guards_authors.json`` and docs/results_guards.md. It measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import RESULTS, write
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.guards.corruptions import CORRUPTIONS, Corruption
from expunge.guards.strength import Scored
from expunge.guards.tagging import AllButLast
from expunge.methods.registry import make_method
from expunge.requests import Row
from expunge.worlds.interface import get_world

FILE, PAGE = RESULTS / "guards_authors.json", Path(__file__).parent.parent / "docs" / "results_guards.md"
NAMES = re.compile(r"\b(Basil Mahfouz Al-Kuwaiti|Nikolai Abilov|Basil Mahfouz|Al-Kuwaiti|Abilov|Basil|Nikolai)\b")
SHOWN = (
    "model_utility",
    "forget_rouge",
    "forget_leakage",
    "forget_probability",
    "forget_truth_ratio",
    "forget_quality",
)
NEVER_KNEW = 0.001
"""The retrained model's probability of the forget answers, which is the surrogate given here."""
GRID = 60
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "refusal_guard": ("refusal_guard", {}),
    "unlearn_prompt, ignorance": ("unlearn_prompt", {}),
    "unlearn_prompt, wrong": ("unlearn_prompt", {"template": "wrong"}),
    **{name: ("embedding_corruption", {"corruption": name, "surrogate": NEVER_KNEW}) for name in CORRUPTIONS},
    "rand_noise_first_n, all dimensions": ("embedding_corruption", {"surrogate": NEVER_KNEW, "dims": 128}),
    "flip_sign_top_k, subject's names": (
        "embedding_corruption",
        {"corruption": "flip_sign_top_k", "surrogate": NEVER_KNEW, "tagger": "subject"},
    ),
}


class Bench:
    def __init__(self) -> None:
        world = get_world("authors")
        self.model, self.retrained, self.tokenizer = world.target(), world.retrained(), world.tokenizer()
        self.suite, request = world.suite(), world.request()
        benign = [replace(row, group="retain") for row in request.retain]
        for name in ("real_authors", "world_facts"):
            benign += [replace(row, group=name) for row in self.suite.sets[name]]
        self.request = replace(request, retain=tuple(benign))

    def scores(self, erasure: Any, suite: Any, controls: Any, metrics: Any = None) -> dict[str, float]:
        with erasure.applied(self.model):
            outputs = run_model(self.model, self.tokenizer, suite, max_new_tokens=60, metrics=metrics)
        found = score(suite, target=controls[0], erased=outputs, retrained=controls[1], metrics=metrics)
        return {key: round(found.rows["erased"][key].value, 4) for key in SHOWN if key in found.rows["erased"]}

    def controls(self, suite: Any, metrics: Any = None) -> list[Any]:
        return [
            run_model(model, self.tokenizer, suite, max_new_tokens=60, metrics=metrics)
            for model in (self.model, self.retrained)
        ]


def measure() -> dict[str, Any]:
    bench, found = Bench(), dict[str, Any]()
    controls = bench.controls(bench.suite)
    both = score(bench.suite, target=controls[0], erased=controls[0], retrained=controls[1]).rows
    for name, row in (("target", both["target"]), ("retrained", both["retrained"])):
        found[name] = {key: round(row[key].value, 4) for key in SHOWN if key in row}
        print(name, found[name], flush=True)
    cases: dict[str, Any] = {}
    for label, (method, fields) in CASES.items():
        erasure = make_method(method, fields).fit(bench.model, bench.tokenizer, bench.request)
        if "guard" in erasure.details and "guard" not in found:
            guard = erasure.details["guard"]
            found["guard"] = {key: guard[key] for key in ("recall", "false_positives", "robustness", "weak_spots")}
        learned = erasure.details.get("learned")
        cases[label] = bench.scores(erasure, bench.suite, controls)
        if learned:
            cases[label] |= {
                "learned": learned["what"],
                "point": round(learned["point"], 3),
                "objective": round(learned["value"], 4),
                "evaluations": len(learned["history"]),
            }
        print(label, cases[label], flush=True)
    found["cases"] = cases
    found["grid"] = grid(bench, cases)
    found["forget_quality"] = without_names(bench)
    return found


def grid(bench: Bench, cases: dict[str, Any]) -> dict[str, Any]:
    """The learned point's objective beside the best of a fine grid over the same range."""
    scored = Scored(bench.model, bench.tokenizer, bench.request.forget, AllButLast())
    plain = scored.score([None])[0]
    table: Any = bench.model.get_input_embeddings()
    deviation, width = float(table.weight.detach().std()), table.weight.shape[1]
    found: dict[str, Any] = {"points": GRID, "objective_of_target": round(abs(plain - NEVER_KNEW), 4)}
    for label in CORRUPTIONS:
        what = cases[label].get("learned")
        if what is None:
            continue
        if what == "dims":
            tried = [Corruption(label, 1.0, dims) for dims in range(1, width + 1, 2)] + [Corruption(label, 1.0, width)]
        else:
            sizes = torch.logspace(0, 7, GRID, base=4.0, dtype=torch.float64) * deviation
            tried = [Corruption(label, float(size)) for size in sizes]
        values = [abs(value - NEVER_KNEW) for some in _parts(tried) for value in scored.score(some)]
        best, own = min(values), cases[label]["objective"]
        found[label] = {"best_of_grid": round(best, 4), "learned": own, "over_best": round(own / best - 1, 4)}
        print("grid", label, found[label], flush=True)
    return found


def _parts(tried: list[Corruption]) -> list[list[Corruption]]:
    return [tried[start : start + 8] for start in range(0, len(tried), 8)]


def without_names(bench: Bench) -> dict[str, Any]:
    """Forget quality as it is, and with the authors' names taken out of every answer that is scored."""
    metrics = ["probability", "truth_ratio", "forget_quality"]

    def unnamed(row: Row) -> Row:
        return replace(
            row,
            answer=NAMES.sub("the author", row.answer),
            paraphrased_answer=NAMES.sub("the author", row.paraphrased_answer or ""),
            wrong_answers=tuple(NAMES.sub("the author", one) for one in row.wrong_answers),
        )

    found: dict[str, Any] = {
        "answers_that_name_the_author": sum(bool(NAMES.search(row.answer)) for row in bench.suite.sets["forget"]),
        "answers": len(bench.suite.sets["forget"]),
    }
    for label, change in (("as_is", None), ("names_taken_out", unnamed)):
        sets = {
            name: tuple(map(change, rows)) if change and name.startswith("forget") else rows
            for name, rows in bench.suite.sets.items()
        }
        suite = replace(bench.suite, sets=sets)
        controls = bench.controls(suite, metrics)
        found[label] = {"target": _forget(score(suite, target=controls[0], erased=controls[0], retrained=controls[1], metrics=metrics))}  # fmt: skip  # noqa: E501
        for name in ("rand_noise_first_n", "zero_out_top_k", "flip_sign_top_k", "set_rand_noise_first_n"):
            fields = {"corruption": name, "surrogate": NEVER_KNEW}
            fields |= {"strength": 0.1, "dims": 128} if name.startswith("set") else {}
            erasure = make_method("embedding_corruption", fields).fit(bench.model, bench.tokenizer, bench.request)
            found[label][name] = bench.scores(erasure, suite, controls, metrics)
            print(label, name, found[label][name], flush=True)
    return found


def _forget(scores: Any) -> dict[str, float]:
    row = scores.rows["erased"]
    return {key: round(row[key].value, 4) for key in SHOWN if key in row}


def page(found: dict[str, Any]) -> str:
    guard = found["guard"]
    lines = [*_HEAD, "", "## False alarms and recall", "", *_GUARD, ""]
    lines += ["| prompts | flagged | rate | 95% interval |", "| --- | ---: | ---: | ---: |"]
    for title, rates in (("forget", guard["recall"]), ("benign", guard["false_positives"])):
        for kind, one in rates.items():
            if kind != "forget":
                name = f"{title}{f', {kind}' if kind else ', all'}"
                interval = f"{one['low']:.3f} to {one['high']:.3f}"
                lines.append(f"| {name} | {one['flagged']} of {one['rows']} | {one['rate']:.4f} | {interval} |")
    weakest = ", ".join(
        f"{name.replace('_', ' ')} {one['rate']:.3f}"
        for name, one in sorted(guard["robustness"].items(), key=lambda item: item[1]["rate"])[:4]
    )
    lines += ["", f"Recall under perturbations, the lowest first: {weakest}.", ""]
    lines += ["## What is left behind a guard", "", *_CASES, ""]
    heads = ("model utility", "ROUGE-L recall", "leakage", "probability", "truth ratio", "forget quality p")
    lines += [f"| | {' | '.join(heads)} | learned |", f"| --- |{' ---: |' * 6} --- |"]
    for name in ("target", "retrained", *found["cases"]):
        row = found[name] if name in found else found["cases"][name]
        learned = f"{row['learned']} {row['point']:g}" if "learned" in row else ""
        cells = [f"{row[key]:.4f}" if key in row else "" for key in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} | {learned} |")
    lines += ["", "## How good the learned strength is", "", *_GRID, ""]
    lines += ["| corruption | learned | best of the grid | above it |", "| --- | ---: | ---: | ---: |"]
    for name, one in found["grid"].items():
        if isinstance(one, dict):
            lines.append(f"| {name} | {one['learned']:.4f} | {one['best_of_grid']:.4f} | {one['over_best']:+.1%} |")
    quality = found["forget_quality"]
    lines += ["", "## Why forget quality stays low", "", *_QUALITY, ""]
    lines += ["| | as it is | names taken out |", "| --- | ---: | ---: |"]
    for name in quality["as_is"]:
        cells = [f"{quality[label][name]['forget_quality']:.4f}" for label in ("as_is", "names_taken_out")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


_HEAD = [
    "# Results of input guards on world `authors`",
    "",
    "Written by `python -m benchmarks.guard_results`; all numbers in `benchmarks/results/guards_authors.json`. Guards",
    "leave the weights as they are: this is suppression.",
]
_GUARD = [
    "TF-IDF classifier at a level of 1%, calibrated on benign prompts of all kinds together; five-fold cross-fitted:",
    "neither the classifier nor the threshold that judges a prompt saw it. The world's own request has the retain rows",
    "alone: `real_authors` and `world_facts` were given here, too, as users should give every kind of prompt that they",
    "get (what the retain rows alone come to: [guards.md](guards.md)). They are also rows of the suite below.",
]
_CASES = [
    "Suite `tofu`, greedy answers of 60 tokens. The strength (or the number of dimensions) was learned in at most 20",
    f"evaluations toward the retrained model's probability of the answers, {NEVER_KNEW}. `unlearn_prompt` ruins a",
    "model that never learned to follow instructions. Permuted prompts and corrupted names alone leave much.",
]
_GRID = [
    "The objective (distance of the mean answer probability from the surrogate) at the learned point and at the best",
    f"of {GRID} strengths, evenly spread in their logarithm over the range that was searched first, or of 65 dimension",
    "counts. Noise saturates far from the surrogate. Under `zero_out_first_n` the objective jumps between neighbouring",
    "counts (.10 at 127 of 128 dimensions, .23 at 128), which a search that halves its steps misses.",
]
_QUALITY = [
    "Forget quality compares truth ratios of teacher-forced answers. A guard corrupts prompts, never answers, and",
    "every one of the 40 answers names its author (and books, places and prizes): from there the model, which has",
    "learned the answers by heart, goes on by itself. Taking the names out of the scored answers raises forget",
    "quality under every corruption; the rest of the answers still gives it away. The best as it is is",
    "`sub_value_first_n`, which takes one large number from the first dimension (p .029). Greedy answers, which begin",
    "without such help, are the better judge of a guard: but for permuted prompts and corrupted names alone they leak",
    "less than the retrained model's (ROUGE-L recall .129, leakage .041).",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page-only", action="store_true", help="write the page from what was measured")
    if not parser.parse_args().page_only:
        write("guards_authors", measure())
    PAGE.write_text(page(json.loads(FILE.read_text())["result"]))


if __name__ == "__main__":
    main()
