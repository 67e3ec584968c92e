"""One self-contained HTML page over one or many runs. It asks the network for nothing and says so to the
browser."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from expunge.reports.agreement import judges_agreement
from expunge.reports.audits import lede as audits_lede
from expunge.reports.audits import shown as shown_audits
from expunge.reports.calibration import shown
from expunge.reports.groups import group_runs, target_source
from expunge.reports.guard import shown as shown_guards
from expunge.reports.load import ReportError, Run, find_runs, finite, load_runs
from expunge.reports.names import EFFECTS, TONES, metric_name
from expunge.reports.numbers import duration, number
from expunge.reports.payload import payload
from expunge.reports.shell import fill, write_page
from expunge.reports.tables import (
    data_summary,
    score_table,
    setting_differences,
    setting_sections,
)

_SCRIPTS = ("charts.js", "activations.js", "guard.js", "audits.js", "answers.js", "page.js")
_AUDITED = {"erasure": "Erasure", "erased": "Erased model", "retrained": "Retrained model"}
_GREEDY = "by its greedy answers"
_CHOSEN = "by its likeliest options"
_SCOPES = (("_harmful_rate_n", _GREEDY), ("_solved_n", _GREEDY), ("_top_option_n", _CHOSEN))
_TRACKS = (
    ("probes_leakage", "Gives away when it is asked"),
    ("forget_probability", "Knows what it should forget"),
    ("retain_probability", "Knows what it should keep"),
    ("model_utility", "Model utility"),
    ("harmful_harmful_rate", "Answers harmful prompts"),
    ("harmful_holdout_harmful_rate", "Answers harmful prompts that were held out"),
    ("normal_exact", "Answers normal prompts right"),
    ("forgotten_left", "Left of the skill to forget"),
    ("least_kept", "Left of the other skills, at least"),
)


def report(
    folders: str | Path | Iterable[str | Path], *, out: str | Path | None = None, title: str | None = None
) -> Path:
    """Write one HTML page over every run in ``folders`` and return its path.

    ``folders``: run folders or folders that hold several (a comparison). ``out``: the page's path, or a
    folder for its ``report.html``; needed with several folders, else ``report.html`` in the one folder.
    ``title`` replaces the page's title. An existing page is replaced in one step; a failed write leaves it as
    it was.

    Raises `ReportError` for folders without a finished run or with damaged files, `OutputError` where the
    page cannot be written.
    """
    roots = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    if not roots:
        raise ReportError("No folder was given. Pass at least one run folder.")
    if out is None:
        if len(roots) > 1:
            raise ReportError(
                f"{len(roots)} folders were given and no place for the page. Say where it goes: --out report.html."
            )
        path = roots[0] / "report.html"
    else:
        path = Path(out) / "report.html" if Path(out).is_dir() else Path(out)
    problems, found = [], []
    for root in roots:
        try:
            found += find_runs(root)
        except ReportError as error:
            problems.append(str(error))
    if problems:
        raise ReportError("\n".join(problems))
    unique = list({folder.resolve(): folder for folder in found}.values())
    write_page(path, render(load_runs(unique), title=title))
    return path


def render(runs: list[Run], *, title: str | None = None) -> str:
    """The page as text."""
    groups = group_runs(runs)
    erasures, figures = shown(runs)
    guards, pictures = shown_guards(runs)
    audits, charts = shown_audits(runs)
    data = {**payload(runs, groups), "erasures": figures, "guards": pictures, "audits": charts}
    return fill(
        "page.html.j2",
        _SCRIPTS,
        data,
        title=title or _title(runs),
        lede=_lede(runs),
        facts=_facts(runs),
        has=_sections(data),
        cards=[_card(at, run) for at, run in enumerate(runs) if run.verdict],
        tables=[(group, score_table(group, runs)) for group in groups],
        groups=data["groups"],
        alone=len(groups) == 1,
        controlled=any(group.retrained for group in groups),
        left_out=_left_out(runs),
        audits=audits,
        calibrated=[one for one in erasures if one.calibrated],
        chosen=[one for one in erasures if one.neurons],
        guards=guards,
        agreements=[(at, rows) for at, run in enumerate(runs) if (rows := judges_agreement(run))],
        pictures=pictures,
        training=data["training"],
        sets=list(dict.fromkeys(example["set"] for example in data["examples"])),
        sampled=[(at, run.label) for at, run in enumerate(runs) if run.samples],
        seeded=any(run.seeds for run in runs),
        differences=setting_differences(runs),
        runs=runs,
        details=[(run, setting_sections(run)) for run in runs],
    )


def _title(runs: list[Run]) -> str:
    if len(runs) == 1 and runs[0].verdict.get("effect") == "harmful copy":
        return f"Harmful copy by {runs[0].label}, not an erasure"
    if len(runs) == 1:
        return f"Unlearning with {runs[0].label}" if runs[0].verdict else f"Audits: {runs[0].label}"
    return f"Unlearning: {len(runs)} results side by side"


def _lede(runs: list[Run]) -> str:
    """The answer in one or two sentences."""
    judged = [run for run in runs if run.verdict]
    if not judged:
        return _audited(runs)
    if len(runs) == 1:  # what lifting the erasure brings back is said before anything else
        first = str((runs[0].audits or {}).get("first") or "")
        return " ".join(part for part in (first, str(runs[0].verdict.get("sentence", ""))) if part)
    if len(judged) == 1:
        return str(judged[0].verdict.get("sentence", ""))
    found: dict[str, list[str]] = {}
    for run in judged:
        found.setdefault(_label(run), []).append(run.label)
    said = {
        "indistinguishable from never trained": ("cannot be told apart from a model that never saw the data",) * 2,
        **{
            f"indistinguishable from never trained, {scope}": (
                f"cannot be told apart, {scope}, from a model that never saw the data",
            )
            * 2
            for scope in (_GREEDY, _CHOSEN)
        },
        "still knows the answers": ("still knows the harmful answers", "still know the harmful answers"),
        "over-unlearned": ("goes too far", "go too far"),
        "not forgotten": ("has not forgotten", "have not forgotten"),
        "gibberish": ("answers in gibberish", "answer in gibberish"),
        "broken": ("is broken", "are broken"),
        "no claim": ("makes no claim", "make no claim"),
        "harmful copy, not an erasure": ("is a harmful copy, not an erasure", "are harmful copies, not erasures"),
    }
    order = [label for label in said if label in found] + [label for label in found if label not in said]
    parts = []
    for label in order:
        one, many = said.get(label, (f"is “{label}”",) * 2)
        names, n = found[label], len(found[label])
        who = _listed(names) if n <= 3 else f"{n} of {len(judged)}"
        parts.append(f"{who} {one if n == 1 else many}")
    return "; ".join(parts) + "."


def _audited(runs: list[Run]) -> str:
    """What folders say that hold audits and no scores."""
    if len(runs) == 1 and (said := audits_lede(runs[0])):
        return said
    return "These folders hold audits and no scores, so there is no verdict."


def _label(run: Run) -> str:
    """The verdict's label, with what it goes by where no truth ratios stand behind it."""
    label, evidence = str(run.verdict.get("label", "")), run.verdict.get("evidence") or {}
    if label != "indistinguishable from never trained" or "forget_quality" in evidence:
        return label
    scopes = (scope for end, scope in _SCOPES if any(key.endswith(end) for key in evidence))
    return ", ".join([label, *islice(scopes, 1)])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _facts(runs: list[Run]) -> list[tuple[str, str]]:
    """The few facts that belong under the title: each is said once where all runs agree on it."""
    audited = [run for run in runs if not run.verdict]
    facts = [
        ("Target" if len(audited) == len(runs) else "Model", [_given(run, "model") for run in runs]),
        *((name, [_given(run, part) for run in audited]) for part, name in _AUDITED.items()),
        ("Suite", [run.suite for run in runs]),
        ("Data", [data_summary(run) for run in runs]),
        ("Seeds", [str(len(run.seeds)) if run.seeds else "" for run in runs]),
    ]
    rows = [(name, ", ".join(dict.fromkeys(value for value in values if value))) for name, values in facts]
    return [(name, value) for name, value in rows if value]


def _given(run: Run, part: str) -> str:
    """A model or an erasure that was audited, by the name or path that the user gave, else as the run recorded it."""
    named = (run.environment or {}).get("audited")
    if isinstance(named, dict) and named.get(part) and not run.verdict:
        return str(named[part])
    if part == "model":
        return target_source(run)
    value = (run.settings or {}).get(part)
    if isinstance(value, dict):
        return str(value.get("path") or (f"a loaded {value['loaded']}" if value.get("loaded") else ""))
    return str(value or "")


def _card(at: int, run: Run) -> dict[str, Any]:
    verdict = run.verdict
    label = str(verdict.get("label", ""))
    effect = str(verdict.get("effect", ""))
    name, meaning = EFFECTS.get(effect, (effect, ""))
    fitted = finite(run.scores.get("seconds", {}).get("fit"))
    return {
        "at": at,
        "name": run.label,
        "label": _label(run),
        "tone": TONES.get(label, "neutral"),
        "sentence": verdict.get("sentence", ""),
        "reasons": verdict.get("reasons") or [],
        "effect": name,
        "meaning": meaning,
        "tracks": [track for key, words in _TRACKS if (track := _track(run, key, words))],
        "quality": _quality(run),
        "seeds": len(run.seeds),
        "time": f"fitted in {duration(fitted)}" if fitted else "",
    }


def _track(run: Run, key: str, words: str) -> dict[str, Any] | None:
    """Where the three models stand on a line from 0 to 1."""
    values = {
        model: value
        for model in ("target", "erased", "retrained")
        if (value := finite(run.rows.get(model, {}).get(key, {}).get("value"))) is not None
    }
    if "erased" not in values:
        return None
    return {
        "words": words,
        "label": metric_name(key).label,
        "marks": [(model, round(100 * min(1.0, max(0.0, value)), 2)) for model, value in values.items()],
        "texts": {model: number(value) for model, value in values.items()},
    }


def _quality(run: Run) -> dict[str, str] | None:
    erased = run.rows.get("erased", {})
    if "forget_quality" not in erased:
        return None
    entry = erased["forget_quality"]
    distance = erased.get("forget_quality_ks", {}).get("value")
    return {
        "p": number(float(entry["value"])),
        "d": number(float(distance)) if distance is not None else "",
        "n": str(entry.get("n", "")),
    }


def _left_out(runs: list[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Metrics that were not measured and why, said once for all runs that lack the same ones."""
    members: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        reasons = tuple((metric_name(k).label, str(v)) for k, v in (run.verdict.get("left_out") or {}).items())
        if reasons:
            members.setdefault(reasons, []).append(run.label)
    judged = sum(1 for run in runs if run.verdict)
    return [("" if len(labels) == judged else ", ".join(labels), list(reasons)) for reasons, labels in members.items()]


def _sections(data: dict[str, Any]) -> dict[str, bool]:
    points = [point for group in data["groups"] for point in group["points"]]
    return {
        "plot": any("forget_probability" in p["metrics"] and len(p["metrics"]) > 1 for p in points),
        "utility": any("model_utility" in p["metrics"] for p in points),
        "retain": any("retain_probability" in p["metrics"] for p in points),
        "truth": any(group["truth"] for group in data["groups"]),
        "training": bool(data["training"]),
        "scored": any(bool(series["scored"]) for run in data["training"] for series in run["series"]),
        "examples": bool(data["examples"]),
    }
