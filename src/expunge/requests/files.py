"""Raw records out of whatever the user has: files, folders, datasets of the hub, lists in memory.

Nothing here knows what a question is. A record is one object with a label that leads back to where it stands
(``forget.jsonl:7``), or, where it could not be read, the reason; the reasons travel with the good records so
that all problems of a file can be reported together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

from expunge.errors import RequestError
from expunge.requests.formats import READERS, Record, one_line, read_file
from expunge.requests.rows import Row

RowsSource = str | PathLike[str] | Iterable[Mapping[str, Any] | Row]

_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(?::(?P<config>[^:/\\]*))?(?::(?P<split>[^:/\\]+))?")
_NOT_DATA = ("readme", "license", "licence")  # they describe a folder rather than belong to its data


@dataclass(frozen=True, slots=True)
class Source:
    """Everything read from one place; ``where`` is what the user passed, in full."""

    where: str
    records: list[Record]


def read(source: RowsSource, name: str = "rows") -> Source:
    """Read all records of ``source``.

    ``source`` is a file (.jsonl .json .csv .tsv .parquet, or .txt and .md, where one file is one document), a
    folder (written by ``datasets.save_to_disk``, or holding such files), the id of a dataset on the hub
    (``owner/name[:config[:split]]``, split ``train`` unless given), or a list of dicts or `Row`. ``name``
    labels the records of a list (``forget[0]``).

    Raises `RequestError` where there is nothing to read: a missing or empty file, an unknown file type, a hub
    that does not answer. Single records that cannot be read are returned with their problem.
    """
    if isinstance(source, Mapping):
        raise RequestError(f"{name}: got one dict, expected a list of dicts, one for each row (or a path).")
    if not isinstance(source, str | PathLike):
        return Source(name, _from_memory(source, name))
    text = os.fsdecode(source)
    if not text.strip():
        raise RequestError(f"{name}: the path is empty. Pass a file, a folder or a dataset id (owner/name).")
    try:
        path, split = _locate(text)
        if path is None:
            return Source(text, _read_hub(text))
        records = list(_read_folder(path, split) if path.is_dir() else read_file(path, path.name))
    except OSError as error:
        shown = text if len(text) <= 200 else text[:200] + ".."
        raise RequestError(f"{shown}: cannot be read ({error.strerror or error}).") from error
    if not records:
        what = "folder has no rows" if path.is_dir() else "file is empty"
        raise RequestError(f"{text}: the {what}. Expected at least one row.")
    return Source(text, records)


def _from_memory(items: object, name: str) -> list[Record]:
    if not isinstance(items, Iterable):
        raise RequestError(
            f"{name}: got {type(items).__name__}, expected a path, a dataset id or a list of dicts or Rows."
        )
    records = []
    for index, item in enumerate(items):
        source = f"{name}[{index}]"
        if isinstance(item, Row | Mapping):
            records.append(Record(source, item))
        else:
            records.append(Record(source, problem=f"found {type(item).__name__}, expected a dict or a Row"))
    return records


def _locate(text: str) -> tuple[Path | None, str | None]:
    """The path that is meant and the split asked for; no path means that only the hub can have it."""
    path = Path(text).expanduser()
    if path.exists():
        return path, None
    head, _, split = text.rpartition(":")
    if head and (Path(head).expanduser() / "dataset_dict.json").is_file():
        return Path(head).expanduser(), split
    if path.suffix.lower() not in READERS and not path.is_absolute() and _HUB_ID.fullmatch(text):
        return None, None
    raise RequestError(f"{text}: there is no such file or folder. {_near(path)}".rstrip())


def _near(path: Path) -> str:
    """A hint about the file that was perhaps meant."""
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either."
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return ""
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    near = near or [name for name in sorted(names) if Path(name).stem == path.stem][:3]
    if near:
        return f"Did you mean {' or '.join(str(folder / name) for name in near)}?"
    return f"Nothing in {folder} has a name like it."


def _read_hub(text: str) -> list[Record]:
    match = _HUB_ID.fullmatch(text)
    if match is None:  # _locate has matched it before
        raise RequestError(f"{text}: is not a dataset id (owner/name[:config[:split]]).")
    name, config, split = match["name"], match["config"] or None, match["split"] or "train"
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split).to_list()
    except Exception as error:
        # The hub client raises many kinds: no network, no such dataset or split, no permission.
        path = Path(text)
        hint = f" {_near(path)}" if path.parent.is_dir() else ""
        raise RequestError(
            f"{text}: is no file or folder here, and loading it from the hub failed. Tried dataset '{name}', "
            f"configuration {config or '(default)'}, split '{split}': {type(error).__name__}: "
            f"{one_line(error)} Check the id (owner/name[:config[:split]]) and the network, or pass a "
            f"file.{hint}"
        ) from error
    if not rows:
        raise RequestError(f"{text}: split '{split}' of dataset '{name}' has no rows.")
    return [Record(f"{text}:row {index}", row) for index, row in enumerate(rows, 1)]


def _read_folder(folder: Path, split: str | None) -> Iterator[Record]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        yield from _read_saved_dataset(folder, split)
        return
    files: list[Path] = []
    unknown: list[Path] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not path.is_file() or path.stem.lower() in _NOT_DATA:
            continue
        (files if path.suffix.lower() in READERS else unknown).append(path)
    if unknown:
        names = ", ".join(str(path.relative_to(folder)) for path in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise RequestError(
            f"{folder}: holds files that cannot be read as rows: {names}{more}. Expected only "
            f"{' '.join(READERS)} (README and LICENSE are passed over). Move them out, or pass one file."
        )
    for path in files:
        records = list(read_file(path, f"{folder.name}/{path.relative_to(folder).as_posix()}"))
        if not records:
            raise RequestError(f"{path}: the file is empty. Expected at least one row.")
        yield from records


def _read_saved_dataset(folder: Path, split: str | None) -> Iterator[Record]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow, json and the filesystem each raise their own kinds
        raise RequestError(
            f"{folder}: is a saved dataset that cannot be loaded: {type(error).__name__}: {one_line(error)} "
            "Save it again with save_to_disk."
        ) from error
    label = folder.name
    if isinstance(loaded, datasets.DatasetDict):
        chosen = split or ("train" if "train" in loaded or len(loaded) != 1 else next(iter(loaded)))
        if chosen not in loaded:
            raise RequestError(
                f"{folder}: has no split '{chosen}'. Splits found: {', '.join(sorted(loaded)) or 'none'}. "
                f"Name one as {folder}:SPLIT."
            )
        label, loaded = f"{label}:{chosen}", loaded[chosen]
    for index, row in enumerate(loaded.to_list(), 1):
        yield Record(f"{label}:row {index}", row)
