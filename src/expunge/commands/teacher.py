"""``expunge teacher``: what a method would teach in place of the forget rows, kept in a folder or looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.commands.forget import forget_config, with_names
from expunge.errors import ConfigError, OutputError
from expunge.training.run import Progress, Run, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.data.encode import Example
    from expunge.teachers.build import Teacher
    from expunge.teachers.sparse_rows import SparseRows


def build(
    model: str,
    forget: str | None = None,
    *,
    out: str | Path,
    method: str = "causal_intervention",
    overwrite: bool = False,
    progress: Progress = silent,
    overrides: Iterable[str] = (),
    **request: Any,
) -> dict[str, Any]:
    """Make the teacher of ``method`` for a request and keep it in ``out``: ``manifest.json``, ``teacher.safetensors``
    and the student's rows in ``rows.jsonl``. Returns what the manifest states of sizes and losses, and
    ``cut_from``, the number of forget rows that the student's rows are made of.

    ``model``, ``forget``, ``overrides`` and ``request`` as in :func:`expunge.forget` (``documents``, ``subjects``,
    ``aliases``, ``columns``, ``template``, ``allow_overlap``).

    Raises:
        OutputError: ``out`` exists, and ``overwrite`` is not set.
        ConfigError: ``method`` teaches no distributions.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists. Choose another folder, or pass --overwrite.")
    teacher, forgotten, _, _ = _made(model, forget, method, None, progress, overrides, request)
    teacher.save(out)
    return {"out": str(out), "cut_from": forgotten, **teacher.store.summary()}


def show(
    model: str,
    forget: str | None = None,
    *,
    row: int = 1,
    top: int = 3,
    method: str = "causal_intervention",
    progress: Progress = silent,
    overrides: Iterable[str] = (),
    **request: Any,
) -> dict[str, Any]:
    """One row of the student, token by token: what the target and the teacher say comes next.

    Arguments as in :func:`build`; ``row`` counts the student's rows (chunks of documents) from 1, ``top`` the likeliest
    tokens of each.

    Returns:
        ``prompt`` and ``answer`` of the row; ``tokens`` of the answer: ``token``, ``taught`` (whether there is a
        teacher for it), ``target`` and ``teacher``, pairs of a token and its probability; ``store``: sizes and losses;
        ``row`` of ``rows`` of the student's, ``cut_from`` so many forget rows.
    """
    teacher, forgotten, target, tokenizer = _made(model, forget, method, row - 1, progress, overrides, request)
    example, whole = teacher.examples[0], teacher.rows[0]
    places, taught = teacher.store.of(0)
    return {
        "row": row,
        "rows": teacher.in_all,
        "cut_from": forgotten,
        "source": whole.source,
        "prompt": whole.prompt,
        "answer": whole.answer,
        "tokens": _tokens(tokenizer, example, _own(target, example, top), places.tolist(), taught, top),
        "store": teacher.store.summary(),
    }


def _made(
    model: str,
    forget: str | None,
    method: str,
    row: int | None,
    progress: Progress,
    overrides: Iterable[str],
    request: Mapping[str, Any],
) -> tuple[Teacher, int, PreTrainedModel, PreTrainedTokenizerBase]:
    """The teacher, the number of forget rows it is made of, the target and its tokenizer."""
    given: dict[str, Any] = {"subjects": (), "aliases": (), "columns": {}, **request}
    config = forget_config(
        model,
        method=method,
        retrained=None,
        suite="request",
        seeds=None,
        overrides=overrides,
        forget=forget,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in given.items()},
    )
    from expunge.methods.registry import make_method
    from expunge.methods.weight_method import WeightMethod
    from expunge.models.loading import load_model, load_tokenizer
    from expunge.parts import load_request
    from expunge.teachers.build import made_teacher

    config = with_names(config)
    chosen = make_method(config.method.name, config.method.options)
    loaded = load_request(config.request, reads_documents=chosen.reads_documents)
    teaching = chosen.teaching(loaded) if isinstance(chosen, WeightMethod) else None
    if teaching is None:
        raise ConfigError(
            f"method {chosen.name} teaches no distributions, so it has no teacher. Choose causal_intervention, whp or "
            "prompt_distill."
        )
    target, tokenizer = load_model(config.model), load_tokenizer(config.model)
    run = replace(Run(config.training, template=config.request.template), progress=progress)
    return (
        made_teacher(teaching, target, tokenizer, loaded.forget, run, row=row),
        len(loaded.forget),
        target,
        tokenizer,
    )


def _own(target: PreTrainedModel, example: Example, top: int) -> SparseRows:
    """The target's own distributions at the row's answer."""
    from expunge.teachers.asking import ask
    from expunge.teachers.plans import prompted_plan

    ((_, found, _),) = ask(target, [prompted_plan(0, example, example)], top_k=top)
    return found


def _tokens(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    own: SparseRows,
    places: Sequence[int],
    taught: SparseRows,
    top: int,
) -> list[dict[str, Any]]:
    # a token by itself loses the space before it under some tokenizers
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    shown = len(tokenizer.decode(before))

    def text(token: int) -> str:
        return str(tokenizer.decode([*before, token]))[shown:]

    def likeliest(rows: SparseRows, number: int) -> list[tuple[str, float]]:
        ids, probs = rows.token_ids[number, :top].tolist(), rows.logps[number, :top].float().exp().tolist()
        return [(text(token), round(p, 4)) for token, p in zip(ids, probs, strict=True)]

    numbers = {place: number for number, place in enumerate(places)}
    return [
        {
            "token": text(token),
            "taught": place in numbers,
            "target": likeliest(own, place),
            "teacher": likeliest(taught, numbers[place]) if place in numbers else None,
        }
        for place, token in enumerate(example.input_ids[example.answer_start :])
    ]
