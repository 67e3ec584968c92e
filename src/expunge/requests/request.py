"""The removal request: what must go, what must stay, and the rows that check both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from expunge.errors import RequestError
from expunge.requests.columns import check_columns
from expunge.requests.files import RowsSource, read
from expunge.requests.recognise import SHOWN, rows_of
from expunge.requests.responses import Responses
from expunge.requests.rows import Row

SETS = ("forget", "retain", "neighbours", "holdout", "calibration", "probes")
_UNSAFE = ("forget", "holdout")  # where responses are marked, these sets take the unsafe ones, the others the safe ones
_ALLOWED = (
    "--allow-overlap where the command has it, else the setting request.allow_overlap=true; in Python "
    "allow_overlap=True"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What must be forgotten and what must stay.

    ``forget``: rows to remove. ``retain``: rows to keep, which methods may be fitted on. ``neighbours``:
    close facts that must stay. ``holdout``: rows like the forget rows that no model was trained on.
    ``calibration``: retain rows that no method is fitted on. ``probes``: questions about what must go that no method is
    fitted on. ``subjects`` and ``aliases``: the names of who
    or what is forgotten. ``substitutes``: other names of the same kind, for methods that put them in the place of the
    subject's; none of them may be one of its names. ``ignored_names``: parts of the subjects' names that are not to be
    taken for them, since they mean something or somebody else too (a last name that a relative has, a first name that
    is a common word).
    """

    forget: tuple[Row, ...]
    retain: tuple[Row, ...] = ()
    neighbours: tuple[Row, ...] = ()
    holdout: tuple[Row, ...] = ()
    calibration: tuple[Row, ...] = ()
    probes: tuple[Row, ...] = ()
    subjects: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()
    ignored_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name not in SETS:
                object.__setattr__(self, part.name, _names(value, part.name))
            elif not isinstance(value, tuple):
                object.__setattr__(self, part.name, tuple(value))
        if not self.forget:
            raise RequestError("The request has no forget rows. Pass at least one row that must go.")
        own = {name.casefold() for name in (*self.subjects, *self.aliases)}
        taken = [name for name in self.substitutes if name.casefold() in own]
        if taken:
            raise RequestError(
                f"substitutes: {', '.join(taken)} must be forgotten, so it cannot stand in the place of what must go. "
                "Take it out of the substitutes or of subjects and aliases."
            )
        both = [name for name in self.ignored_names if name.casefold() in own]
        if both:
            raise RequestError(
                f"ignored_names: {', '.join(both)} is a subject or an alias, so it cannot be ignored. Take it out of "
                "one of them."
            )

    @classmethod
    def load(
        cls,
        forget: RowsSource,
        *,
        retain: RowsSource | None = None,
        neighbours: RowsSource | None = None,
        holdout: RowsSource | None = None,
        calibration: RowsSource | None = None,
        probes: RowsSource | None = None,
        subjects: Iterable[str] = (),
        aliases: Iterable[str] = (),
        substitutes: Iterable[str] = (),
        ignored_names: Iterable[str] = (),
        columns: Mapping[str, str] | None = None,
        allow_overlap: bool = False,
    ) -> Request:
        """Load and check every set of a request.

        Each set is a file, a folder, a dataset id or a list (see `files.read`); its schema is recognised (see
        `recognise`) or given by ``columns``, role -> column name, which holds for every set that has those
        columns. Where responses are marked (PKU-SafeRLHF, BeaverTails), forget and holdout take the unsafe ones and
        the other sets the safe ones, so that one file can be passed for both.

        Raises one `RequestError` with all problems of all sets; also where a forget row is in another set too
        (its text, letter case and white space aside), unless ``allow_overlap``.
        """
        mapping = check_columns(columns)
        given = dict(zip(SETS, (forget, retain, neighbours, holdout, calibration, probes), strict=True))
        used: set[str] = set()
        loaded: dict[str, tuple[Row, ...]] = {}
        errors: list[str] = []
        for name, source in given.items():
            if source is None:
                continue
            try:
                meant: Responses = "unsafe" if name in _UNSAFE else "safe"
                loaded[name] = tuple(rows_of(read(source, name), mapping, used, meant))
            except RequestError as error:
                errors.append(str(error))
        if errors:
            raise RequestError("\n".join(errors))
        _check_used(mapping, used)
        request = cls(
            **loaded,
            subjects=_names(subjects, "subjects"),
            aliases=_names(aliases, "aliases"),
            substitutes=_names(substitutes, "substitutes"),
            ignored_names=_names(ignored_names, "ignored_names"),
        )
        if not allow_overlap:
            request.check_overlap()
        return request

    @property
    def sets(self) -> dict[str, tuple[Row, ...]]:
        """The sets that have rows, by name, forget first."""
        return {name: rows for name in SETS if (rows := getattr(self, name))}

    def check_overlap(self, only: str | None = None) -> None:
        """Raise a `RequestError` that lists the forget rows which are in another set too, or in the set ``only``, for
        whoever cannot use it then, whatever was allowed."""
        wanted: dict[tuple[str, ...], Row] = {}
        for row in self.forget:
            wanted.setdefault(row.key, row)
        shared = [
            (name, wanted[row.key], row)
            for name, rows in self.sets.items()
            if name != "forget" and only in (None, name)
            for row in rows
            if row.key in wanted
        ]
        if not shared:
            return
        lines = [
            f"  forget {ours.source or '?'} = {name} {theirs.source or '?'}: {_short(ours)}"
            for name, ours, theirs in shared[:SHOWN]
        ]
        if len(shared) > SHOWN:
            lines.append(f"  .. and {len(shared) - SHOWN} more.")
        raise RequestError(
            f"rows that must be forgotten are also in a set that must not hold them ({len(shared)}):\n"
            + "\n".join(lines)
            + "\nTake them out of one side"
            + ("." if only else f", or allow it ({_ALLOWED}).")
        )

    def with_calibration(self, fraction: float = 0.2, seed: int = 0) -> Request:
        """The request with calibration rows: its own, else ``fraction`` of each group of the retain rows split off.

        The choice depends on the rows' texts and ``seed`` alone, not on their order or the Python version;
        equal rows stay together, so that nothing a method is fitted on is also calibrated on.
        """
        if self.calibration:
            return self
        if not 0 < fraction < 1:
            raise RequestError(f"The calibration fraction is {fraction}, expected a number between 0 and 1.")
        groups: dict[str, set[tuple[str, ...]]] = {}
        for row in self.retain:
            groups.setdefault(row.group, set()).add(row.key)
        chosen: set[tuple[str, ...]] = set()
        for keys in groups.values():
            ranked = sorted(keys, key=lambda key: _sha256([seed, list(key)]))
            chosen.update(ranked[: min(max(1, round(fraction * len(ranked))), len(ranked) - 1)])
        if not chosen:
            raise RequestError(
                "Calibration rows are split off the retain rows, of which no group has 2 different ones. Pass more "
                "retain rows, or calibration rows of their own."
            )
        return replace(
            self,
            retain=tuple(row for row in self.retain if row.key not in chosen),
            calibration=tuple(row for row in self.retain if row.key in chosen),
        )

    def digest(self) -> dict[str, dict[str, int | str]]:
        """Per set that has rows: their number and the SHA-256 of their content and order."""
        return {name: {"rows": len(rows), "sha256": rows_sha256(rows)} for name, rows in self.sets.items()}


def load_rows(
    source: RowsSource,
    *,
    name: str = "rows",
    columns: Mapping[str, str] | None = None,
    responses: Responses | None = None,
) -> tuple[Row, ...]:
    """The rows of one source (training data, documents), read and checked as a set of a request is.

    ``responses`` says which rows of a safety set are meant, whose responses are marked safe or unsafe; a set with such
    marks needs it, others pass it over.

    Raises `RequestError` with all its problems.
    """
    mapping, used = check_columns(columns), set[str]()
    rows = tuple(rows_of(read(source, name), mapping, used, responses))
    _check_used(mapping, used)
    if not rows:
        raise RequestError(f"{name}: has no rows. Pass at least one.")
    return rows


def rows_sha256(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) of the rows' canonical JSON: sorted keys, UTF-8, every field but the source and an empty group."""
    names = [part.name for part in fields(Row) if part.name != "source"]
    return _sha256([{name: getattr(row, name) for name in names if name != "group" or row.group} for row in rows])


def _sha256(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _check_used(mapping: tuple[tuple[str, str], ...], used: set[str]) -> None:
    unused = [f"{role}={column}" for role, column in mapping if column not in used]
    if unused:
        raise RequestError(
            f"columns: no row has the mapped column of {', '.join(unused)}. Correct the name or drop the mapping."
        )


def _names(names: Iterable[str], what: str) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names)
    for name in found:
        if not isinstance(name, str) or not name.strip():
            raise RequestError(f"{what}: found {name!r}, expected a name.")
    return tuple(name.strip() for name in found)


def _short(row: Row) -> str:
    text = " ".join((row.prompt or row.answer).split())
    return text if len(text) <= 60 else text[:60] + ".."
