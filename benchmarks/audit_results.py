"""World ``authors``: what audits find in models erased by several methods. Erased, or only hidden?

``python -m benchmarks.audit_results`` takes about fifteen minutes on two cores, keeps what it has in
``benchmarks/results/audits_authors.json`` and measures what is missing there; then it writes docs/results_audits.md and
its figure. It measures quality, not speed.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
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
COMPONENTS = {
    "patching": {"mlp": "MLP keys", "attention": "attention outputs", "both": "MLP keys and attention outputs"},
    "restoration": {
        "values": "value vectors",
        "keys": "MLP gates and first projections",
        "attention": "attention parameters",
    },
}


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
    """KRS by layer, a panel a component, a line a method; the retrained model's control is the same for all."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    lines = [(name, "erased", name) for name in METHODS] + [(METHODS[0], "retrained", "retrained")]
    for audit, components in COMPONENTS.items():
        for component, words in components.items():
            panel = panels.setdefault(words, {})
            for name, model, label in lines:
                cells = [cell for cell in found[name]["audits"][audit]["heat"][model][component] if cell[1] is not None]
                last = max((cell[0] for cell in cells), default=0) or 1
                panel[label] = [(cell[0] / last, max(cell[1], 0.0)) for cell in cells]
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
    lines = [*_HEAD, "", "![Knowledge recovery score by layer and component](audits_krs.svg)", "", *_FIGURE, ""]
    lines += ["| | forget quality | utility | depth | patched, at most | put back, at most | verdict of the suite |"]
    lines += [f"| --- |{' ---: |' * 5} --- |"]
    for name in METHODS:
        one = found[name]
        depth = one["audits"]["unlearning_depth"]["rows"]["erased"]["unlearning_depth"]["value"]
        scores = one["scores"]
        lines.append(
            f"| {name} | {scores['forget_quality']:.3g} | {scores['model_utility']:.3f} | {depth:.2f} | "
            f"{most(one, 'patching')} | {most(one, 'restoration')} | {one['verdict']} |"
        )
    lines += [
        "",
        *learned(found),
        "",
        "![Relearning by steps](audits_relearning.svg)",
        "",
        "## What each audit says",
        "",
    ]
    for audit in AUDITS:
        lines += [f"### `{audit}`", "", "| | | |", "| --- | --- | --- |"]
        for name in METHODS:
            verdict = found[name]["audits"][audit]["verdict"]
            lines.append(f"| {name} | {verdict['label']} | {verdict['sentence']} |")
        lines.append("")
    return "\n".join(lines)


def most(one: dict[str, Any], audit: str) -> str:
    """The largest KRS of a window of one method's audit, and where."""
    cells = _cells(one, audit)
    if not cells:
        return "undefined"
    value, layer, component = max(cells)
    return f"{value:.2f} ({COMPONENTS[audit][component]}, layer {layer})"


def _cells(one: dict[str, Any], audit: str, layer: int | None = None, component: str = "") -> list[Any]:
    """(KRS, layer, component) of the erased model's windows, of one layer and component where these are given."""
    return [
        (cell[1], cell[0], name)
        for name, every in one["audits"][audit]["heat"]["erased"].items()
        if name in COMPONENTS[audit] and component in ("", name)
        for cell in every
        if cell[1] is not None and layer in (None, cell[0])
    ]


_HEAD = [
    "# Erased, or only hidden? World `authors`",
    "",
    "Written by `python -m benchmarks.audit_results`; all numbers in `benchmarks/results/audits_authors.json`. Methods",
    "with the world's presets, seed 0; four layers, counted from 0. Patching puts the target's activations into the",
    "erased model, restoration its parameters; a knowledge recovery score of 1 brings the target's logits back",
    "([hidden_knowledge.md](hidden_knowledge.md)). Depth is 0 for the target and 1 for the retrained model.",
]
_FIGURE = [
    "Above, which of the target's activations were patched into the erased model; below, which of its parameters were",
    "put back. The grey line is the retrained model, changed in the same way. Scores below 0 are drawn at 0.",
]
_FIRST = ("npo", "simnpo", "wga")


def learned(found: dict[str, Any]) -> list[str]:
    """What the numbers say, in lines."""
    alike = [name for name in METHODS if found[name]["verdict"] == "indistinguishable from never trained"]
    labels = {name: {audit: found[name]["audits"][audit]["verdict"]["label"] for audit in AUDITS} for name in METHODS}
    passed = [name for name in alike if set(labels[name].values()) == {"erased"}]
    depth = {
        name: found[name]["audits"]["unlearning_depth"]["rows"]["erased"]["unlearning_depth"]["value"]
        for name in METHODS
    }

    def top(names: Iterable[str], audit: str, layer: int | None = None, component: str = "") -> list[float]:
        return [max(_cells(found[name], audit, layer, component))[0] for name in names]

    others = [name for name in METHODS if name not in (*_FIRST, "rmu")]
    text = f"""
What was learned. Of the {_COUNTS[len(METHODS)]}, {_COUNTS[len(alike)]} cannot be told from the retrained model by their
truth ratios, and {listed(passed) or "none of them"} passes every audit. **Layer 0 carries most of it**: with the
target's MLP keys of that one layer, {listed(_FIRST)} give {_span(top(_FIRST, "patching", 0, "mlp"))} of the target's
logits back, while the later layers decode them as before; of the parameters it is layer 0's attention for these three
({_span(top(_FIRST, "restoration", 0, "attention"))}), and for rmu the value vectors that it trained
({_short(top(["rmu"], "restoration", None, "values")[0])}). No other method gets more than
{_short(max(top(others, "restoration")))} back with parameters of one layer. **Depth orders the methods otherwise than
forget quality does**: idk ({_short(depth["idk"])}) and undial ({_short(depth["undial"])}) changed little but the
answers, rmu {_short(depth["rmu"])}, {listed(_FIRST)} {_span(depth[name] for name in _FIRST)}, pdu
{_short(depth["pdu"])}; grad_diff goes deepest ({_short(depth["grad_diff"])}) and pays with utility.
{_relearning(found)} **Rounding** gives many of the changed weights the target's code, and brings nothing back.
{_membership(found)}
"""
    return textwrap.wrap(" ".join(text.split()), 118, break_on_hyphens=False, break_long_words=False)


def _membership(found: dict[str, Any]) -> str:
    said = {name: found[name]["audits"]["membership"]["verdict"]["sentence"] for name in METHODS}
    more = [name for name in METHODS if "look more like members" in said[name]]
    less = [name for name in METHODS if "look less like members" in said[name] and name not in more]
    passed = [name for name in METHODS if name not in (*more, *less)]
    unlike = f"those of {listed(less)} only less, which gives away that something was removed" if less else ""
    rest = f"{listed(passed)} pass" if passed else ""
    found_more = (
        f"**Membership attacks** find the forget rows of {listed(more)} more like members than a model that never"
    )
    return "; ".join(part for part in (f"{found_more} saw them does", unlike, rest) if part) + "."


def _relearning(found: dict[str, Any]) -> str:
    def series(name: str, quantity: str, model: str) -> dict[int, float]:
        (curve,) = (one for one in found[name]["audits"]["relearning"]["curves"] if one["y"] == quantity)
        return {point[0]: point[1] for point in curve["series"][model]}

    def highest(quantity: str, model: str) -> float:
        return max(value for name in METHODS for step, value in series(name, quantity, model).items() if step)

    curves = {name: series(name, "probability", "erased") for name in METHODS}
    soon = {name: max(value for step, value in curve.items() if 0 < step <= _SOON) for name, curve in curves.items()}
    lifted = [name for name in METHODS if soon[name] > curves[name][0]]
    least, greatest = min(lifted, key=soon.__getitem__), max(lifted, key=soon.__getitem__)
    rest = [name for name in METHODS if name not in lifted]
    fallen = " and ".join(f"that of {name}, {_short(curves[name][0])} before, falls" for name in rest)
    return (
        f"**Relearning** on half of the forget rows lifts the probability of the other half to between "
        f"{_short(soon[least])} ({least}) and {_short(soon[greatest])} ({greatest}) within {_SOON} steps"
        f"{f' ({fallen})' if rest else ''}, where the retrained model's reaches "
        f"{highest('probability', 'retrained'):.1g}; later steps wear it off again, and greedy answers give away at "
        f"most {_short(highest('leakage', 'erased'))} of the words, the retrained model's "
        f"{_short(highest('leakage', 'retrained'))}."
    )


_SOON = 10  # steps by which relearning has brought back most
_COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _span(values: Iterable[float]) -> str:
    every = list(values)
    return f"{_short(min(every))} to {_short(max(every))}"


def listed(names: Iterable[str]) -> str:
    *before, last = [*names] or [""]
    return f"{', '.join(before)} and {last}" if before else last


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
