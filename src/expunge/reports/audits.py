"""What audits found, for the page: one card an audit, in words first, then figures, then the scores by model.

Entries are read by their keys alone, whatever audit wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.reports.audit_figures import COMPONENTS, Figure, curve_figures, heat_figures, short_number
from expunge.reports.load import Run, finite, is_number
from expunge.reports.names import metric_name, metric_order, set_title
from expunge.reports.numbers import duration, sign
from expunge.reports.tables import Cell, cell, flatten

LABEL_TONES = {
    "leaks": "bad",
    "comes back": "bad",
    "hidden": "bad",
    "failed": "caution",
    "no claim": "neutral",
    "suppressed": "caution",
    "erased": "good",
}
"""The tone of an audit's label, the most alarming label first. It never carries meaning alone."""

MODELS = ("target", "erased", "retrained")
_WAITING = "it has not run yet; the same command goes on with it"
_BEYOND = "_beyond_retrained"
_DRAWN = ("heat",)
_NOT_NOTES = ("rows", "verdict", "sentence", "schema", "curves", "samples", "seconds", "details")
_MOST_NOTES = 20
_FEW_SCORES = 6
_FIGURES = 3
_SEED = re.compile(r"(.+)_seed_(\d+)")


@dataclass(frozen=True)
class AuditCard:
    """One audit. ``figures`` stand open, ``more_figures`` behind a click, and so do ``rows`` if not ``few``."""

    at: int
    title: str
    label: str
    tone: str
    words: str
    meta: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    figures: tuple[Figure, ...]
    more_figures: tuple[Figure, ...]
    notes: tuple[tuple[str, str], ...]
    key: tuple[str, ...] = ()
    repeated: bool = False

    @property
    def few(self) -> bool:
        return len(self.rows) <= _FEW_SCORES


@dataclass(frozen=True)
class AuditCards:
    """The audits of one run: ``first`` is what a reader must know before them, ``summary`` their labels in a line;
    ``waiting`` are those that the same command goes on with."""

    at: int
    first: str
    summary: str
    cards: tuple[AuditCard, ...]
    left_out: tuple[tuple[str, str], ...] = field(default=())
    waiting: tuple[tuple[str, str], ...] = field(default=())


def shown(runs: Sequence[Run]) -> tuple[list[AuditCards], list[dict[str, Any]]]:
    """The audits of every run that has some, and what the page draws of them."""
    figures: list[dict[str, Any]] = []
    found = [_cards(at, run.audits, figures) for at, run in enumerate(runs) if run.audits]
    return [one for one in found if one.cards or one.first or one.left_out or one.waiting], figures


def lede(run: Run) -> str:
    """The audits of a run in a sentence or two; empty where it has none."""
    return lede_of(run.audits) if run.audits else ""


def lede_of(audits: Mapping[str, Any]) -> str:
    """The same of the content of an ``audits.json``."""
    one = _cards(0, audits, [])
    return " ".join(part for part in (one.first, one.summary) if part)


def _cards(at: int, audits: Mapping[str, Any], figures: list[dict[str, Any]]) -> AuditCards:
    nested = audits.get("audits")
    entries = nested if isinstance(nested, Mapping) else audits
    if isinstance(entries.get("rows"), Mapping):
        entries = {"audits": entries}
    known = {str(name): entry for name, entry in entries.items() if isinstance(entry, Mapping)}
    if not isinstance(nested, Mapping):
        known.pop("left_out", None)
    cards = [_card(at, name, known[name], figures) for name in _by_audit(known)]
    first, reasons = audits.get("first"), audits.get("left_out")
    left_out = dict(reasons) if isinstance(nested, Mapping) and isinstance(reasons, Mapping) else {}
    names = audits.get("waiting")
    waiting = {str(name): left_out.pop(name, _WAITING) for name in (names if isinstance(names, list) else ())}
    return AuditCards(
        at,
        first if isinstance(first, str) else "",
        _summary(known, [str(name) for name in left_out], list(waiting)),
        tuple(cards),
        tuple((_title(str(name)), str(why)) for name, why in left_out.items()),
        tuple((_title(name), str(why)) for name, why in waiting.items()),
    )


def _by_audit(entries: Mapping[str, Any]) -> list[str]:
    """The names with all seeds of an audit together, in the order in which audits come first."""
    bases = list(dict.fromkeys(_named(name)[0] for name in entries))
    return sorted(entries, key=lambda name: (bases.index(_named(name)[0]), _named(name)[1] or 0))


def _named(name: str) -> tuple[str, int | None]:
    found = _SEED.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def _title(name: str) -> str:
    audit, seed = _named(name)
    return set_title(audit) + ("" if seed is None else f", seed {seed}")


def _words(name: str) -> str:
    audit, seed = _named(name)
    return audit.replace("_", " ") + ("" if seed is None else f", seed {seed}")


def _listed(names: Sequence[str]) -> str:
    words = [_words(name) for name in names]
    return ("; " if any("," in one for one in words) else ", ").join(words)


def _summary(entries: Mapping[str, Any], left_out: Sequence[str], waiting: Sequence[str]) -> str:
    """``Of 3 audits: hidden in 1 (patching); erased in 2 (paraphrase, membership).``"""
    found: dict[str, list[str]] = {}
    for name in _by_audit(entries):
        label = _verdict(entries[name])[0]
        if label:
            found.setdefault(label, []).append(_words(name))
    missing = f" Left out: {_listed(left_out)}." if left_out else ""
    missing += f" Still to come: {_listed(waiting)}." if waiting else ""
    if not found:
        return f"No audit has run yet.{missing}" if waiting else ""
    order = [label for label in LABEL_TONES if label in found] + [one for one in found if one not in LABEL_TONES]
    separator = "; " if any("," in name for names in found.values() for name in names) else ", "
    parts = [f"{label} in {len(found[label])} ({separator.join(found[label])})" for label in order]
    count = sum(map(len, found.values()))
    return f"Of {count} audit{'s' * (count > 1)}: {'; '.join(parts)}.{missing}"


def _verdict(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The label and the sentence; both may be empty."""
    verdict = entry.get("verdict")
    if isinstance(verdict, Mapping):
        return str(verdict.get("label") or ""), str(verdict.get("sentence") or "")
    return "", str(verdict or entry.get("sentence") or "")


def _card(at: int, name: str, entry: Mapping[str, Any], figures: list[dict[str, Any]]) -> AuditCard:
    title, seed = _title(name), _named(name)[1]
    label, words = _verdict(entry)
    columns, rows = _scores(entry.get("rows"))
    heats = list(heat_figures(at, entry, title, figures))
    curves = list(curve_figures(at, entry, figures))
    visible = [*heats, *([] if heats else curves[:_FIGURES])]
    seconds = finite(entry.get("seconds"))
    return AuditCard(
        at=at,
        title=title,
        label=label,
        tone=LABEL_TONES.get(label, "neutral"),
        words=words,
        meta=f"took {duration(seconds)}" if seconds else "",
        columns=columns,
        rows=rows,
        figures=tuple(visible),
        more_figures=tuple(one for one in curves if one not in visible),
        notes=tuple(_notes(entry)),
        key=tuple(model for model in MODELS if any(model in one.models for one in curves)),
        repeated=bool(seed),
    )


def _scores(rows: Any) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[Cell | None, ...]], ...]]:
    """Columns and rows: the models, then what the erased one has beyond the retrained one."""
    given = rows.items() if isinstance(rows, Mapping) else ()
    found = {str(model): metrics for model, metrics in given if isinstance(metrics, Mapping)}
    models = [model for model in MODELS if model in found] + [model for model in found if model not in MODELS]
    keys = [str(key) for model in models for key in found[model]]
    beyond = {key.removesuffix(_BEYOND) for key in keys if key.endswith(_BEYOND)}
    listed = metric_order(list(dict.fromkeys(key.removesuffix(_BEYOND) for key in keys)))
    table = []
    for key in listed:
        cells = [cell(_entry(found[model].get(key))) for model in models]
        if beyond:
            gain = _entry(found.get("erased", {}).get(key + _BEYOND))
            cells.append(_signed(gain) if gain is not None else None)
        table.append((_score_name(key), tuple(cells)))
    columns = [set_title(model) for model in models] + (["Erased beyond retrained"] if beyond else [])
    return tuple(columns), tuple(table)


def _signed(entry: dict[str, Any]) -> Cell | None:
    plain = cell(entry)
    return None if plain is None else Cell(sign(float(entry["value"])), plain.spread, plain.title)


def _score_name(key: str) -> str:
    if key.startswith("krs_"):
        part = key.removeprefix("krs_")
        return f"Knowledge recovered, {COMPONENTS.get(part, part.replace('_', ' '))}"
    return metric_name(key).label


def _entry(value: Any) -> dict[str, Any] | None:
    if is_number(value):
        return {"value": value}
    return dict(value) if isinstance(value, Mapping) else None


def _notes(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings and details; what is drawn or too long to be read in a list stays in ``audits.json``, which is said."""
    rest: dict[str, Any] = {key: value for key, value in entry.items() if key not in _NOT_NOTES}
    verdict, details = entry.get("verdict"), entry.get("details")
    if isinstance(verdict, Mapping):
        rest |= {key: value for key, value in verdict.items() if key not in ("sentence", "label")}
    kept, left = {}, []
    for key, value in details.items() if isinstance(details, Mapping) else ():
        if key in _DRAWN or _long(value):
            left.append(str(key))
        else:
            kept[key] = value
    yield from flatten(_rounded({**kept, **rest})) if kept or rest else ()
    if left:
        yield "in audits.json alone", ", ".join(left)


def _long(value: Any) -> bool:
    """Whether it is rather drawn than read: lists of lists and of mappings, and more leaves than a list should have."""
    if isinstance(value, Mapping):
        return any(_long(part) for part in value.values()) or _leaves(value) > _MOST_NOTES
    if isinstance(value, (list, tuple)):
        return any(isinstance(part, (Mapping, list, tuple)) for part in value) or len(value) > _MOST_NOTES
    return False


def _leaves(value: Any) -> int:
    return sum(map(_leaves, value.values())) if isinstance(value, Mapping) else 1


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return short_number(value) if isinstance(value, float) else value
