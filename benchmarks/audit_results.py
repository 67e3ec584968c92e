"""World ``authors``: what audits find in models erased by several methods. Erased, or only hidden?

``python -m benchmarks.audit_results`` takes about fifteen minutes on two cores, keeps what it has in
``benchmarks/results/audits_authors.json`` and measures what is missing there; then it writes docs/results_audits.md and
its figure. It measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, write
from benchmarks.plot import paths
from expunge.audits.interface import Audited
from expunge.audits.registry import make_audit
from expunge.commands.demo import preset
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.methods.registry import make_method
from expunge.training.run import Run
from expunge.worlds.interface import get_world

FILE = RESULTS / "audits_authors.json"
PAGE = Path(__file__).parent.parent / "docs" / "results_audits.md"
FIGURE, CURVES = PAGE.parent / "audits_krs.svg", PAGE.parent / "audits_relearning.svg"
STEPS = [5, 10, 25, 50]
METHODS = ("grad_diff", "npo", "rmu", "simnpo", "wga", "undial", "idk", "pdu")
AUDITS: dict[str, dict[str, Any]] = {
    "patching": {},
    "restoration": {},
    "unlearning_depth": {},
    "logit_lens": {},
    "relearning": {"steps": STEPS},
    "quantization": {},
    "membership": {},
}
SCORED = ("forget_quality", "model_utility", "forget_probability")
COMPONENTS = {"mlp": "MLP keys", "attention": "attention outputs", "both": "both", "values": "value vectors put back"}


def measure(found: dict[str, Any]) -> dict[str, Any]:
    world = get_world("authors")
    target, retrained, tokenizer = world.target(), world.retrained(), world.tokenizer()
    request, suite = world.request(), world.suite()
    controls: Any = None
    for name in METHODS:
        config = preset("authors", name)
        missing = [audit for audit in AUDITS if audit not in found.get(name, {}).get("audits", {})]
        if name in found and not missing:
            continue
        one = found.setdefault(name, {"audits": {}})
        erasure = make_method(name, config.method.options).fit(
            target, tokenizer, request, run=Run(config.with_seed(0).training)
        )
        if "scores" not in one:
            metrics = ["probability", "truth_ratio", "rouge", "forget_quality", "model_utility"]
            controls = controls or [
                run_model(model, tokenizer, suite, max_new_tokens=60, metrics=metrics) for model in (target, retrained)
            ]
            with erasure.applied(target) as erased:
                outputs = run_model(erased, tokenizer, suite, max_new_tokens=60, metrics=metrics)
            scored = score(suite, target=controls[0], erased=outputs, retrained=controls[1], metrics=metrics)
            one["scores"] = {key: round(scored.rows["erased"][key].value, 4) for key in SCORED}
            one["verdict"] = scored.verdict.label
        audited = Audited(target, tokenizer, request, erasure=erasure, retrained=retrained, max_new_tokens=60)
        for audit in missing:
            result = make_audit(audit, AUDITS[audit]).run(audited).as_dict()
            one["audits"][audit] = {
                "verdict": result["verdict"],
                "rows": result["rows"],
                "curves": result["curves"],
                "heat": result["details"].get("heat"),
            }
            print(name, audit, result["verdict"], flush=True)
        write("audits_authors", found)
    return found


def figure(found: dict[str, Any]) -> None:
    """KRS by layer, a panel a component, a line a method."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {words: {} for words in COMPONENTS.values()}
    for name in METHODS:
        for audit in ("patching", "restoration"):
            heat = found[name]["audits"][audit]["heat"]["erased"]
            for component, cells in heat.items():
                if component in COMPONENTS:
                    last = max(cell[0] for cell in cells) or 1
                    points = [(cell[0] / last, max(cell[1] or 0.0, 0.0)) for cell in cells]
                    panels[COMPONENTS[component]][name] = points
    paths(FIGURE, ("layer, first to last", "knowledge recovery score"), panels, (0.0, 1.0))


def relearned(found: dict[str, Any]) -> None:
    """What comes back of the held-out answers, a line a method, by the share of the steps; the retrained model's under
    the same training lies at the bottom."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in METHODS:
        for curve in found[name]["audits"]["relearning"]["curves"]:
            lines = panels.setdefault(curve["y"], {})
            for model, label in (("erased", name), ("retrained", "retrained")):
                if model == "erased" or name == METHODS[0]:
                    lines[label] = [(point[0] / STEPS[-1], point[1]) for point in curve["series"][model]]
    paths(CURVES, (f"steps, 0 to {STEPS[-1]}", "score of the held-out half"), panels, (0.0, 1.0))


def page(found: dict[str, Any]) -> str:
    lines = [*_HEAD, "", "![Knowledge recovery score by layer and component](audits_krs.svg)", ""]
    lines += ["| | forget quality | utility | depth | patched, at most | put back, at most | verdict of the suite |"]
    lines += [f"| --- |{' ---: |' * 5} --- |"]
    for name in METHODS:
        one = found[name]
        depth = one["audits"]["unlearning_depth"]["rows"]["erased"]["unlearning_depth"]["value"]
        scores = one["scores"]
        lines.append(
            f"| {name} | {scores['forget_quality']:.3g} | {scores['model_utility']:.3f} | {depth:.2f} | "
            f"{_most(one, 'patching')} | {_most(one, 'restoration')} | {one['verdict']} |"
        )
    lines += ["", *_TAIL, "", "![Relearning by steps](audits_relearning.svg)", "", "## What each audit says", ""]
    for audit in AUDITS:
        lines += [f"### `{audit}`", "", "| | | |", "| --- | --- | --- |"]
        for name in METHODS:
            verdict = found[name]["audits"][audit]["verdict"]
            lines.append(f"| {name} | {verdict['label']} | {verdict['sentence']} |")
        lines.append("")
    return "\n".join(lines)


def _most(one: dict[str, Any], audit: str) -> str:
    """The largest KRS of a window, and where."""
    wanted = COMPONENTS if audit == "patching" else {"values": ""}
    cells = [
        (cell[1], layer_of(cell), component)
        for component, every in one["audits"][audit]["heat"]["erased"].items()
        if component in wanted
        for cell in every
        if cell[1] is not None
    ]
    if not cells:
        return "undefined"
    value, layer, component = max(cells)
    return f"{value:.2f} ({COMPONENTS[component].removesuffix(' put back')}, layer {layer})"


def layer_of(cell: list[Any]) -> int:
    return int(cell[0])


_HEAD = [
    "# Erased, or only hidden? World `authors`",
    "",
    "Written by `python -m benchmarks.audit_results`; all numbers in `benchmarks/results/audits_authors.json`. Methods",
    "with the world's presets, seed 0; four layers, counted from 0. Patching puts the target's activations into the",
    "erased model, restoration its parameters; a knowledge recovery score of 1 brings the target's logits back",
    "([hidden_knowledge.md](hidden_knowledge.md)). Depth is 0 for the target and 1 for the retrained model.",
]
_TAIL = """
What was learned. Of the eight, five cannot be told from the retrained model by their truth ratios, and none of them
passes every audit. **Layer 0 carries most of it**: with the target's MLP keys of that one layer, npo, simnpo and wga
give .63 to .73 of the target's logits back, while the later layers decode them as before; of the parameters it is
layer 0's attention for these three (.30 to .42), and for rmu the value vectors that it trained (.79). **Depth orders
the methods otherwise than forget quality does**: idk (.10) and undial (.15) changed little but the answers, rmu .39,
npo, simnpo and wga .71 to .75, pdu .84; grad_diff goes deepest (.91) and pays with utility. **Relearning** on half of
the forget rows lifts the probability of the other half to between .13 (npo) and .36 (pdu) within ten steps, where the
retrained model stays below .01; later steps wear it off again, and greedy answers give away little more than the
retrained model's. **Rounding** to 4 bits gives up to 82% of the changed weights the target's code, and brings nothing
back. **Membership attacks** find idk, undial, rmu, wga and pdu, whose scores on forget rows are still unlike those on
rows never seen.
""".strip().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page-only", action="store_true", help="write the page from what was measured")
    found = json.loads(FILE.read_text())["result"] if FILE.is_file() else {}
    if not parser.parse_args().page_only:
        found = measure(found)
    figure(found)
    relearned(found)
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
