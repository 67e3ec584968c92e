"""World ``people``: the first person forgotten by each method, taken at the training step where its answers first leak
no more than the retrained model's (within 0.05), and what is left then of everything else.

``python -m benchmarks.people_results [--seeds 3]`` takes about fifteen minutes on two cores and writes
``benchmarks/results/people.json`` and docs/results_people.md. It measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import RESULTS, write
from expunge.commands.demo import preset
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.methods.registry import make_method
from expunge.training.run import Run
from expunge.worlds.interface import get_world

FILE, PAGE = RESULTS / "people.json", Path(__file__).parent.parent / "docs" / "results_people.md"
CASES = {
    "causal_intervention": ("causal_intervention", ()),
    "causal_intervention, no invented people": ("causal_intervention", ("method.non_factual=0",)),
    **{name: (name, ()) for name in ("whp", "prompt_distill", "npo", "grad_diff")},
}
WITHIN = 0.05
"""Leakage above the retrained model's at which a method is taken."""
EPOCHS = 24  # at most: what has not forgotten then is taken as it is
METRICS = ("leakage", "rouge", "probability", "rejection", "hallucination_avoidance")
SHOWN = {
    "forget_leakage": "leakage",
    "forget_paraphrased_leakage": "other wording",
    "forget_rejection": "declines",
    "hard_retain_leakage": "hard retain",
    "general_retain_rouge": "general retain",
}


class ReachedError(Exception):
    """Ends a training at the step that was looked for."""


class Bench:
    def __init__(self) -> None:
        world = get_world("people")
        self.model, self.tokenizer = world.target(), world.tokenizer()
        self.request, self.suite = world.request(), world.suite()
        self.asked = Suite("people", {"forget": self.suite.sets["forget"]}, {"forget": ("leakage",)})
        retrained = world.retrained()
        self.controls = {name: self.scores(model) for name, model in (("target", self.model), ("retrained", retrained))}

    def scores(self, model: Any) -> dict[str, dict[str, float]]:
        outputs = run_model(model, self.tokenizer, self.suite, max_new_tokens=24, metrics=METRICS)
        rows = score(self.suite, target=outputs, metrics=METRICS).rows["target"]
        return {key: {"value": round(rows[key].value, 4), "stderr": round(rows[key].stderr or 0, 4)} for key in SHOWN}

    def leakage(self) -> float:
        outputs = run_model(self.model, self.tokenizer, self.asked, max_new_tokens=24)
        return float(score(self.asked, target=outputs).rows["target"]["forget_leakage"].value)

    def train(self, name: str, overrides: Sequence[str], seed: int) -> dict[str, Any]:
        """The scores at the first step whose leakage is within reach of the retrained model's."""
        config = preset("people", name, seeds=[seed], overrides=[f"training.epochs={EPOCHS}", *overrides])
        enough = self.controls["retrained"]["forget_leakage"]["value"] + WITHIN
        found: dict[str, Any] = {"curve": []}

        def watch(done: int, total: int, what: str) -> None:
            if what != "training" or not done:
                return
            leaks = self.leakage()
            found["curve"].append([done, round(leaks, 4)])
            if leaks <= enough or done == total:
                found.update(step=done, reached=leaks <= enough, scores=self.scores(self.model))
                raise ReachedError

        run = Run(config.with_seed(seed).training, progress=watch)
        with suppress(ReachedError):
            make_method(name, config.method.options).fit(self.model, self.tokenizer, self.request, run=run)
        return found

    def prompted(self) -> dict[str, Any]:
        erasure = make_method("unlearn_prompt", {}).fit(self.model, self.tokenizer, self.request)
        with erasure.applied(self.model):
            return {"step": 0, "reached": False, "scores": self.scores(self.model), "curve": []}


def measure(seeds: int) -> dict[str, Any]:
    bench = Bench()
    before = bench.leakage()
    found: dict[str, Any] = {**bench.controls, "methods": {}}
    print(found, flush=True)
    for label, (name, overrides) in CASES.items():
        for seed in range(seeds):
            one = bench.train(name, overrides, seed)
            found["methods"].setdefault(label, []).append(one)
            print(label, seed, one, flush=True)
            if bench.leakage() != before:
                raise RuntimeError(f"{name} left the target changed")
    found["methods"]["unlearn_prompt"] = [bench.prompted()]
    return found


def page(found: dict[str, Any]) -> str:
    lines = [*_HEAD, "", f"| | step | {' | '.join(SHOWN.values())} |", f"| --- |{' ---: |' * (1 + len(SHOWN))}"]
    for name in ("target", "retrained"):
        cells = [f"{found[name][key]['value']:.2f} ± {found[name][key]['stderr']:.2f}" for key in SHOWN]
        lines.append(f"| {name} | | {' | '.join(cells)} |")
    for name, seeds in found["methods"].items():
        steps = [one["step"] for one in seeds]
        missed = sum(not one["reached"] for one in seeds)
        said = (_spread([float(step) for step in steps], "g") if any(steps) else "") + (" (not reached)" * bool(missed))
        cells = [_spread([one["scores"][key]["value"] for one in seeds], ".2f") for key in SHOWN]
        lines.append(f"| {name} | {said} | {' | '.join(cells)} |")
    return "\n".join([*lines, _TAIL])


def _spread(values: list[float], form: str) -> str:
    middle, low, high = median(values), min(values), max(values)
    return f"{middle:{form}}" if low == high else f"{middle:{form}} ({low:{form}} to {high:{form}})"


_HEAD = [
    "# Results on world `people`",
    "",
    "Written by `python -m benchmarks.people_results`; all numbers in `benchmarks/results/people.json`. The first",
    f"person's request with the world's presets ({EPOCHS} epochs at most), each method taken at the first training",
    "step at which its greedy answers to the person's questions leak no more than the retrained model's plus",
    f"{WITHIN}; medians over seeds (smallest to largest).",
]
_TAIL = """
Greedy answers of 24 tokens to the 18 questions that were trained on; "other wording" asks the nine facts in a third one
that no model saw. Hard retain are 30 questions on the town, school, teacher, employer and prize that the person's
passages name, general retain 90 on other people (ROUGE-L recall).

- **causal_intervention** leaves what the passages tell of others whole, as whp and npo do (30 questions do not tell
  them apart). With passages about 20 invented people, on which the target is to stay as it is, it costs other people
  least; without them as much as whp, npo and grad_diff do, which have no such passages. With them one of nine facts
  still comes out in part under the wording that nobody trained on.
- Its answers decline, as those of the retrained model do, which learned to decline about strangers; npo and grad_diff
  invent an answer.
- **grad_diff** lost hard retain in one seed of three; **unlearn_prompt** and the teacher of **prompt_distill** need a
  model that follows instructions, which one of this size does not.
- Every trained method keeps by the KL from the target, three times its weight.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page-only", action="store_true", help="write the page from what was measured")
    given = parser.parse_args()
    if not given.page_only:
        write("people", measure(given.seeds))
    PAGE.write_text(page(json.loads(FILE.read_text())["result"]))


if __name__ == "__main__":
    main()
