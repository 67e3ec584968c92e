"""Reading the rows of public benchmarks: where a split lies, and fields that are checked, all bad rows in one error."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from expunge.errors import RequestError, did_you_mean
from expunge.requests.files import RowsSource, Source, read
from expunge.requests.formats import READERS

T = TypeVar("T")

_SHOWN = 20
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass
class Fields:
    """One record's columns; what is wrong with them is collected in ``problems`` instead of raised."""

    record: Mapping[str, Any]
    source: str
    problems: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        return self.record.get(name) not in (None, "")

    def text(self, *names: str) -> str:
        """The text in the first of these columns that is there; "" and a problem where there is none."""
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            found = ", ".join(map(str, self.record)) or "none"
            self.problems.append(f"no {' or '.join(names)}; columns found: {found}")
            return ""
        value = self.record[name]
        if not isinstance(value, str) or not value.strip():
            self.problems.append(f"{name} is {value!r:.60}, expected text")
            return ""
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts (in CSV: a JSON or Python list); none where the column is empty or not there."""
        value = self.parsed(name)
        if value in (None, ""):
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
            self.problems.append(f"{name} is {self.record[name]!r:.60}, expected a list of texts")
            return ()
        return tuple(value)

    def parsed(self, name: str) -> Any:
        """The column's value; a text that is JSON or a Python literal (a list in CSV, say) as what it stands for."""
        value = self.record.get(name)
        return _parsed(value) if isinstance(value, str) and value.strip() else value

    def number(self, name: str) -> int:
        """A whole number from 0 (in CSV: its digits); -1 and a problem where there is none."""
        value = self.record.get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.problems.append(f"{name} is {value!r:.60}, expected a whole number from 0")
            return -1
        return value


def read_as(source: RowsSource, make: Callable[[Fields], T], name: str) -> list[T]:
    """Every record of ``source`` (as `expunge.requests.files.read` reads it) made into something by ``make``.

    One `RequestError` names the records that cannot be read or of which ``make`` noted problems (the first 20, and how
    many more).
    """
    return made(read(source, name), make)


def made(source: Source, make: Callable[[Fields], T]) -> list[T]:
    """The same for records that have been read."""
    found: list[T] = []
    problems: list[tuple[str, str]] = []
    bad = 0  # several rows may stand on one line
    for record in source.records:
        if record.problem or not isinstance(record.value, Mapping):
            problems.append((record.source, record.problem or f"found {type(record.value).__name__}, expected columns"))
            bad += 1
            continue
        fields = Fields(record.value, record.source)
        found.append(make(fields))
        problems += [(record.source, text) for text in fields.problems]
        bad += bool(fields.problems)
    if problems:
        lines = [f"{source.where}: {bad} of {len(source.records)} rows cannot be used:"]
        lines += [f"  {where}: {text}" for where, text in problems[:_SHOWN]]
        lines += [f"  .. and {len(problems) - _SHOWN} more problems."] if len(problems) > _SHOWN else []
        raise RequestError("\n".join(lines))
    if not found:
        raise RequestError(f"{source.where}: has no rows. Expected at least one.")
    return found


def split_of(data: str | Path, split: str, *, config: str, hub: str) -> str | Path:
    """Where a split of a benchmark lies: a file of the folder ``data`` (directly, or in a folder named as the
    configuration or the split) whose name begins with the split's, or the same split of a dataset of the hub.

    ``config`` is the dataset's configuration there; ``hub`` its usual id, for the error where nothing is found.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if isinstance(data, Path) or not _HUB_ID.fullmatch(str(data)):
            raise RequestError(f"{data}: is no folder and no dataset id. Pass a folder with {split} files, or {hub}.")
        return f"{data}:{config}:{split}"
    folders = [one for one in (folder, folder / config, folder / split) if one.is_dir()]
    files = sorted(path for one in folders for path in one.iterdir() if path.suffix.lower() in READERS)
    found = [path for path in files if re.match(rf"{split}(?![a-z])", path.name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path.relative_to(folder)) for path in found[:5])
        raise RequestError(f"{folder}: several files could be the split {split}: {listed}. Leave one of them there.")
    hint = did_you_mean(split, [path.name for path in files]) if files else "It holds no files of rows."
    raise RequestError(f"{folder}: has no {split} file ({split}.jsonl, .json, .parquet or .csv), nor {hub}'s. {hint}")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
