"""What every method reaches on a world with its preset, over several seeds: the table in docs/results.md.

``python -m benchmarks.world_results [--seeds 5]`` takes about half a minute a method and seed on two cores. It is not
part of ``make bench``: it measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from expunge import demo, list_methods

DOCS = Path(__file__).parent.parent / "docs" / "results.md"

_COLUMNS = {
    "forget_probability": "forget probability",
    "retain_probability": "retain probability",
    "forget_quality": "forget quality (p)",
    "forget_quality_ks": "D",
    "model_utility": "model utility",
    "forget_extraction_strength": "extraction strength",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="authors")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    methods = [entry["name"] for entry in list_methods()]
    demo(options.world, out=options.out, methods=methods, seeds=options.seeds)
    found = {name: json.loads((options.out / name / "scores.json").read_text()) for name in methods}
    environment = json.loads((options.out / methods[0] / "environment.json").read_text())
    RESULTS.mkdir(exist_ok=True)
    kept = {
        name: {"rows": scores["rows"], "verdict": scores["verdict"], "seconds": scores["seconds"]}
        for name, scores in found.items()
    }
    text = json.dumps({"seeds": options.seeds, "methods": kept, "environment": environment}, indent=1)
    (RESULTS / f"world_{options.world}.json").write_text(text + "\n")
    DOCS.write_text(page(options.world, options.seeds, found, environment))


def page(world: str, seeds: int, found: dict[str, dict[str, Any]], environment: dict[str, Any]) -> str:
    """The table as Markdown: medians with the smallest and the largest seed."""
    some = next(iter(found.values()))["rows"]
    lines = [
        "# Results",
        "",
        f"World `{world}`, every method with the world's preset, {seeds} seeds: median (smallest to largest). Presets",
        "are tuned on the very rows they are scored on: this shows what a method can do here, not what to expect of it",
        "elsewhere.",
        "Written by `python -m benchmarks.world_results`; the numbers with their environment are in",
        f"`benchmarks/results/world_{world}.json`.",
        "",
        "| model | " + " | ".join(_COLUMNS.values()) + " | seconds to fit | verdict on the medians | one by one |",
        "| --- |" + " ---: |" * (len(_COLUMNS) + 1) + " --- | --- |",
    ]
    for model in ("target", "retrained"):
        lines.append(f"| {model} | " + " | ".join(_cell(some[model].get(key)) for key in _COLUMNS) + " | | | |")
    for name, scores in found.items():
        cells = [_cell(scores["rows"]["erased"].get(key)) for key in _COLUMNS]
        verdict = scores["verdict"]
        each = verdict["reasons"][0].partition("one by one: ")[2].rstrip(".")
        lines.append(
            f"| `{name}` | {' | '.join(cells)} | {scores['seconds']['fit']:.0f} | {verdict['label']} | {each} |"
        )
    packages = environment["packages"]
    lines += [
        "",
        (
            f"Measured with expunge {environment['expunge']}, torch {packages['torch']}, transformers "
            f"{packages['transformers']}, on {environment['hardware']['cores']} CPU cores."
        ),
        "",
    ]
    return "\n".join(lines)


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
