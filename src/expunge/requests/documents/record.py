"""The folder ``request/`` that keeps what documents and a name gave: the rows as JSONL, and what they were made of.

request.json      the subjects and aliases, every form found, the neighbours, settings, SHA-256 of the documents
documents.jsonl   documents that name a subject        probes.jsonl       questions about the subjects
others.jsonl      documents that name none             neighbours.jsonl   questions about the names beside them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expunge.errors import RequestError
from expunge.files import new_folder, write_json, write_text
from expunge.requests.documents.aliases import Alias
from expunge.requests.documents.make import MadeRequest
from expunge.requests.documents.neighbours import Neighbour
from expunge.requests.rows import Row, RowKind

SCHEMA = 1
_FACTS = "request.json"
_SETS = ("documents", "others", "probes", "neighbours")
# kind of a row -> the columns of its prompt and its answer; such files can be passed as rows anywhere
_COLUMNS: dict[RowKind, tuple[str, str]] = {
    "document": ("", "text"),
    "completion": ("prompt", "completion"),
    "question": ("question", "answer"),
}


def kept_request(run: Path) -> Path | None:
    """The folder in which a run, or that of its seeds, kept what its documents gave; None where there is none."""
    return next((folder for folder in (run / "request", run.parent / "request") if is_made(folder)), None)


def is_made(folder: Path) -> bool:
    """Whether a request was written into ``folder``."""
    return (folder / _FACTS).is_file()


def save_made(made: MadeRequest, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``made`` and the ``settings`` that it came from; the folder appears whole or not at all."""
    with new_folder(folder) as new:
        for name in _SETS:
            lines = [json.dumps(_values(row), ensure_ascii=False) for row in getattr(made, name)]
            write_text(new / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        facts = {
            "schema": SCHEMA,
            "subjects": list(made.subjects),
            "aliases": list(made.aliases),
            "ignored_names": list(made.ignored_names),
            "settings": dict(settings),
            "rows": {name: len(getattr(made, name)) for name in _SETS},
            "names": {subject: [asdict(form) for form in forms] for subject, forms in made.names.items()},
            "entities": [asdict(one) for one in made.entities],
            "documents": dict(made.digests),
        }
        write_json(new / _FACTS, facts)


def load_made(folder: Path) -> tuple[MadeRequest, dict[str, Any]]:
    """What :func:`save_made` wrote: the request and its settings.

    Raises:
        RequestError: files that are missing or were changed by hand so that they cannot be read.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            raise ValueError(f"its schema is {facts['schema']}, this version reads {SCHEMA}")
        sets = {name: _rows(folder / f"{name}.jsonl") for name in _SETS}
        made = MadeRequest(
            **sets,
            subjects=tuple(facts["subjects"]),
            aliases=tuple(facts["aliases"]),
            names={
                subject: tuple(Alias(**{**form, "contexts": tuple(form["contexts"])}) for form in forms)
                for subject, forms in facts["names"].items()
            },
            entities=tuple(Neighbour(**{**one, "contexts": tuple(one["contexts"])}) for one in facts["entities"]),
            digests=facts["documents"],
            ignored_names=tuple(facts.get("ignored_names", ())),  # records of earlier versions have none
        )
        return made, facts["settings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{folder} does not hold a request made from documents ({type(error).__name__}: {error}). Pass the "
            "documents themselves, or the folder request/ of a run as it was written."
        ) from error


def _values(row: Row) -> dict[str, str]:
    prompt, answer = _COLUMNS[row.kind]
    return {**({prompt: row.prompt} if prompt else {}), answer: row.answer, "source": row.source}


def _rows(path: Path) -> tuple[Row, ...]:
    found = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            value = json.loads(line)
            kind = next(kind for kind, (_, answer) in _COLUMNS.items() if answer in value)
            prompt, answer = _COLUMNS[kind]
            text = value[prompt] if prompt else ""
            found.append(Row(text, value[answer], kind=kind, source=value.get("source") or path.name))
    return tuple(found)
