"""Documents out of files: plain text, Markdown, HTML, PDF, and JSONL with one document a line."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from expunge.errors import RequestError
from expunge.requests.documents.markup import from_html, from_markdown
from expunge.requests.formats import one_line, read_file

_TEXT_FIELDS = ("text", "passage", "document", "content")
_PASSED_OVER = ("readme", "license", "licence")  # they describe a folder rather than belong to it
_LISTED = 20
_LOST = "\N{REPLACEMENT CHARACTER}"
# Control characters that no text has; of random bytes they are a tenth.
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\n\v\f\r\b\x1b"))
_CONTROLS_IN_TEXT = 0.02

_log = logging.getLogger(__name__)
_DECLARED = re.compile(rb"charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_HYPHENATED = re.compile(r"(?<=[^\W\d_])-\n(?=[a-zà-öø-ÿ])")


@dataclass(frozen=True, slots=True)
class Document:
    """One text; ``source`` says where it stands (``life.html``, ``lives.jsonl:3``), ``title`` is empty where it has
    none."""

    text: str
    source: str
    title: str = ""


class _UnusableError(Exception):
    """Why a file gives no document."""


def read_documents(source: str | PathLike[str], columns: Mapping[str, str] | None = None) -> tuple[Document, ...]:
    """The documents of a file or of a folder and those below it, in the order of their names.

    Read are .txt, .md, .html and .htm, .pdf (with pypdf) and .jsonl, whose lines hold a ``text``, ``passage``,
    ``document`` or ``content`` and perhaps a ``title``; ``columns`` may map text and title to other fields. Text is
    UTF-8; an HTML page may declare another charset. Hidden files, README and LICENSE are passed over. Texts in which an
    earlier conversion lost characters (U+FFFD stands for them) are named in a warning.

    Raises:
        RequestError: nothing there, or documents that cannot be read (empty, binary, of unknown type, in another
            encoding): all of them in one error.
    """
    place = Path(os.fspath(source)).expanduser()
    if not place.exists():
        raise RequestError(f"documents: there is no file or folder {place}. Pass one that holds the documents.")
    files = sorted(_files(place)) if place.is_dir() else [place]
    if not files:
        raise RequestError(
            f"documents: the folder {place} holds no files to read. Put the documents into it ({' '.join(_READERS)})."
        )
    found: list[Document] = []
    problems: list[str] = []
    for path in files:
        name = path.relative_to(place).as_posix() if place.is_dir() else path.name
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            kind = path.suffix or "no suffix"
            problems.append(f"{name}: {kind} is not read, expected {' '.join(_READERS)}; convert it or move it away")
            continue
        for document in _read(reader, path, name, dict(columns or {})):
            if isinstance(document, str):
                problems.append(document)
            else:
                found.append(document)
    if problems:
        more = [f"  .. and {len(problems) - _LISTED} more."] if len(problems) > _LISTED else []
        raise RequestError(
            "\n".join(
                [f"documents: {place}: {len(problems)} cannot be used:"]
                + [f"  {problem}" for problem in problems[:_LISTED]]
                + more
            )
        )
    _warn_of_lost(found)
    return tuple(found)


def _warn_of_lost(documents: list[Document]) -> None:
    counts = {one.source: one.text.count(_LOST) for one in documents if _LOST in one.text}
    if counts:
        named = [f"{source} ({count})" for source, count in list(counts.items())[:_LISTED]]
        more = [f"{len(counts) - _LISTED} more"] if len(counts) > _LISTED else []
        _log.warning(
            "%d characters (U+FFFD) were lost when these documents were converted before: %s. Convert the originals "
            "anew, with their right encoding.",
            sum(counts.values()),
            ", ".join([*named, *more]),
        )


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.stem.lower() not in _PASSED_OVER:
            yield path


_Reader = Callable[[Path, str, dict[str, str]], Iterator["Document | str"]]


def _read(reader: _Reader, path: Path, name: str, columns: dict[str, str]) -> Iterator[Document | str]:
    """The documents of a file, and what is wrong with it in words."""
    try:
        yield from reader(path, name, columns)
    except _UnusableError as problem:
        yield f"{name}: {problem}"
    except RequestError as error:  # of the readers that rows have too; it begins with the path
        yield str(error).replace(f"{path}: ", f"{name}: ", 1)
    except OSError as error:
        yield f"{name}: cannot be read ({error.strerror or error})"


def _text_file(path: Path, name: str, _: dict[str, str]) -> Iterator[Document]:
    yield _document(_decoded(path.read_bytes()), name)


def _markdown_file(path: Path, name: str, _: dict[str, str]) -> Iterator[Document]:
    text, title = from_markdown(_decoded(path.read_bytes()))
    yield _document(text, name, title)


def _html_file(path: Path, name: str, _: dict[str, str]) -> Iterator[Document]:
    raw = path.read_bytes()
    declared = _DECLARED.search(raw[:2048])
    text, title = from_html(_decoded(raw, declared[1].decode("ascii", "replace") if declared else None))
    yield _document(text, name, title)


def _pdf_file(path: Path, name: str, _: dict[str, str]) -> Iterator[Document]:
    try:
        import pypdf
    except ImportError:
        raise _UnusableError(
            "PDF is read with pypdf, which is not installed; pip install 'expunge[documents]', or convert it to text"
        ) from None
    try:
        reader = pypdf.PdfReader(io.BytesIO(path.read_bytes()))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _UnusableError("the PDF is locked with a password; save it without one")
        pages = [page.extract_text() for page in reader.pages]
        title = str((reader.metadata.title if reader.metadata else None) or "")
    except _UnusableError:
        raise
    except Exception as error:  # damaged files make pypdf raise many kinds, from its own to KeyError and RecursionError
        raise _UnusableError(f"is not a readable PDF ({type(error).__name__}: {one_line(error)})") from error
    text = "\n\n".join(_HYPHENATED.sub("", page).strip() for page in pages)
    if not text.strip():
        raise _UnusableError(f"the PDF has no text on its {len(pages)} pages; recognise the text of scans (OCR) first")
    yield _document(text, name, title)


def _jsonl_file(path: Path, name: str, columns: dict[str, str]) -> Iterator[Document | str]:
    fields = (columns["text"],) if "text" in columns else _TEXT_FIELDS
    empty = True
    for record in read_file(path, name):
        empty = False
        if record.problem:
            yield f"{record.source}: {record.problem}"
            continue
        plain = {str(key).strip().lower(): value for key, value in record.value.items()} | record.value
        text = next((plain[field] for field in fields if field in plain), None)
        title = plain.get(columns.get("title", "title"))
        if not isinstance(text, str) or not text.strip():
            has = "no text in" if any(field in plain for field in fields) else "none of the fields"
            shown = ", ".join(map(str, record.value)) or "none"
            yield (
                f"{record.source}: {has} {', '.join(fields)} (fields found: {shown}); name the one that holds the text "
                "(--column text=NAME)"
            )
        else:
            yield _document(text, record.source, title if isinstance(title, str) else "")
    if empty:
        raise _UnusableError("is empty; put text into it or take it away")


_READERS: dict[str, _Reader] = {
    ".txt": _text_file,
    ".md": _markdown_file,
    ".html": _html_file,
    ".htm": _html_file,
    ".pdf": _pdf_file,
    ".jsonl": _jsonl_file,
}


def _document(text: str, name: str, title: str = "") -> Document:
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not text:
        raise _UnusableError("has no text; put text into it or take it away")
    return Document(text, name, " ".join(title.split()))


def _decoded(raw: bytes, declared: str | None = None) -> str:
    """UTF-8, or else what an HTML page declares."""
    if not raw.strip():
        raise _UnusableError("is empty; put text into it or take it away")
    for mark, encoding in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if raw.startswith(mark):
            raise _UnusableError(
                f"is {encoding} (byte 0x{raw[0]:02x} at offset 0), expected UTF-8; {_convert(encoding)}"
            )
    binary = raw.find(b"\0")
    if binary >= 0 or raw.startswith(b"%PDF-"):
        what = "a PDF; name it .pdf" if binary < 0 else f"binary (byte 0x00 at offset {binary}), expected text"
        raise _UnusableError(f"is {what}")
    controls = len(raw) - len(raw.translate(None, _CONTROLS))
    if controls > _CONTROLS_IN_TEXT * len(raw):
        raise _UnusableError(f"is binary ({controls} of {len(raw)} bytes are control characters), expected text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if declared is not None:
            try:
                return raw.decode(declared)
            except (LookupError, UnicodeDecodeError):
                pass
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x} at offset {error.start} (line {line})"
        raise _UnusableError(f"{found} is not UTF-8; {_convert('WINDOWS-1252')}") from error


def _convert(encoding: str) -> str:
    return f"convert it, such as with: iconv -f {encoding} -t UTF-8 OLD > NEW"
