"""From a run file's ``request`` section to the request that its documents make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import RequestError
from expunge.requests.documents.aliases import Alias
from expunge.requests.documents.make import Complete, MadeRequest, left_out, make_request, resolve_names
from expunge.requests.documents.neighbours import make_finder
from expunge.requests.documents.reading import Document, read_documents
from expunge.requests.documents.record import is_made, load_made
from expunge.requests.request import Request, load_rows

if TYPE_CHECKING:
    from expunge.config.run_file import RequestSpec

Names = dict[str, tuple[Alias, ...]]
_TEXT_ROLES = ("text", "title")  # mapped columns of documents; others are those of rows
_SETTINGS = ("questions", "questions_model", "tagger", "propose", "columns")


def resolve(spec: RequestSpec) -> tuple[RequestSpec, Names]:
    """The section with its aliases and ignored names settled, and every form of each subject; what it resolves to
    resolves to itself.

    Raises:
        RequestError: documents that cannot be read, or names that are not in them.
    """
    if spec.documents is None:
        return spec, {}
    if is_made(Path(spec.documents)):
        made = _repeated(spec)
        found = {"subjects": made.subjects, "aliases": made.aliases, "ignored_names": made.ignored_names}
        return spec.model_copy(update=found), dict(made.names)
    aliases, ignored, names = _resolved(spec, _read(spec))
    return spec.model_copy(update={"aliases": aliases, "ignored_names": ignored}), names


def make_from(
    spec: RequestSpec, *, target: Callable[[], Complete] | None = None, kept: Path | None = None
) -> MadeRequest:
    """What the documents of ``spec`` give.

    ``target`` loads what writes questions with the target (``questions: model``). ``kept`` is a folder that an earlier
    start of the same run may have written: it is taken where documents, names and settings are the same, so that
    nothing is written twice.

    Raises:
        RequestError: documents that cannot be read, or names that are not in them.
    """
    if spec.documents is not None and is_made(Path(spec.documents)):
        return _repeated(spec)
    documents = _read(spec)
    aliases, ignored, names = _resolved(spec, documents)
    digests = {one.source: hashlib.sha256(one.text.encode()).hexdigest() for one in documents}
    if kept is not None and is_made(kept):
        made, settings = load_made(kept)
        ours = (made.subjects, made.aliases, made.ignored_names, made.digests)
        same = ours == (spec.subjects, aliases, ignored, digests)
        if same and settings == settings_of(spec):
            return made
    return make_request(
        documents,
        spec.subjects,
        aliases,
        names,
        finder=make_finder(spec.tagger),
        complete=_writer(spec, target),
        digests=digests,
        ignored_names=ignored,
    )


def request_of(made: MadeRequest, spec: RequestSpec, *, reads_documents: bool = True) -> Request:
    """The request of ``made`` and the row files that ``spec`` names beside the documents.

    Raises:
        RequestError: all problems of these files, or forget rows that are in one of them.
    """
    columns = {role: column for role, column in spec.columns.items() if role not in _TEXT_ROLES}
    given = {}
    problems = []
    for name in ("retain", "neighbours", "holdout", "calibration", "probes"):
        source = getattr(spec, name)
        if source is None:
            continue
        try:
            given[name] = load_rows(
                source, name=name, columns=columns, responses="unsafe" if name == "holdout" else "safe"
            )
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    request = made.request(reads_documents=reads_documents, substitutes=spec.substitutes, **given)
    if not spec.allow_overlap:
        request.check_overlap()
    return request


def settings_of(spec: RequestSpec) -> dict[str, Any]:
    """The settings that decide which rows documents and names give."""
    return spec.model_dump(mode="json", include=set(_SETTINGS))


def _read(spec: RequestSpec) -> tuple[Document, ...]:
    if spec.documents is None:
        raise RequestError("request.documents is missing: name the file or folder with the documents.")
    columns = {role: column for role, column in spec.columns.items() if role in _TEXT_ROLES}
    return read_documents(spec.documents, columns)


def _resolved(spec: RequestSpec, documents: tuple[Document, ...]) -> tuple[tuple[str, ...], tuple[str, ...], Names]:
    """Aliases, ignored names, and every form of each subject."""
    aliases, names = resolve_names(
        documents,
        spec.subjects,
        spec.aliases,
        propose=spec.propose,
        ignored=spec.ignored_names,
        allow_overlap=spec.allow_overlap,
    )
    ignored = (*spec.ignored_names, *left_out(documents, names, aliases, propose=spec.propose))
    return aliases, tuple(dict.fromkeys(ignored)), names


def _repeated(spec: RequestSpec) -> MadeRequest:
    """The request that an earlier run made, of the same subjects."""
    made, _ = load_made(Path(str(spec.documents)))
    if spec.subjects and spec.subjects != made.subjects:
        raise RequestError(
            f"{spec.documents} holds a request about {', '.join(made.subjects)}, not {', '.join(spec.subjects)}. Leave "
            "the subject out, or pass the documents themselves."
        )
    strange = [alias for alias in spec.aliases if alias not in made.aliases]
    if strange:
        raise RequestError(
            f"{spec.documents} holds a request that was made without the alias {', '.join(strange)}. Leave it out, or "
            "pass the documents themselves."
        )
    other = [name for name in spec.ignored_names if name not in made.ignored_names]
    if other:
        raise RequestError(
            f"{spec.documents} holds a request that does not ignore the name {', '.join(other)}. Leave it out, or pass "
            "the documents themselves."
        )
    return made


def _writer(spec: RequestSpec, target: Callable[[], Complete] | None) -> Complete | None:
    if spec.questions == "templates":
        return None
    if spec.questions == "model":
        if target is None:
            raise RequestError(
                "request.questions=model: questions are written by the target in a run (expunge forget), not here. Set "
                "request.questions=templates, or pass the folder request/ of a run as documents."
            )
        return target()
    from expunge.evaluation.endpoint_client import Caller, EndpointClient

    return EndpointClient(
        spec.questions,
        str(spec.questions_model),
        caller=Caller("questions", "questions", "request.questions"),
        key_variable=spec.questions_key,
    ).complete
