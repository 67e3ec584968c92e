"""World ``people``: ten persons removed one after another, each from the model that the removal before it left, and all
of them checked on the last one.

``python -m benchmarks.people_sequence`` takes about four minutes of one core and writes
``benchmarks/results/people_sequence.json`` and docs/results_people_sequence.md. It measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import RESULTS, write
from expunge.commands.demo import preset
from expunge.commands.recheck import recheck
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.models.loading import load_model
from expunge.pipeline import run_pipeline
from expunge.worlds.interface import get_world
from expunge.worlds.people_rows.names import SUBJECTS

METHOD = "causal_intervention"
FILE = RESULTS / "people_sequence.json"
PAGE = Path(__file__).parent.parent / "docs" / "results_people_sequence.md"
COLUMNS = {
    "leakage before": ("forget_leakage", "before"),
    "right after": ("forget_leakage", "after"),
    "at the end": ("forget_leakage", "end"),
    "other wording, at the end": ("forget_paraphrased_leakage", "end"),
    "hard retain right after": ("hard_retain_leakage", "after"),
    "hard retain at the end": ("hard_retain_leakage", "end"),
}
"""Of the page's tables: a score, and when it was taken."""
GENERAL = "general_retain_rouge"
VARIANTS = {
    "by the world's preset, which keeps by the KL from each removal's own target": (),
    "keeping by the right answers themselves (`method.retain=nll`)": ("method.retain=nll",),
}
_OPTIONS = ("suite.metrics=[leakage, rouge]", "retrained=null")


def measure(count: int) -> dict[str, Any]:
    return {name: _sequence(count, overrides) for name, overrides in VARIANTS.items()}


def _sequence(count: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    seconds = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        before = "world:people"
        for number in range(1, count + 1):
            out, began = folder / f"person-{number}", time.perf_counter()
            config = preset(f"people-{number}", METHOD, overrides=[*_OPTIONS, *overrides, f"model.path={before}"])
            run_pipeline(config, out)
            seconds.append(round(time.perf_counter() - began, 1))
            print(number, seconds[-1], flush=True)
            before = f"run:{out}"
        checked = recheck(folder / f"person-{count}")
        last = _general(before)
    persons: dict[str, dict[str, Any]] = {}
    for one in checked:
        scores = {name: _rounded(getattr(one, name)) for name in ("before", "after", "end")}
        persons.setdefault(one.run.rsplit("-", 1)[1], {"name": one.about})[one.key] = {**scores, "changed": one.changed}
    return {"persons": persons, "general_retain": last, "seconds": seconds}


def _general(path: str) -> dict[str, float]:
    """The questions about other people, the same in every request: the target and the last model."""
    world = get_world("people")
    suite = world.suite()
    found = {}
    for name, model in (("target", world.target()), ("end", load_model(path))):
        outputs = run_model(model, world.tokenizer(), suite, max_new_tokens=24, metrics=("rouge",))
        one = score(suite, target=outputs, metrics=("rouge",)).rows["target"][GENERAL]
        found[name], found[f"{name}_stderr"] = round(one.value, 4), round(one.stderr or 0.0, 4)
    return found


def _rounded(pair: tuple[float, float | None] | None) -> list[float] | None:
    return None if pair is None else [round(pair[0], 4), round(pair[1] or 0.0, 4)]


def page(found: dict[str, Any]) -> str:
    lines = list(_HEAD)
    for name, one in found.items():
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_table(one)]
    return "\n".join([*lines, "", *_TAIL, ""])


def _table(found: dict[str, Any]) -> list[str]:
    persons = found["persons"]
    lines = [f"| | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    rows = {f"{number} {one['name']}": _values(one) for number, one in persons.items()}
    rows["mean"] = [mean(column) for column in zip(*rows.values(), strict=True)]
    lines += [f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |" for name, values in rows.items()]
    changed = [
        f"{one['name']}: {key.replace('_', ' ')} {scores['changed']}, "
        f"{scores['after'][0]:.2f} to {scores['end'][0]:.2f}"
        for one in persons.values()
        for key, scores in one.items()
        if key not in ("name", GENERAL) and scores["changed"]
    ]
    kept = [f"{one[GENERAL]['after'][0]:.2f}" for one in persons.values()]
    general = found["general_retain"]
    said = f"{general['target']:.2f} \u00b1 {general['target_stderr']:.2f} of the target, then {', '.join(kept)}"
    lines += ["", f"- General retain: {said} (\u00b1 {general['end_stderr']:.2f})."]
    lines.append(
        f"- Otherwise more than two standard errors from right after a removal: {'; '.join(changed) or 'nothing'}."
    )
    return lines


def _values(one: dict[str, Any]) -> list[float]:
    return [one[key][when][0] for key, when in COLUMNS.values()]


_HEAD = [
    "# Ten people, one after another",
    "",
    "Written by `python -m benchmarks.people_sequence`; all numbers in `benchmarks/results/people_sequence.json`.",
    "The requests `people-1` to `people-10` of world `people`, causal_intervention, one seed.",
    "Each removal begins with the model that the one before it left (`--model run:DIR`); the last model is asked",
    "all questions again (`expunge recheck`).",
]
_TAIL = [
    "Leakage is the share of the answers' content words that slip out, in 18 questions a person (greedy answers of",
    "24 tokens); the first person's retrained model leaks 0.00, which is the yardstick: no model was trained without",
    "two or more of the ten. Other wording are the nine facts asked in a third way that no model saw. Hard retain are",
    "30 questions on the town, school, teacher, employer and prize that the person's passages mention, general retain",
    "90 on other people, the same ones after every removal (ROUGE-L recall).",
    "",
    "- Nobody comes back: the leakage at the end is that of right after, or lower.",
    "- What the passages tell of others stays: 0.97 of it at the end.",
    "- Other people do not stay whole: a removal costs about two of a hundred questions on them, and ten add up to a",
    "  fifth or more (0.76 and 0.79). So do those whose turn is yet to come: Jasper Winter had 0.39 left before",
    "  that removal. Keeping by the right answers, in place of a KL whose reference moves every time, changes",
    "  that little and forgets less.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=SUBJECTS)
    parser.add_argument("--page-only", action="store_true", help="write the page from what was measured")
    given = parser.parse_args()
    if not given.page_only:
        write("people_sequence", measure(given.count))
    PAGE.write_text(page(json.loads(FILE.read_text())["result"]))


if __name__ == "__main__":
    main()
