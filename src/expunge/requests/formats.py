"""The file formats that rows are read from: one reader a format, giving records and where each begins."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import RequestError

_CSV_FIELD_LIMIT = 2**31 - 1  # the module's own 128 KiB is less than one book; a C long holds this everywhere


@dataclass(frozen=True, slots=True)
class Record:
    """One object as it was read.

    ``value`` is a dict of columns (or a `Row` passed in memory), unless ``problem`` says why there is none.
    """

    source: str
    value: Any = None
    problem: str = ""


def read_file(path: Path, label: str) -> Iterator[Record]:
    """The records of one file; ``label`` is what their sources are called by (``forget.jsonl``)."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        packed = " Unpack it first." if path.suffix.lower() in {".gz", ".zip", ".bz2", ".xz", ".zst"} else ""
        raise RequestError(
            f"{path}: files of type '{path.suffix or 'none'}' are not read. Expected {' '.join(READERS)}.{packed}"
        )
    return reader(path, label)


def one_line(error: Exception) -> str:
    """The message of a foreign error as one short sentence."""
    text = " ".join(str(error).split())
    text = text[:300] + ".." if len(text) > 300 else text
    return text if text.endswith((".", "!", "?")) else text + "."


def _read_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RequestError(f"{path}: is UTF-16 text, expected UTF-8. Save it again as UTF-8.")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _read_text(path: Path) -> str:
    raw = _read_bytes(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{path}: {path.name}:{line}: {_not_utf8(error)}. Save the file again as UTF-8.") from error


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"found byte 0x{error.object[error.start]:02x}, expected UTF-8 text"


def _read_jsonl(path: Path, label: str) -> Iterator[Record]:
    # On "\n" alone: str.splitlines would also cut inside texts that hold U+2028 or U+0085.
    for number, raw in enumerate(_read_bytes(path).split(b"\n"), 1):
        if not raw.strip():
            continue
        source = f"{label}:{number}"
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Record(source, problem=_not_utf8(error))
        except (ValueError, RecursionError) as error:
            yield Record(source, problem=_broken_json(error, raw.decode("utf-8")))
        else:
            yield _object(source, value, "one JSON object on each line")


def _broken_json(error: Exception, text: str) -> str:
    text = text.strip()
    shown = text if len(text) <= 60 else text[:60] + ".."
    if not isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({type(error).__name__}): found {shown!r}, expected one JSON object"
    return f"broken JSON ({error.msg}, column {error.colno}): found {shown!r}, expected one JSON object"


def _object(source: str, value: object, expected: str) -> Record:
    if isinstance(value, dict):
        return Record(source, value)
    kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
    return Record(source, problem=f"found {kind}, expected {expected}")


def _read_json(path: Path, label: str) -> Iterator[Record]:
    text = _read_text(path)
    start = _blank(text, 0)
    if start == len(text):
        return
    if text[start] == "[":
        yield from _json_list(text, start, label)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            raise RequestError(
                f"{path}: {label}:{error.lineno}: found a second JSON value, expected one in the whole file. "
                "If it has one object on each line, name it .jsonl."
            ) from error
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        problem = _broken_json(error, text.split("\n")[line - 1])
        raise RequestError(f"{path}: {label}:{line}: {problem}.") from error
    yield from _json_object(path, value, label)


def _blank(text: str, start: int) -> int:
    """The first position from ``start`` on that is not JSON white space."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def _json_list(text: str, start: int, label: str) -> Iterator[Record]:
    """The elements of a list one at a time, because only so is it known on which line each begins."""
    decoder, line, counted = json.JSONDecoder(), 1, 0
    position = _blank(text, start + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
            yield _object(f"{label}:{line}", value, "a list of JSON objects")
            position = _blank(text, position)
            closed = text[position : position + 1] == "]"
            if not closed and text[position : position + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        except json.JSONDecodeError as error:
            found = text.split("\n")[error.lineno - 1]
            yield Record(f"{label}:{error.lineno}", problem=_broken_json(error, found))
            return
        except RecursionError as error:
            yield Record(f"{label}:{line}", problem=_broken_json(error, text[counted : counted + 80]))
            return
        if not closed:
            position = _blank(text, position + 1)
    rest = _blank(text, position + 1)
    if rest < len(text):
        line = text.count("\n", 0, rest) + 1
        yield Record(f"{label}:{line}", problem=f"found {text[rest : rest + 20]!r} after the end of the list")


def _json_object(path: Path, value: Any, label: str) -> Iterator[Record]:
    lists = isinstance(value, dict) and bool(value) and all(isinstance(v, list) for v in value.values())
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        rows = value["data"]
    elif lists and all(isinstance(row, dict) for group in value.values() for row in group):
        rows = [row for group in value.values() for row in group]  # grouped: {"a person": [{..}, ..], ..}
    elif lists:
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name}: {length}" for name, length in list(lengths.items())[:5])
            raise RequestError(f"{path}: the columns have different lengths ({shown}), expected equal ones.")
        rows = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    else:
        keys = ", ".join(list(value)[:8]) if isinstance(value, dict) else type(value).__name__
        raise RequestError(
            f'{path}: found one JSON value ({keys}), expected a list of objects, {{"data": [..]}} or columns '
            '{"question": [..], "answer": [..]}.'
        )
    for index, row in enumerate(rows, 1):
        yield _object(f"{label}:row {index}", row, "JSON objects")


def _read_table(path: Path, label: str) -> Iterator[Record]:
    text = _read_text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    before = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        yield from list(_table_rows(path, text, delimiter, label))
    finally:
        csv.field_size_limit(before)


def _table_rows(path: Path, text: str, delimiter: str, label: str) -> Iterator[Record]:
    # strict: without it an unclosed quote swallows the rest of the file without a word.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        source = f"{label}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield Record(source, problem=f"broken quotes ({error}); inside a quoted field a quote is written twice")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = cells
            twice = sorted({name for name in header if name and header.count(name) > 1})
            if twice:
                raise RequestError(f"{path}: the header names a column twice: {', '.join(twice)}. Rename one.")
        elif len(cells) != len(header):
            yield Record(
                source,
                problem=f"found {len(cells)} fields, expected {len(header)} as in the header "
                f"({', '.join(header)}); put quotes around a field that holds the separator",
            )
        else:
            yield Record(source, dict(zip(header, cells, strict=True)))


def _read_parquet(path: Path, label: str) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    if not path.stat().st_size:
        return
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise RequestError(f"{path}: is not a readable Parquet file: {one_line(error)}") from error
    for index, row in enumerate(rows, 1):
        yield Record(f"{label}:row {index}", row)


def _read_document(path: Path, label: str) -> Iterator[Record]:
    text = _read_text(path).strip("\r\n")
    if text.strip():
        yield Record(label, {"text": text})


READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
    ".txt": _read_document,
    ".md": _read_document,
}
