"""Settings for world ``authors`` tried on other authors than those that its results are scored on.

The two authors of the first 40 retain rows are forgotten instead, against a twin that never saw *them*; every entry of
the grid is one fit with seed 0, scored without generated answers. ``python -m benchmarks.tune_presets [METHOD ..]``
writes ``benchmarks/results/tuning_authors.json``, from which the presets were chosen by hand. An hour or more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from expunge import Request, Run, TrainingSettings, get_world, make_method
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.requests.rows import Row
from expunge.worlds.pretrain import new_model, pretrain

AUTHORS = 40  # the first so many retain rows are the two authors forgotten here
SETS = {
    "forget": ("probability", "truth_ratio", "extraction_strength"),
    "retain": ("probability", "kept_truth_ratio"),
    "real_authors": ("choice_probability", "kept_truth_ratio"),
    "world_facts": ("choice_probability", "kept_truth_ratio"),
}
UTILITY = [
    f"{name}_{key}" for name in ("retain", "real_authors", "world_facts") for key in ("probability", "truth_ratio")
]

SHARED: dict[str, Any] = {"forget_batch": 8, "retain_batch": 8, "accumulation": 1}


def grid(**choices: list[Any]) -> list[dict[str, Any]]:
    """Every combination of the choices."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


# training settings and, with a dot before them, fields of the method
GRIDS: dict[str, list[dict[str, Any]]] = {
    "npo": [
        *grid(learning_rate=[1.5e-3], epochs=[16], **{".beta": [0.02, 0.03, 0.05, 0.1], ".alpha": [3]}),
        *grid(learning_rate=[1.5e-3], epochs=[24], **{".beta": [0.025, 0.03], ".alpha": [3]}),
    ],
    "simnpo": [
        *grid(learning_rate=[1.5e-3], epochs=[16], **{".beta": [2.5, 4.5], ".gamma": [0.125, 0.5]}),
        *grid(learning_rate=[1.5e-3], epochs=[16], **{".beta": [0.5, 1], ".gamma": [0.5]}),
    ],
    "wga": grid(learning_rate=[1e-3], epochs=[12], **{".alpha": [1, 4], ".beta": [0.5, 1]}),
    "grad_diff": grid(learning_rate=[1e-3], epochs=[8], **{".alpha": [4, 10], ".gamma": [1]}),
    "kl_min": [
        *grid(learning_rate=[1e-3], epochs=[8], **{".alpha": [5, 20]}),
        *grid(learning_rate=[5e-4], epochs=[10], **{".alpha": [5, 10]}),
    ],
    "altpo": [
        *grid(learning_rate=[1.5e-3], epochs=[12], **{".beta": [0.03, 0.1], ".alpha": [1, 3]}),
        *grid(learning_rate=[7e-4], epochs=[16], **{".beta": [0.02], ".alpha": [3]}),
    ],
    "dpo": [
        *grid(learning_rate=[1.5e-3], epochs=[16], **{".beta": [0.03, 0.1], ".alpha": [1, 3]}),
        *grid(learning_rate=[1.5e-3], epochs=[16], **{".beta": [0.02], ".alpha": [3]}),
    ],
    "idk": grid(learning_rate=[1e-3, 2e-3], epochs=[12]),
    "undial": grid(learning_rate=[1.5e-3], epochs=[16], **{".alpha": [1], ".beta": [10, 30, 100]}),
    "llmu": [
        *grid(learning_rate=[1e-3], epochs=[12], **{".e1": [0.1, 0.5], ".e3": [1, 5]}),
        *grid(learning_rate=[1e-3], epochs=[12], **{".e1": [1], ".e3": [5]}),
    ],
    "mismatch": grid(learning_rate=[1e-3, 2e-3], epochs=[12], **{".alpha": [1]}),
    "pdu": grid(learning_rate=[1e-3], epochs=[12], **{".eps": [0.05], ".initial": [5, 50]}),
    "rmu": [
        *grid(learning_rate=[3e-3], epochs=[12], **{".layer": [2], ".coefficient": [6.5, 20], ".alpha": [1, 100]}),
        *grid(learning_rate=[3e-3], epochs=[12], **{".layer": [3], ".coefficient": [20], ".alpha": [5]}),
    ],
    "satimp": [
        *grid(learning_rate=[1e-3], epochs=[12], **{".alpha": [0.1, 1, 4]}),
        *grid(learning_rate=[1.5e-3], epochs=[20], **{".alpha": [0.1]}),
    ],
    "ceu": grid(learning_rate=[2e-4, 5e-4], epochs=[6]),
    "scrub": grid(learning_rate=[1e-3, 2e-3], epochs=[10]),
    "sku": grid(learning_rate=[1e-3], epochs=[6], **{".scale": [0.3, 0.6, 1]}),
    "finetune": grid(learning_rate=[1e-3], epochs=[20]),
    "grad_ascent": grid(learning_rate=[1e-4, 3e-4], epochs=[4, 8]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(GRIDS))
    parser.add_argument("--cache", type=Path, default=Path("runs/tuning"), help="where the twin is kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "tuning_authors.json")
    options = parser.parse_args()
    world = get_world("authors")
    request, tokenizer = world.request(), world.tokenizer()
    request = Request(forget=request.retain[:AUTHORS], retain=request.retain[AUTHORS:])
    full = world.suite()
    sets: dict[str, tuple[Row, ...]] = {
        "forget": request.forget,
        "retain": request.retain[:: len(request.retain) // 100][:100],
        **{name: full.sets[name] for name in ("real_authors", "world_facts")},
    }
    suite = Suite("tuning", sets, SETS, ("forget_quality", "forget_quality_ks"))
    twin = retrained(world, set(request.forget), options.cache)
    names = tuple(key for key in suite.set_metrics() if "forget_quality" not in key)

    def outputs(model: Any) -> Any:
        return run_model(model, tokenizer, suite, metrics=names)

    target = world.target()
    controls = {"target": outputs(target), "retrained": outputs(twin)}
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    shared: dict[str, Any] = {}
    found["controls"] = numbers(score(suite, **controls, metrics=None).to_json()["rows"]["target"])
    for name in options.methods:
        for values in GRIDS[name]:
            if any(line["settings"] == values for line in found.get(name, [])):
                continue
            fields = {key[1:]: value for key, value in values.items() if key.startswith(".")}
            training = {**SHARED, **{key: value for key, value in values.items() if not key.startswith(".")}}
            began = time.perf_counter()
            run = Run(TrainingSettings(**training), references=shared)
            erasure = make_method(name, fields).fit(target, tokenizer, request, run=run)
            seconds = time.perf_counter() - began
            with erasure.applied(target) as erased:
                rows = score(suite, **controls, erased=outputs(erased)).to_json()["rows"]
            line = {"settings": values, **numbers(rows["erased"])}
            base = numbers(rows["retrained"])
            line["utility_kept"] = round(line["utility"] / base["utility"], 3)
            line["seconds"] = round(seconds, 1)
            print(name, json.dumps(line), flush=True)
            found.setdefault(name, []).append(line)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n")


def retrained(world: Any, left_out: set[Row], cache: Path) -> Any:
    """The world's twin, by its recipe, without these rows."""
    from transformers import AutoModelForCausalLM

    folder = cache / "retrained"
    if folder.is_dir():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    from expunge.data.encode import encode_all
    from expunge.data.template import Template

    tokenizer, recipe = world.tokenizer(), world.recipe
    prompts = {row.prompt for row in left_out}
    rows = [row for row in world.training_rows() if row.prompt not in prompts]
    encoded = encode_all(tokenizer, Template.of(tokenizer, "plain"), rows, max_length=recipe.model.max_positions)
    model = pretrain(
        new_model(tokenizer, recipe.model, seed=recipe.seed),
        [example.input_ids for example in encoded],
        recipe.pretraining,
        seed=recipe.seed,
        pad_id=int(tokenizer.pad_token_id),
    )
    model.save_pretrained(folder)
    return model


def numbers(rows: dict[str, Any]) -> dict[str, float]:
    """The scores that a choice is made by; ``utility`` is a harmonic mean without generated answers."""
    values = {key: entry["value"] for key, entry in rows.items()}
    parts = [values[key] for key in values if key.split("_", 1)[0] in ("retain", "real", "world")]
    kept = {key: round(values[key], 4) for key in values if key.startswith("forget") or key == "retain_probability"}
    return {**kept, "utility": round(len(parts) / sum(1 / max(part, 1e-9) for part in parts), 4)}


if __name__ == "__main__":
    main()
