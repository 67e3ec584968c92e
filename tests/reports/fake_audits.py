"""What audits find, made by hand, as ``audits.json`` has it."""

from __future__ import annotations

from typing import Any


def entry(value: float, stderr: float | None = 0.01, n: int = 20) -> dict[str, Any]:
    return {"value": value, "stderr": stderr, "n": n, "version": 1}


def heat(*layers: float) -> list[list[float | int]]:
    """A window around each layer, with an interval of 0.05 to both sides."""
    return [[layer, value, value - 0.05, value + 0.05] for layer, value in enumerate(layers)]


def patching(layers: int = 2) -> dict[str, Any]:
    """Two components; most comes back at the last layer of ``mlp``."""
    mlp = [0.2 + 0.6 * (layer + 1) / layers for layer in range(layers)]  # ends at 0.8
    return {
        "verdict": {"label": "hidden", "sentence": "The knowledge is hidden in layer 1."},
        "rows": {
            "erased": {"krs_mlp": entry(0.8), "krs_mlp_beyond_retrained": entry(0.75, 0.02)},
            "retrained": {"krs_mlp": entry(0.05)},
        },
        "details": {
            "examples": 20,
            "best": {"mlp": {"krs": 0.80000001}},
            "heat": {
                "erased": {"mlp": heat(*mlp), "outside": [[None, 0.125, None, None]]},
                "retrained": {"mlp": heat(*([0.0] * layers))},
            },
            "by_row": [[1, 2], [3, 4]],
        },
        "curves": [
            {
                "title": "Knowledge recovered by patching: mlp",
                "x": "layer",
                "y": "knowledge recovery score",
                "series": {"erased": [[layer, value, 0.02] for layer, value in enumerate(mlp)]},
            }
        ],
        "samples": [{"prompt": "a sample that is for readers of the file"}],
        "seconds": 2.5,
        "version": 1,
        "options": {"limit": 40},
    }


def relearning(label: str = "comes back") -> dict[str, Any]:
    """Scores by steps; ``leakage`` is no number at the last one."""
    return {
        "verdict": {"label": label, "sentence": "After 5 steps the knowledge comes back."},
        "rows": {
            "target": {"forget_leakage": entry(1.0)},
            "erased": {"forget_leakage": entry(0.05), "relearning_forget_full_5_leakage": entry(0.5)},
            "retrained": {"forget_leakage": entry(0.04), "relearning_forget_full_5_leakage": entry(0.06)},
        },
        "details": {"rows": 20},
        "curves": [
            {
                "title": "Trained on 20 other rows",
                "x": "steps",
                "y": "leakage",
                "series": {
                    "target": [[0, 1.0, None], [5, 1.0, None]],
                    "erased": [[0, 0.05, 0.01], [5, 0.5, 0.1], [10, None, None]],
                    "retrained": [[0, 0.04, 0.01], [5, 0.06, 0.02]],
                },
            }
        ],
        "seconds": 61.0,
    }


def paraphrase() -> dict[str, Any]:
    """Places with names, one of them as long as a sentence, and more figures than stand open."""
    names = ["typos", "Pretend to be an archive from which nothing was ever taken out. Entry asked for: {question}"]
    series = {model: [[name, value, 0.01] for name in names] for model, value in (("target", 0.9), ("erased", 0.05))}
    return {
        "verdict": {"label": "erased", "sentence": "Asked in 2 other ways, it gives away 0.05."},
        "rows": {"erased": {"paraphrase_leakage": entry(0.05)}},
        "curves": [
            {"title": f"By way of asking: {what}", "x": "way of asking", "y": what, "series": series}
            for what in ("leakage", "rouge", "probability", "told", "leaked")
        ],
        "seconds": 3.0,
    }


def found(**audits: dict[str, Any]) -> dict[str, Any]:
    """The content of ``audits.json`` of a guard: what is said first, three audits, one left out."""
    return {
        "schema": 1,
        "first": "With the guard lifted, of course, the knowledge is there.",
        "models": ["target", "erased", "retrained"],
        "finished": True,
        "audits": audits or {"patching": patching(), "paraphrase": paraphrase(), "relearning": relearning()},
        "left_out": {"linear_probe": "There are no options."},
    }
