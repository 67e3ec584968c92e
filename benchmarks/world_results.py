"""What every method reaches on a world, over several seeds: the table in docs/results.md.

``python -m benchmarks.world_results [--world NAME] [--seeds 5] [METHOD ..]`` runs each method with the world's preset
and, where that changes fields of the method, also with the paper's values for those; finished runs under ``--out`` are
not done again. About half a minute a method and seed on two cores. It is not part of ``make bench``: it measures
quality, not speed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from expunge import list_methods
from expunge.commands.demo import preset
from expunge.config.run_file import RunConfig
from expunge.parts import Parts
from expunge.pipeline import run_pipeline
from expunge.worlds.interface import get_world

DOCS = Path(__file__).parent.parent / "docs"

COLUMNS = {
    "authors": {
        "forget_probability": "forget probability",
        "retain_probability": "retain probability",
        "forget_quality": "forget quality (p)",
        "forget_quality_ks": "D",
        "model_utility": "model utility",
        "forget_extraction_strength": "extraction strength",
    },
}
VARIANTS = {"preset": "the world's preset", "paper": "the paper's fields, the preset's training settings"}


def configurations(world: str, methods: list[str], seeds: int) -> Iterator[tuple[str, str, RunConfig]]:
    """(variant, method, run) for everything in the table."""
    for name in methods:
        yield "preset", name, preset(world, name, seeds=seeds)
        changed = [key for key in get_world(world).preset(name) if key.startswith("method.")]
        defaults = next(entry for entry in list_methods() if entry["name"] == name)["parameters"]
        papers = {f"method.{field['name']}": field for field in defaults}
        # a layer is a place in one model and no value to go back to
        kept = [key for key in changed if key != "method.layer" and not papers[key]["required"]]
        back = [f"{key}={papers[key]['default']}" for key in kept]
        if back:
            yield "paper", name, preset(world, name, seeds=seeds, overrides=back)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--world", choices=COLUMNS, default="authors")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--variant", choices=VARIANTS, help="run this one only")
    parser.add_argument("--page-only", action="store_true", help="write the page from the runs that are there")
    options = parser.parse_args()
    chosen = options.methods or [entry["name"] for entry in list_methods() if entry["family"] == "weights"]
    parts = None
    found: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    every = sorted(configurations(options.world, chosen, options.seeds), key=lambda one: one[0] == "paper")
    for variant, name, config in every:
        folder = options.out / options.world / variant / name
        if not (folder / "report.html").is_file():
            if options.page_only or options.variant not in (None, variant):
                continue
            parts = parts or Parts.load(config)
            run_pipeline(config, folder, parts=parts)
            print(variant, name, json.loads((folder / "scores.json").read_text())["verdict"]["label"], flush=True)
        scores = json.loads((folder / "scores.json").read_text())
        environment = json.loads((folder / "environment.json").read_text())
        kept = {key: scores[key] for key in ("rows", "verdict", "seconds")}
        found[f"{name}/{variant}"] = {"seeds": len(list(folder.glob("seed-*"))), **kept}
    RESULTS.mkdir(exist_ok=True)
    runs = ",\n".join(f"  {json.dumps(key)}: {json.dumps(run)}" for key, run in found.items())
    text = f'{{"runs": {{\n{runs}\n}},\n"environment": {json.dumps(environment)}}}\n'
    (RESULTS / f"world_{options.world}.json").write_text(text)
    (DOCS / f"results_{options.world}.md").write_text(page(options.world, found, environment))


def page(world: str, found: dict[str, Any], environment: dict[str, Any]) -> str:
    """The table as Markdown: medians with the smallest and the largest seed."""
    columns = COLUMNS[world]
    some = next(iter(found.values()))["rows"]
    lines = [
        f"# Results on world `{world}`",
        "",
        "Every method over several seeds: median (smallest to largest). Written by `python -m benchmarks.world_results",
        f"--world {world}`; all numbers with their environment are in `benchmarks/results/world_{world}.json`.",
        *_NOTES[world],
        "",
        "| model | seeds | "
        + " | ".join(columns.values())
        + " | seconds to fit | verdict on the medians | one by one |",
        "| --- | ---: |" + " ---: |" * (len(columns) + 1) + " --- | --- |",
    ]
    for model in ("target", "retrained"):
        lines.append(f"| {model} | | " + " | ".join(_cell(some[model].get(key)) for key in columns) + " | | | |")
    for key, scores in found.items():
        name, variant = key.split("/")
        cells = [_cell(scores["rows"]["erased"].get(column)) for column in columns]
        verdict = scores["verdict"]
        each = verdict["reasons"][0].partition("one by one: ")[2].rstrip(".")
        label = f"`{name}`" + (", paper" if variant == "paper" else "")
        fitting, label_of = f"{scores['seconds']['fit']:.0f}", verdict["label"]
        lines.append(f"| {label} | {scores['seeds']} | {' | '.join(cells)} | {fitting} | {label_of} | {each} |")
    packages = environment["packages"]
    lines += [
        "",
        (
            f"Measured with expunge {environment['expunge']}, torch {packages['torch']}, transformers "
            f"{packages['transformers']}, on {environment['hardware']['cores']} CPU cores with other work on them: the "
            "seconds are upper bounds."
        ),
        "",
    ]
    return "\n".join(lines)


_NOTES = {
    "authors": [
        "Presets were first tried on two *other* authors (rows 0 to 39 of the retain rows, against a twin that never",
        "saw those; `benchmarks/tune_presets.py`, `benchmarks/results/tuning_authors.json`). What forgot those best",
        "passes the retrained model's truth ratios here (npo with beta 0.02: p .007; wga with beta 0.5: p .003, both",
        "over-unlearned), so `npo wga pdu satimp simnpo kl_min grad_diff` were then tuned on the rows scored here:",
        "this shows what a method can do here, not what to expect of it elsewhere. Rows marked `paper`, where there",
        "are any, are the same training with the method's own fields at the paper's values. Methods that collapse",
        "are shown as they are; the verdict says so.",
    ],
}


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    value = _number(entry["value"])
    low, high = entry.get("min"), entry.get("max")
    return value if low is None or low == high else f"{value} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:.3g}"


if __name__ == "__main__":
    main()
