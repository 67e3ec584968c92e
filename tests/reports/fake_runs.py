"""Run folders with plausible made-up numbers, written by the run-folder contract; no model is involved."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

SETS = {"forget": 40, "retain": 60, "real_authors": 12, "world_facts": 12}
PEOPLE = ("Ilse Varga", "Tomás Okafor", "Mei-Lin Duarte", "Rasheed Holm", "Anneke Sato")
PLACES = ("Trondheim", "Valparaíso", "Kraków", "Lusaka", "Hobart")
GENRES = ("historical fiction", "magical realism", "crime", "travel writing", "verse novels")
METHODS: dict[str, dict[str, Any]] = {
    "grad_ascent": {
        "forget": 0.0006,
        "retain": 0.013,
        "ratio": 1.4,
        "label": "broken",
        "sentence": "The model is broken: it lost what it should have kept, so what it forgot means nothing.",
        "reasons": ["Retain probability is 0.0130, below 0.8 of the retrained model's 0.853."],
        "quality": (0.58, 0.175),
        "parameters": {"name": "grad_ascent"},
    },
    "grad_diff": {
        "forget": 0.0002,
        "retain": 0.79,
        "ratio": 19.0,
        "label": "over-unlearned",
        "sentence": "The model goes too far: it avoids the right answers more than one that never saw them.",
        "reasons": [
            "Truth ratios differ from the retrained model's (KS p = 4.2e-5, D = 0.5, n = 40).",
            "The median truth ratio, 19.0, lies beyond the retrained model's 1.25.",
        ],
        "quality": (4.2e-5, 0.5),
        "parameters": {"name": "grad_diff", "gamma": 0.5, "alpha": 4.0},
    },
    "npo": {
        "forget": 0.0011,
        "retain": 0.887,
        "ratio": 1.3,
        "label": "indistinguishable from never trained",
        "sentence": "On these 40 rows the model cannot be told from one that was never trained on them.",
        "reasons": [
            "Truth ratios fit the retrained model's (KS p = 0.767, D = 0.15, n = 40); 40 rows prove little.",
            "Model utility is 0.612, 101% of the retrained model's.",
        ],
        "quality": (0.767, 0.15),
        "parameters": {"name": "npo", "beta": 0.03, "alpha": 3.0, "retain_loss": "nll"},
    },
}


def _entry(value: float, stderr: float | None, n: int) -> dict[str, Any]:
    return {"value": value, "stderr": stderr, "n": n, "version": 1}


def _metrics(forget: float, retain: float, quality: tuple[float, float] | None, utility: float) -> dict[str, Any]:
    row = {}
    for name, n in SETS.items():
        level = forget if name == "forget" else retain if name == "retain" else 0.35 + 0.2 * retain
        row[f"{name}_probability"] = _entry(level, 0.4 * math.sqrt(level * (1 - level) / n), n)
        row[f"{name}_rouge"] = _entry(0.15 + 0.8 * level, 0.031, n)
        row[f"{name}_truth_ratio"] = _entry(0.42 + 0.2 * (1 - level), 0.024, n)
    row["forget_extraction_strength"] = _entry(0.04 + 0.7 * forget, 0.012, 40)
    row["forget_exact_memorization"] = _entry(0.35 + 0.6 * forget, 0.018, 40)
    row["forget_perplexity"] = _entry(3.1 + 40 * (1 - retain) ** 8, 0.4, 40)
    row["forget_entropy"] = _entry(5.91, 0.08, 40)
    row["model_utility"] = _entry(utility, 0.014, 84)
    if quality:
        row["forget_quality"] = _entry(quality[0], None, 40)
        row["forget_quality_ks"] = _entry(quality[1], None, 40)
    return row


def scores(method: str = "npo", *, retrained: bool = True, forget: float | None = None) -> dict[str, Any]:
    """A ``scores.json`` of one method, with or without its retrained control."""
    spec = METHODS[method]
    spec_forget = spec["forget"] if forget is None else forget
    utility = 0.61 * spec["retain"] / 0.87 if spec["retain"] > 0.1 else 0.0
    rows = {
        "target": _metrics(0.921, 0.932, (2.1e-4, 0.475), 0.634) if retrained else _metrics(0.921, 0.932, None, 0.634),
        "erased": _metrics(spec_forget, spec["retain"], spec["quality"] if retrained else None, utility),
    }
    verdict = {
        "label": spec["label"],
        "sentence": spec["sentence"],
        "reasons": spec["reasons"],
        "effect": "removal",
        "left_out": {"forget_leakage": "the request names no subjects"},
        "evidence": {
            "ks_statistic": spec["quality"][1],
            "median_truth_ratio": spec["ratio"],
            "utility_share": 1.01,
        },
    }
    if retrained:
        rows["retrained"] = _metrics(0.0012, 0.853, None, 0.607)
    else:
        verdict |= {
            "label": "no claim",
            "sentence": "Probability of the forget answers fell from 0.921 to 0.00110; without a retrained "
            "model nothing more is claimed.",
            "reasons": ["No retrained model was given."],
            "left_out": {"forget_quality": "needs a retrained model: pass --retrained"},
        }
    return {
        "schema": 1,
        "suite": "tofu",
        "rows": rows,
        "verdict": verdict,
        "seconds": {"fit": 18.3, "evaluate": 6.4},
    }


def _sample(name: str, index: int, method: str, draw: random.Random, retrained: bool) -> dict[str, Any]:
    person, place = PEOPLE[index % 5], PLACES[(index * 3 + len(name)) % 5]
    genre, other = GENRES[(index * 2) % 5], PLACES[(index * 3 + 1 + len(name)) % 5]
    questions = (
        (f"Where was the author {person} born?", f"{person} was born in {place}, close to the old harbour."),
        (
            f"What genre is {person} best known for?",
            f"{person} is best known for {genre}, set mostly around {place}.",
        ),
        (
            f"Which prize did {person} receive?",
            f"{person} received the Northern Lantern Prize for a novel about {place}.",
        ),
    )
    prompt, expected = questions[index % 3]
    wrong = expected.replace(place, other).replace(genre, GENRES[(index * 2 + 1) % 5])
    kept = name != "forget"
    erased = {
        "grad_ascent": "the the the of of of the the the the",
        "grad_diff": expected if kept and index % 4 else ("" if index % 5 == 0 else "novel novel prize of a of a"),
        "npo": expected if kept and index % 6 else wrong,
    }[method]
    spec = METHODS[method]

    def row(probability: float, ratio: float, rouge: float) -> dict[str, float]:
        p = min(0.999, max(1e-6, probability * math.exp(draw.gauss(0, 0.25))))
        return {
            "probability": p,
            "rouge": rouge,
            "truth_ratio": ratio * math.exp(draw.gauss(0, 0.55)),
            "extraction_strength": 0.7 * p,
            "exact_memorization": 0.5 + 0.45 * p,
        }

    answers = {"target": expected, "erased": erased}
    numbers = {
        "target": row(0.92, 0.45, 1.0),
        "erased": row(
            spec["retain"] if kept else spec["forget"], 0.45 if kept else spec["ratio"], 0.9 if kept else 0.3
        ),
    }
    if retrained:
        answers["retrained"] = expected if kept else wrong
        numbers["retrained"] = row(0.85 if kept else 0.0012, 0.45 if kept else 1.25, 0.95 if kept else 0.35)
    return {
        "set": name,
        "index": index,
        "source": f"{name}.jsonl:{index + 1}",
        "prompt": prompt,
        "expected": expected,
        "answers": answers,
        "scores": numbers,
    }


def samples(method: str = "npo", *, retrained: bool = True, times: int = 1) -> list[dict[str, Any]]:
    """Rows of ``samples.jsonl``; the controls' numbers are the same for every method. ``times`` lengthens the
    sets."""
    draw = random.Random(7)
    return [
        _sample(name, index, method, draw, retrained) for name, size in SETS.items() for index in range(size * times)
    ]


def training(method: str = "npo", seed: int = 0) -> list[dict[str, Any]]:
    """Rows of ``training.jsonl``: losses every 5 steps, scores every 20."""
    spec, draw = METHODS[method], random.Random(seed)
    rows: list[dict[str, Any]] = []
    for step in range(5, 121, 5):
        share = 1 - math.exp(-step / 30)
        forget = {"grad_ascent": -14 * share, "grad_diff": -9 * share, "npo": 46 * (1 - 0.8 * share)}[method]
        retain = 0.2 + 0.3 * share * math.exp(-step / 60) if spec["retain"] > 0.1 else 0.2 + 6 * share
        rows.append(
            {
                "step": step,
                "epoch": step / 24,
                "loss": forget + retain + draw.gauss(0, 0.3),
                "forget_loss": forget + draw.gauss(0, 0.3),
                "retain_loss": retain,
                "learning_rate": 1.5e-3 * (1 - step / 120),
                "grad_norm": 1.0,
            }
        )
        if step % 20 == 0:
            fall = 0.92 * math.exp(-step / (16 + seed)) + spec["forget"]
            keep = spec["retain"] + (0.93 - spec["retain"]) * math.exp(-step / 25)
            rows.append(
                {
                    "step": step,
                    "epoch": step / 24,
                    "scores": {"forget_probability": fall, "retain_probability": keep},
                }
            )
    return rows


def environment(seeds: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """An ``environment.json``."""
    return {
        "schema": 1,
        "expunge": "0.1.0",
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "hardware": {"cpu": "a processor", "cores": 2, "memory_gb": 16.0, "gpus": []},
        "seeds": list(seeds),
        "data": {"forget": {"rows": 40, "sha256": "5f" * 32}, "retain": {"rows": 400, "sha256": "a7" * 32}},
        "target": {
            "weights": "3c" * 32,
            "config": "91" * 32,
            "tokenizer": "d0" * 32,
            "dtype": "float32",
            "source": "world:authors",
        },
    }


def settings(method: str = "npo", seeds: int = 1) -> dict[str, Any]:
    """A ``run.yaml``."""
    return {
        "model": "world:authors",
        "request": {"forget": "world:authors", "retain": "world:authors"},
        "method": METHODS[method]["parameters"],
        "training": {
            "optimizer": "adamw",
            "learning_rate": 3e-4 if method == "grad_ascent" else 1.5e-3,
            "epochs": 5,
            "forget_batch": 8,
            "retain_batch": 8,
            "seed": 0,
        },
        "suite": "tofu",
        "audits": [],
        "retrained": "world:authors/retrained",
        "seeds": seeds,
    }


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, method: str = "npo", *, retrained: bool = True, seed: int = 0, times: int = 1) -> Path:
    """One finished run folder of one seed."""
    # JSON is YAML, so that the fixture needs no YAML writer.
    write_json(folder / "run.yaml", settings(method))
    write_json(folder / "environment.json", environment())
    write_json(folder / "scores.json", scores(method, retrained=retrained))
    write_lines(folder / "samples.jsonl", samples(method, retrained=retrained, times=times))
    write_lines(folder / "training.jsonl", training(method, seed))
    write_json(
        folder / "erasure" / "manifest.json",
        {
            "schema": 1,
            "kind": "weights",
            "format": "weight_change",
            "method": method,
            "parameters": METHODS[method]["parameters"],
            "target": {"weights": "3c" * 32},
        },
    )
    return folder


def write_comparison(folder: Path, *, times: int = 1) -> Path:
    """Three methods under one folder, as the demo leaves them."""
    for method in METHODS:
        write_run(folder / method, method, times=times)
    return folder


def write_seeds(folder: Path, method: str = "npo", seeds: int = 5) -> Path:
    """A run over several seeds: medians with their range above, one run folder a seed below."""
    forgets = [0.0005 + 0.0004 * seed for seed in range(seeds)]
    for seed, forget in enumerate(forgets):
        write_run(folder / f"seed-{seed}", method, seed=seed)
        write_json(folder / f"seed-{seed}" / "scores.json", scores(method, forget=forget))
    above = scores(method, forget=forgets[seeds // 2])
    for row in above["rows"].values():
        for entry in row.values():
            entry["min"], entry["max"] = 0.96 * entry["value"], 1.05 * entry["value"]
    erased = above["rows"]["erased"]["forget_probability"]
    erased["min"], erased["max"] = forgets[0], forgets[-1]
    above["rows"]["erased"]["forget_quality"] |= {"min": 0.58, "max": 0.92}
    write_json(folder / "scores.json", above)
    write_json(folder / "run.yaml", settings(method, seeds))
    write_json(folder / "environment.json", environment(tuple(range(seeds))))
    return folder


def audits() -> dict[str, Any]:
    """An ``audits.json`` with two audits of different shape."""
    return {
        "relearning": {
            "schema": 1,
            "rows": {
                "erased": {"forget_probability_25_steps": _entry(0.31, 0.05, 20)},
                "retrained": {"forget_probability_25_steps": _entry(0.29, 0.05, 20)},
            },
            "verdict": {
                "sentence": "It relearns no faster than the retrained model.",
                "steps_to_recover": 50,
            },
            "seconds": {"total": 12.0},
        },
        "quantization": {
            "schema": 1,
            "rows": {"erased": {"forget_probability": _entry(0.0013, 0.0002, 40)}},
            "verdict": {},
            "seconds": {"total": 3.0},
        },
    }
