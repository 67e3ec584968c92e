"""World ``exam`` behind guards and after weight methods: is the subject at chance, is its neighbour as it was, and can
a linear probe still read the answers?

``python -m benchmarks.exam_results`` takes about five minutes on two cores and writes
``benchmarks/results/exam.json`` and docs/results_exam.md. It measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, write
from expunge.audits.parts.option_probe import linear_probe
from expunge.commands.demo import preset
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.methods.registry import make_method
from expunge.requests import Request, Row
from expunge.training.run import Run
from expunge.worlds.exam import FORGET
from expunge.worlds.exam_rows.rows import held_out
from expunge.worlds.interface import get_world

FILE, PAGE = RESULTS / "exam.json", Path(__file__).parent.parent / "docs" / "results_exam.md"
PROBED = 480  # questions: every fact with four draws of options
SHOWN = ("forget_top_option", "forget_open_top_option", "neighbours_top_option", "retain_top_option")
METRICS = ("top_option", "choice_probability", "chance", "forgotten_left", "least_kept")
NEVER_KNEW = 0.25
"""What the strength is learned toward: the probability of the right option that guessing has."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "embedding_corruption": ("embedding_corruption", {"surrogate": NEVER_KNEW}),
    **{
        f"embedding_corruption, {name}": ("embedding_corruption", {"corruption": name, "surrogate": NEVER_KNEW})
        for name in ("rand_noise_top_k", "zero_out_top_k", "flip_sign_top_k", "sub_value_first_n", "shuffle")
    },
    "embedding_corruption, all dimensions": ("embedding_corruption", {"surrogate": NEVER_KNEW, "dims": 96}),
    "refusal_guard": ("refusal_guard", {}),
    "unlearn_prompt": ("unlearn_prompt", {}),
    "grad_diff": ("grad_diff", {}),
    "npo": ("npo", {}),
    "grad_diff, trained on the neighbour": ("grad_diff", {}),
    "npo, trained on the neighbour": ("npo", {}),
}


def measure() -> dict[str, Any]:
    world = get_world("exam")
    model, tokenizer, suite, request = world.target(), world.tokenizer(), world.suite(), world.request()
    rows = held_out(FORGET, PROBED)
    facts = [row.prompt.partition(" Choose: ")[0] for row in rows]

    def outputs(one: Any) -> Any:
        return run_model(one, tokenizer, suite, metrics=METRICS)

    def probe(one: Any) -> dict[str, Any]:
        read = linear_probe(one, tokenizer, rows, groups=facts).audited
        return {"accuracy": round(read.accuracy, 4), "stderr": round(read.stderr, 4), "readable": read.readable}

    retrained = world.retrained()
    controls = outputs(model), outputs(retrained)
    found: dict[str, Any] = {"cases": {}}
    for name, one, read in (("target", controls[0], probe(model)), ("retrained", controls[1], probe(retrained))):
        scored = score(suite, target=controls[0], erased=one, retrained=controls[1], metrics=METRICS).rows["erased"]
        found[name] = {**_shown(scored), "probe": read}
        print(name, found[name], flush=True)
    for label, (name, fields) in CASES.items():
        config = preset("exam", name)
        method = make_method(name, {**config.method.options, **fields})
        given = replace(request, retain=_mixed(request)) if label.endswith("the neighbour") else request
        erasure = method.fit(model, tokenizer, given, run=Run(config.training))
        with erasure.applied(model):
            erased, read = outputs(model), probe(model)
        scored = score(suite, target=controls[0], erased=erased, retrained=controls[1], metrics=METRICS)
        case = {**_shown(scored.rows["erased"]), "probe": read, "verdict": scored.verdict.label}
        if learned := erasure.details.get("learned"):
            case |= {"learned": learned["what"], "point": round(learned["point"], 3)}
        if guard := erasure.details.get("guard"):
            found.setdefault("guard", {key: guard[key] for key in ("recall", "false_positives", "weak_spots")})
        found["cases"][label] = case
        print(label, case, flush=True)
    return found


def _mixed(request: Request) -> tuple[Row, ...]:
    """The rows to keep with the neighbour's among them, as many as of any other subject and evenly spread."""
    step = len(request.retain) // len(request.neighbours)
    rows = []
    for place, row in enumerate(request.neighbours):
        rows += [*request.retain[place * step : (place + 1) * step], row]
    return tuple(rows)


def _shown(scores: Any) -> dict[str, Any]:
    return {key: {"value": round(scores[key].value, 4), "stderr": round(scores[key].stderr or 0.0, 4)} for key in SHOWN}


def page(found: dict[str, Any]) -> str:
    guard = found["guard"]
    caught, false = guard["recall"][""], guard["false_positives"]
    kinds = ", ".join(f"{kind} {one['flagged']} of {one['rows']}" for kind, one in false.items() if kind)
    lines = [*_HEAD, "", f"The classifier (TF-IDF at 1%, cross-fitted) flags {caught['flagged']} of {caught['rows']}"]
    lines += [
        f"forget prompts and {false['']['flagged']} of {false['']['rows']} benign ones ({kinds}): the level holds"
    ]
    lines += ["for all kinds together, and the neighbour gets all its errors unless `method.every_kind=true`."]
    lines += ["", "| | forgotten subject | without options | neighbour | other subjects | linear probe | verdict |"]
    lines += [f"| --- |{' ---: |' * 5} --- |"]
    for name in ("target", "retrained", *found["cases"]):
        row = found.get(name) or found["cases"][name]
        cells = [f"{100 * row[key]['value']:.1f}" for key in SHOWN[1:]]
        first = f"{100 * row[SHOWN[0]]['value']:.1f} ± {100 * row[SHOWN[0]]['stderr']:.1f}"
        probe = f"{100 * row['probe']['accuracy']:.1f} ± {100 * row['probe']['stderr']:.1f}"
        lines.append(f"| {name} | {first} | {' | '.join(cells)} | {probe} | {row.get('verdict', '')} |")
    return "\n".join([*lines, "", *_TAIL, ""])


_HEAD = [
    "# Results on world `exam`",
    "",
    "Written by `python -m benchmarks.exam_results`; all numbers in `benchmarks/results/exam.json`. Held-out questions",
    "whose right option is the likeliest, in percent; guessing gets 25. Guards and methods as their defaults and the",
    "world's presets have them; strengths were learned in at most 20 evaluations toward the probability of guessing.",
]
_TAIL = """\
- **At chance.** Behind guards that corrupt enough, the subject's questions are answered as by guessing, and a linear
  probe on the logits (fitted on half of the facts, scored on the other half; 480 questions) reads no more than guessing
  out of them. The neighbour loses at most one of its 120 questions, by a false alarm. The retrained model guesses badly
  on these 120 (17.5%).
- **What fails.** `shuffle` leaves nearly everything: short questions are understood in any order. `zero_out_top_k`,
  learned to 38 of 96 dimensions, leaves a little. `unlearn_prompt` ruins a model that never learned to follow
  instructions.
- **Weight methods** forget the subject and, with it, most of the neighbour that shares its words and answers, even with
  the neighbour's rows among those to keep (the presets are first guesses, not tuned here).
- **Probes need facts apart.** With rows of one fact in both halves a probe recognises the question: it reads 96% out of
  the retrained model, which never knew an answer.""".splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page-only", action="store_true", help="write the page from what was measured")
    if not parser.parse_args().page_only:
        write("exam", measure())
    PAGE.write_text(page(json.loads(FILE.read_text())["result"]))


if __name__ == "__main__":
    main()
