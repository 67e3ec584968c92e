"""Other answers to the forget rows' prompts: retain answers, refusals, and what the target itself would say instead."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.distributed import is_main, on_main
from expunge.errors import CacheError, RequestError
from expunge.requests.request import rows_sha256
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.data.template import Template
    from expunge.training.run import Progress
    from expunge.training.settings import TrainingSettings

_REFUSALS = Path(__file__).with_name("refusals.txt")
# One stream of random numbers a purpose; the schedule's are 0 and 1.
_RETAIN_STREAM, _OTHERS_STREAM, _REFUSAL_STREAM, _SAMPLE_STREAM = 2, 3, 4, 5
_LISTED = 20
_SCHEMA = 1
_ROUNDS = 12
_WARMER = 0.25  # added to the temperature with each round


@dataclass(frozen=True)
class Context:
    """What a method may draw on for its alternatives; ``cache`` is a folder to keep costly ones in."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    settings: TrainingSettings
    progress: Progress
    cache: Path | None = None


def retain_answers(forget: Sequence[Row], retain: Sequence[Row], *, seed: int, count: int = 1) -> list[tuple[Row, ...]]:
    """For each forget row its prompt with the answers of ``count`` retain rows, drawn by ``seed``.

    No answer comes twice before all others had their turn, and none equals the forget row's own (letter case and white
    space aside).

    Raises:
        RequestError: forget rows for which the retain rows have too few different answers.
    """
    return _drawn(forget, [row.answer for row in retain], [seed, _RETAIN_STREAM], count, "retain rows")


def other_answers(forget: Sequence[Row], *, seed: int, count: int = 1) -> list[tuple[Row, ...]]:
    """The same with the answers of other forget rows."""
    return _drawn(forget, [row.answer for row in forget], [seed, _OTHERS_STREAM], count, "other forget rows")


def refusals(forget: Sequence[Row], *, seed: int) -> list[tuple[Row, ...]]:
    """For each forget row its prompt with one of the package's refusals (``refusals.txt``), drawn by ``seed``.

    Raises:
        RequestError: rows that have no prompt to refuse.
    """
    check_prompts(forget, "be refused")
    sentences = _REFUSALS.read_text(encoding="utf-8").splitlines()
    return _drawn(forget, sentences, [seed, _REFUSAL_STREAM], 1, "refusals")


def generated(
    forget: Sequence[Row],
    *,
    context: Context,
    count: int,
    instruction: str = "",
    temperature: float = 1.0,
    top_p: float = 0.95,
) -> list[tuple[Row, ...]]:
    """For each forget row its prompt with ``count`` different wrong answers that ``context.model`` gives to it.

    A chat model is asked with ``instruction``, whose {question} and {answer} are the row's (the answer stands in the
    request for another one, never in the rows made here). With an empty ``instruction``, for a model without a chat
    template and for rows that are no questions, the prompt itself is sampled. Answers that are empty, come twice or
    equal the right one (letter case and white space aside) are drawn again, each round warmer by a quarter, since a
    model that knows its answer by heart gives nothing else at first. An answer has at most twice the tokens of the
    longest right one. Training settings give the seed; global generators are not touched.

    ``context.cache`` keeps the answers as JSON under everything they depend on.

    Raises:
        RequestError: rows without a prompt, or to which the model found too few wrong answers in all rounds.
        CacheError: a kept file that is not what was written.
    """
    check_prompts(forget, "be answered otherwise")
    asked = [_asked(row, instruction, context.template) for row in forget]
    sampling = {"count": count, "temperature": temperature, "top_p": top_p, "rounds": _ROUNDS, "warmer": _WARMER}
    limit = _token_limit(forget, context)
    path = facts = None
    if context.cache is not None:
        facts = _facts(forget, asked, context, {**sampling, "max_new_tokens": limit})
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        path = context.cache / f"alternatives-{digest}.json"
        if on_main(path.exists):
            return _answered(forget, _read(path, facts, len(forget), count))
    answers = _sampled(forget, asked, context, limit, count, temperature, top_p)
    if path is not None and is_main():
        from expunge.files import write_json

        write_json(path, {"facts": facts, "answers": answers})
    return _answered(forget, answers)


def _drawn(
    rows: Sequence[Row], answers: Iterable[str], seed: Sequence[int], count: int, what: str
) -> list[tuple[Row, ...]]:
    texts: dict[str, str] = {}
    for answer in answers:
        if key := _key(answer):
            texts.setdefault(key, answer)
    keys = list(texts)
    short = [row for row in rows if len(keys) - (_key(row.answer) in texts) < count]
    if short:
        raise RequestError(
            f"{len(short)} of {len(rows)} forget rows cannot be given {count} other answers: the {what} have too few "
            f"that differ from their own ({_names(short)}). Pass more rows, or ask for fewer answers where the method "
            "has a field for it."
        )
    generator = np.random.default_rng(list(seed))
    deck: list[str] = []  # drawn from its end
    chosen: list[tuple[str, ...]] = []
    for row in rows:
        own, picked = _key(row.answer), list[str]()
        while len(picked) < count:
            fits = (i for i in reversed(range(len(deck))) if deck[i] != own and deck[i] not in picked)
            place = next(fits, None)
            if place is None:
                deck = [keys[i] for i in generator.permutation(len(keys))] + deck
            else:
                picked.append(deck.pop(place))
        chosen.append(tuple(texts[key] for key in picked))
    return _answered(rows, chosen)


def _sampled(
    forget: Sequence[Row],
    asked: Sequence[Row],
    context: Context,
    limit: int,
    count: int,
    temperature: float,
    top_p: float,
) -> list[list[str]]:
    from expunge.evaluation.sampling import sampled_answers
    from expunge.models.limits import max_tokens
    from expunge.models.state import evaluating

    right = [_key(row.answer) for row in forget]
    found: list[dict[str, str]] = [{} for _ in forget]
    with evaluating(context.model):
        for number in range(_ROUNDS):
            lacking = [i for i, some in enumerate(found) for _ in range(count - len(some))]
            if not lacking:
                break
            seeds = [(context.settings.seed, _SAMPLE_STREAM, i, number, turn) for turn, i in enumerate(lacking)]
            answers = sampled_answers(
                context.model,
                context.tokenizer,
                context.template,
                [asked[i] for i in lacking],
                seeds=seeds,
                temperature=temperature + _WARMER * number,
                top_p=top_p,
                max_length=max_tokens(context.model, 2**31),
                max_new_tokens=limit,
            )
            for i, answer in zip(lacking, answers, strict=True):
                key = _key(answer.text)
                if key and key != right[i]:
                    found[i].setdefault(key, answer.text)
            context.progress(sum(map(len, found)), count * len(found), "alternatives")
    short = [row for row, some in zip(forget, found, strict=True) if len(some) < count]
    if short:
        raise RequestError(
            f"the model gives fewer than {count} different wrong answers to {len(short)} of {len(forget)} prompts, "
            f"sampled up to temperature {temperature + _WARMER * (_ROUNDS - 1):g}: {_names(short)}. Lower "
            "method.answers or drop these rows."
        )
    return [list(some.values()) for some in found]


def _asked(row: Row, instruction: str, template: Template) -> Row:
    """The row whose prompt is put to the model."""
    if not instruction or template.style != "chat" or row.kind not in ("question", "chat"):
        return row
    parts = {"{question}": row.prompt, "{answer}": row.answer}
    text = re.sub(r"\{question\}|\{answer\}", lambda match: parts[match[0]], instruction)
    return row.with_prompt(text)


def _token_limit(forget: Sequence[Row], context: Context) -> int:
    """Twice the tokens of the longest right answer, as far as ``training.max_new_tokens`` allows."""
    from expunge.data.encode import encode_all
    from expunge.models.limits import max_tokens

    length = max_tokens(context.model, context.settings.max_length)
    examples = encode_all(context.tokenizer, context.template, forget, max_length=length)
    return min(context.settings.max_new_tokens, 2 * max(example.answer_length for example in examples))


def _facts(forget: Sequence[Row], asked: Sequence[Row], context: Context, sampling: dict[str, Any]) -> dict[str, Any]:
    from expunge.models.fingerprint import fingerprint, values_digest

    target = fingerprint(context.model, context.tokenizer)
    return {
        "schema": _SCHEMA,
        "rows": rows_sha256(forget),
        "asked": rows_sha256(asked),
        "template": context.template.style,
        "seed": context.settings.seed,
        "sampling": sampling,
        "config": target.config,
        "tokenizer": target.tokenizer,
        "weights": target.weights,
        "values": values_digest(context.model.named_parameters()),
        "dtype": target.dtype,
        "quantization": target.quantization,
    }


def _read(path: Path, facts: dict[str, Any], rows: int, count: int) -> list[list[str]]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        answers: list[list[str]] = kept["answers"]
        whole = len(answers) == rows and all(
            len(some) == count and all(isinstance(answer, str) and _key(answer) for answer in some) for some in answers
        )
        if whole and kept["facts"] == facts:
            return answers
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        pass
    raise CacheError(
        f"{path} does not hold {count} answers to each of these {rows} rows from this model and these settings, as its "
        "name says. It was changed or copied; delete it."
    )


def _answered(rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> list[tuple[Row, ...]]:
    return [tuple(_with(row, one) for one in some) for row, some in zip(rows, answers, strict=True)]


def _with(row: Row, answer: str) -> Row:
    """The row with another answer; a completion joins it to its prompt with the white space of its own."""
    if row.kind != "completion":
        return row.with_answer(answer)
    space = row.answer[: len(row.answer) - len(row.answer.lstrip())]
    return row.with_answer(space + answer.strip())


def check_prompts(rows: Sequence[Row], purpose: str) -> None:
    """Refuse rows without a prompt (documents), to which there is no other answer."""
    bare = [row for row in rows if not row.prompt.strip()]
    if bare:
        raise RequestError(
            f"{len(bare)} of {len(rows)} forget rows have no prompt that could {purpose}: {_names(bare)}. Use "
            "questions, or prompts with answers, or a method that takes documents (npo, grad_diff, ..)."
        )


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _names(rows: Sequence[Row]) -> str:
    named = [row.source or repr((row.prompt or row.answer)[:40]) for row in rows[:_LISTED]]
    more = f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
    return ", ".join(named) + more
