"""A program of its own: one fit in a fresh process, and how far it raised the process's memory above its start.

``python measured_fit.py JSON`` with the folder of a model and a request, and training settings; prints the bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def peak_above_start(folder: Path, method: dict[str, Any], training: dict[str, Any]) -> int:
    """Peak resident bytes of loading and fitting, less those that were resident before."""
    import peft  # noqa: F401 - what libraries take is no part of the measure
    from transformers import LlamaForCausalLM  # noqa: F401

    import expunge.training.fit
    import expunge.training.trainer  # noqa: F401
    from expunge.methods.registry import make_method
    from expunge.models.loading import load_model, load_tokenizer
    from expunge.requests import Request
    from expunge.training.run import Run
    from expunge.training.settings import TrainingSettings

    tokenizer = load_tokenizer(folder)
    request = Request.load(str(folder / "forget.jsonl"), retain=str(folder / "retain.jsonl"))
    fields = {name: value for name, value in method.items() if name != "name"}
    made = make_method(method["name"], fields)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    model = load_model(folder)
    made.fit(model, tokenizer, request, run=Run(TrainingSettings(**training)))
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(peak_above_start(Path(given["folder"]), given["method"], given["training"]))
