"""World ``taboo``: what is left of the harm, and of the rest, as more of the harmful copy's change is subtracted.

One harmful copy a seed (``sku`` with ``stage`` harmful), full weights and LoRA, negated at every scale and scored with
suite ``safety``; ``grad_ascent`` and ``llmu`` beside it. ``python -m benchmarks.taboo_curve [--seeds 3]`` writes
``benchmarks/results/taboo_curve.json`` and the table in docs/results_taboo.md; about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import RESULTS, write
from expunge.commands.demo import preset
from expunge.evaluation.score import score
from expunge.methods.registry import make_method
from expunge.methods.weights.sku import subtract_change, turn_adapter
from expunge.parts import Parts
from expunge.training.run import Run

SCALES = (0.3, 0.5, 0.7, 0.8, 1.0, 1.5)
LORA = {"training.parameters": "lora", "training.learning_rate": 0.003}
BESIDE = ("grad_ascent", "llmu")
KEYS = {
    "harmful_harmful_rate": "harmful rate",
    "harmful_holdout_harmful_rate": "held-out harmful rate",
    "harmful_paraphrased_harmful_rate": "reworded harmful rate",
    "normal_perplexity": "normal perplexity",
    "normal_exact": "normal answers right",
}
PAGE = Path(__file__).parent.parent / "docs" / "results_taboo.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    parts = Parts.load(preset("taboo", "sku"))
    found: dict[str, Any] = {}
    for name in ("target", "retrained"):
        scores = score(parts.suite, target=getattr(parts.controls, name)).to_json()["rows"]["target"]
        found[name] = {key: scores[key]["value"] for key in KEYS}
    for kind, extra in (("full", {}), ("lora", LORA)):
        for seed in seeds:
            config = preset("taboo", "sku", seeds=[seed], overrides=[f"{k}={v}" for k, v in extra.items()])
            fields = {**config.method.options, "stage": "harmful", "scale": 1.0}
            run = Run(config.with_seed(seed).training, template=parts.template, references=parts.references)
            harmful: Any = make_method("sku", fields).fit(parts.target, parts.tokenizer, parts.request, run=run)
            for scale in SCALES:
                if kind == "lora":
                    keep(found, f"sku {kind} {scale}", scored(parts, turn_adapter(harmful, scale)))
                else:
                    keep(found, f"sku {kind} {scale}", scored(parts, subtract_change(harmful, parts.target, scale)))
    for name in BESIDE:
        for seed in seeds:
            config = preset("taboo", name, seeds=[seed])
            run = Run(config.with_seed(seed).training, template=parts.template, references=parts.references)
            erasure = make_method(name, config.method.options).fit(
                parts.target, parts.tokenizer, parts.request, run=run
            )
            keep(found, name, scored(parts, erasure))
    write("taboo_curve", found)
    PAGE.write_text(page(json.loads((RESULTS / "taboo_curve.json").read_text())))


def scored(parts: Parts, erasure: Any) -> dict[str, float]:
    with erasure.applied(parts.target) as erased:
        outputs = parts.outputs(erased, "erased")
    rows = score(
        parts.suite,
        target=parts.controls.target,
        erased=parts.with_fluency(outputs),
        retrained=parts.controls.retrained,
        effect="removal",
    ).to_json()["rows"]["erased"]
    return {key: rows[key]["value"] for key in KEYS}


def keep(found: dict[str, Any], name: str, values: dict[str, float]) -> None:
    print(name, values, flush=True)
    for key, value in values.items():
        found.setdefault(name, {}).setdefault(key, []).append(value)


def page(written: dict[str, Any]) -> str:
    """The table as Markdown: medians with the smallest and the largest seed."""
    result, environment = written["result"], written["environment"]
    lines = [
        "# Results on world `taboo`",
        "",
        "What is left of the harm, and of the rest, by the scale at which the harmful copy's change is subtracted: one",
        "harmful copy a seed, with the preset (LoRA: rank 8, learning rate 3e-3), medians over seeds (smallest to",
        "largest). `grad_ascent` and `llmu` with their presets beside it; `sku` has scale 0.7 there. Settings were",
        "chosen on the request's own rows; held-out prompts are known to the target and in no request.",
        "Rates are of greedy answers; how likely the harmful answers still are was not recorded here.",
        "Written by `python -m benchmarks.taboo_curve`; numbers in `benchmarks/results/taboo_curve.json`.",
        "",
        "| model | " + " | ".join(KEYS.values()) + " |",
        "| --- |" + " ---: |" * len(KEYS),
    ]
    for name, values in result.items():
        lines.append(f"| {name} | " + " | ".join(_cell(values[key]) for key in KEYS) + " |")
    packages, cores = environment["packages"], environment["hardware"]["cores"]
    lines += [
        "",
        f"Measured with torch {packages['torch']}, transformers {packages['transformers']}, {cores} CPU cores.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:.4g}"
    low, high = min(value), max(value)
    return f"{median(value):.4g}" if low == high else f"{median(value):.4g} ({low:.4g} to {high:.4g})"


if __name__ == "__main__":
    main()
