"""``expunge negate`` against loading both models with transformers: peak memory and time, each in a fresh process.

A random Llama in bfloat16 in files of at most 64 MB, less one copy whose weights were moved. Memory is the highest
resident size of the process minus its size before the work begins, with all that it needs imported. The largest
difference between the two results is written down, too (0: bit for bit the same).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import write

SCALE, SHARD = 0.7, "64MB"

_BOTH = """
import json, sys, time, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
import transformers.models.llama.modeling_llama

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

target, harmful, out, scale = *sys.argv[1:4], float(sys.argv[4])
{imports}
Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is forgotten
before, began = resident("VmRSS"), time.perf_counter()
{work}
print(json.dumps({{"seconds": time.perf_counter() - began, "peak_bytes": resident("VmHWM") - before}}))
"""
_OURS = _BOTH.format(
    imports="import expunge.training.harmful\nfrom expunge import negate",
    work="negate(target, harmful, out=out, scale=scale)",
)
_LOADED = _BOTH.format(
    imports="",
    work="""
with torch.no_grad():
    model = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    other = dict(AutoModelForCausalLM.from_pretrained(harmful, dtype="auto").named_parameters())
    for name, p in model.named_parameters():
        p.copy_(p.float() - scale * (other[name].float() - p.float()))
model.save_pretrained(out, max_shard_size="64MB")
""",
)


def make_models(folder: Path) -> tuple[Path, Path, int]:
    """A target, a copy whose weights are moved a little, and the bytes of the target's largest file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2_048,
        num_hidden_layers=20,
        num_attention_heads=12,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "target", max_shard_size=SHARD)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    model.save_pretrained(folder / "harmful", max_shard_size=SHARD)
    largest = max(file.stat().st_size for file in (folder / "target").glob("*.safetensors"))
    return folder / "target", folder / "harmful", largest


def run_fresh(code: str, *arguments: object) -> dict[str, float]:
    """What a fresh interpreter measures."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints' tensors, in parts of the value (a bfloat16 step is 2^-7)."""
    from safetensors import safe_open

    worst = 0.0
    index = [json.loads((f / "model.safetensors.index.json").read_text())["weight_map"] for f in (one, other)]
    for name in index[0]:
        with safe_open(one / index[0][name], "pt") as a, safe_open(other / index[1][name], "pt") as b:
            x, y = a.get_tensor(name).float(), b.get_tensor(name).float()
        worst = max(worst, float(((x - y).abs() / x.abs().clamp(min=1e-30)).max()))
    return worst


def main(rounds: int = 5) -> None:
    if sys.platform != "linux":
        print("negation: peak memory is read from /proc, which only Linux has; skipped")
        return
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "loaded": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target, harmful, largest = make_models(folder)
        size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
        for i in range(rounds):
            for which, code in (("ours", _OURS), ("loaded", _LOADED)):
                runs[which].append(run_fresh(code, target, harmful, folder / f"{which}-{i}", SCALE))
        apart = difference(folder / "ours-0", folder / "loaded-0")
    result: dict[str, Any] = {
        "model_mb": round(size / 2**20),
        "largest_file_mb": round(largest / 2**20, 1),
        "rounds": rounds,
        "largest_relative_difference": apart,
    }
    for which, found in runs.items():
        result[which] = {
            "seconds": round(median(run["seconds"] for run in found), 2),
            "peak_mb": round(median(run["peak_bytes"] for run in found) / 2**20, 1),
        }
    ratios = sorted(b["seconds"] / a["seconds"] for a, b in zip(runs["ours"], runs["loaded"], strict=True))
    result["times_as_fast"] = {
        "median": round(median(ratios), 2),
        "min": round(ratios[0], 2),
        "max": round(ratios[-1], 2),
    }
    result["peak_in_largest_files"] = round(max(run["peak_bytes"] for run in runs["ours"]) / largest, 3)
    write("negation", result)


if __name__ == "__main__":
    main()
