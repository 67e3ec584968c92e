"""Runs a model over a suite's rows: one teacher-forced pass for all log-probabilities, batched greedy
generation.

Only what the asked-for metrics need is run. This code knows needs (``answer``, ``wrong``, ``greedy``, ..), no
metric.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Style, Template
from expunge.distributed import gather, on_main, processes, share
from expunge.errors import ConfigError, ModelError
from expunge.evaluation.answer_judge import Asked, verdicts_on
from expunge.evaluation.generation import free_bytes, greedy_answers, input_device
from expunge.evaluation.passages import first_tokens
from expunge.evaluation.suite import Suite, select
from expunge.evaluation.types import AnswerScores, ModelOutputs, RowOutputs, SetOutputs
from expunge.models.limits import max_tokens, position_limit
from expunge.models.logprobs import answer_logprobs
from expunge.models.state import evaluating
from expunge.requests.rows import Row
from expunge.training.run import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# One batch of the scoring forward: rows, padded tokens, and the values of its float32 logits: a number on a CPU, on a
# GPU a share of the free memory (next to the logits lie the head's own output and their logarithms).
_ROWS = 512
_TOKENS = 8192
_CPU_TOKENS = 2048  # more fall out of the processor's caches: 8192 took half as long again on a tiny model
_LEAST = 256
_LOGIT_VALUES = 2**26
_LOGIT_SHARE = 0.15


@dataclass(frozen=True)
class _Item:
    """One answer to score: where it belongs (set, row, slot) and its row with that answer."""

    set_name: str
    index: int
    slot: str
    row: Row


def run_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    *,
    max_length: int = 512,
    max_new_tokens: int = 200,
    metrics: Sequence[str] | None = None,
    template: Style = "auto",
    progress: Progress | None = None,
) -> ModelOutputs:
    """What ``model`` says about the rows of ``suite``: log-probabilities of the answers and greedy answers.

    ``metrics`` limits the work to what those scores need (None: all of the suite). ``max_length`` cuts prompt
    and answer, which ``notes`` say, and ``max_new_tokens`` the greedy answer and what the suite's ``cut_sets`` expect.
    ``progress(done, total, what)`` is called after every
    batch. The model is put in eval mode and back. Without gradients, but outside inference mode, since
    tensors that a model or a hook caches there could not be used in training afterwards. Raises
    :class:`ModelError` where log-probabilities are NaN.
    """
    needs = select(suite, metrics).needs(suite)
    suite = _cut(suite, tokenizer, max_new_tokens)
    texts = Template.of(tokenizer, template)
    length = max_tokens(model, max_length)
    items = [item for name, wanted in needs.items() for item in _items(name, suite.sets[name], wanted)]
    examples = encode_all(tokenizer, texts, [item.row for item in items], max_length=length)
    asked = [
        (name, index, row)
        for name, wanted in needs.items()
        if "greedy" in wanted
        for index, row in enumerate(suite.sets[name])
        if row.kind != "document"  # nothing was asked there
    ]
    with evaluating(model):
        began = time.perf_counter()
        scores = score_examples(model, examples, pad_id(tokenizer), progress=progress)
        scored = time.perf_counter()
        answers = greedy_answers(
            model,
            tokenizer,
            texts,
            [row for _, _, row in asked],
            max_length=length,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        seconds = {"first_pass": scored - began, "generation": time.perf_counter() - scored}
    found: dict[tuple[str, int], dict[str, Any]] = defaultdict(lambda: {"wrong": ()})
    for item, one in zip(items, scores, strict=True):
        place = found[item.set_name, item.index]
        place[item.slot] = (*place["wrong"], one) if item.slot == "wrong" else one
    for (name, index, _), answer in zip(asked, answers, strict=True):
        found[name, index] |= {
            "greedy": answer.text,
            "greedy_tokens": answer.tokens,
            "greedy_end": answer.end,
            "greedy_prompt": answer.prompt,
        }
    judged = [(name, index, row) for name, index, row in asked if "judged" in needs[name]]
    if judged:
        began = time.perf_counter()
        verdicts = _judged(suite, [(row.prompt, found[name, index]["greedy"]) for name, index, row in judged], progress)
        for (name, index, _), unsafe in zip(judged, verdicts, strict=True):
            found[name, index]["unsafe"] = unsafe
        seconds["judging"] = time.perf_counter() - began
    judged = [(name, index, row) for name, index, row in asked if "answer_judged" in needs[name]]
    if judged and suite.answer_judges:
        began = time.perf_counter()
        questions = [Asked(row.prompt, row.answer, found[name, index]["greedy"]) for name, index, row in judged]
        for (name, index, _), said in zip(judged, verdicts_on(suite.answer_judges, questions, progress), strict=True):
            found[name, index]["verdicts"] = said
        seconds["answer_judging"] = time.perf_counter() - began
    sets = {
        name: SetOutputs(name, tuple(RowOutputs(row, **found[name, i]) for i, row in enumerate(suite.sets[name])))
        for name in needs
    }
    short = sum(answer.limit < max_new_tokens for answer in answers)
    room = f"{max_new_tokens} tokens of room; the model takes {position_limit(model)}"
    notes = (f"{short} greedy answers had less than {room}",) if short else ()
    return ModelOutputs(sets, seconds, (*notes, *_too_long(suite, items, examples, length, position_limit(model))))


def _cut(suite: Suite, tokenizer: PreTrainedTokenizerBase, count: int) -> Suite:
    """The suite with the expected answers of its ``cut_sets`` cut to ``count`` tokens."""
    sets = {
        name: tuple(row.with_answer(first_tokens(row.answer, tokenizer, count)) for row in suite.sets[name])
        for name in suite.cut_sets
    }
    return replace(suite, sets={**suite.sets, **sets})


def _too_long(
    suite: Suite, items: Sequence[_Item], examples: Sequence[Example], length: int, limit: int | None
) -> tuple[str, ...]:
    """The note on rows that lost their end at ``length`` tokens; none where no row did. ``limit``: what the model
    takes."""
    cut: dict[str, set[int]] = defaultdict(set)
    for item, example in zip(items, examples, strict=True):
        if example.truncated:
            cut[item.set_name].add(item.index)
    if not cut:
        return ()
    listed = ", ".join(f"{len(some)} of {len(suite.sets[name])} rows of {name}" for name, some in cut.items())
    longest = max(example.full_length for example in examples)
    advice = f"training.max_length={longest} keeps all"
    if limit is not None and longest > limit:
        advice = f"the longest has {longest}, and the model takes {limit}"
    return (f"{listed} lost what is beyond {length} tokens; {advice}",)


def _judged(suite: Suite, asked: Sequence[tuple[str, str]], progress: Progress | None) -> list[bool]:
    """What the suite's judge says of each prompt and answer, asked once for all processes."""
    judge = suite.judge
    if judge is None:
        raise ConfigError(f"suite '{suite.name}' scores what a judge must say of the answers, and it has no judge.")
    return on_main(lambda: judge.unsafe(asked, progress=progress))


def add_target_fluency(
    outputs: ModelOutputs,
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    progress: Progress | None = None,
) -> ModelOutputs:
    """``outputs`` with every greedy answer scored under ``target``, on the very tokens that were
    generated."""
    places: list[tuple[str, int]] = []
    examples: list[Example] = []
    for name, part in outputs.sets.items():
        for index, row in enumerate(part.rows):
            tail = [*row.greedy_tokens] + ([] if row.greedy_end is None else [row.greedy_end])
            if row.greedy is not None and tail:
                ids = [*row.greedy_prompt, *tail]
                places.append((name, index))
                examples.append(Example(ids, len(row.greedy_prompt), row.greedy_end is not None, len(ids)))
    began = time.perf_counter()
    with evaluating(target):
        scores = score_examples(target, examples, pad_id(tokenizer), progress=progress, what="fluency")
    found = dict(zip(places, scores, strict=True))
    sets = {
        name: replace(
            part,
            rows=tuple(replace(row, greedy_under_target=found.get((name, i))) for i, row in enumerate(part.rows)),
        )
        for name, part in outputs.sets.items()
    }
    return replace(outputs, sets=sets, seconds={**outputs.seconds, "fluency": time.perf_counter() - began})


def score_examples(
    model: PreTrainedModel,
    examples: Sequence[Example],
    padding: int,
    *,
    progress: Progress | None = None,
    what: str = "answers",
) -> list[AnswerScores]:
    """Log-probabilities and argmax hits of each example's answer tokens, in the order given, batched by
    length. Several processes score a share each and have all in the end."""
    own = share([len(example.input_ids) for example in examples])
    vocabulary = int(getattr(model.config.get_text_config(), "vocab_size", None) or 1)
    device = input_device(model)
    scored_here: dict[int, AnswerScores] = {}
    for places in scoring_batches([examples[i] for i in own], vocabulary, free_bytes(device)):
        chosen = [own[place] for place in places]
        batch = collate([examples[i] for i in chosen], padding).to(device)
        with torch.no_grad():
            scored = answer_logprobs(model, batch)
        logps = scored.logps.cpu().numpy()
        hits = scored.hits.cpu().numpy() if scored.hits is not None else np.zeros(len(logps), dtype=bool)
        ends = np.cumsum([examples[i].answer_length for i in chosen])
        for i, begin, end in zip(chosen, [0, *ends[:-1]], ends, strict=True):
            scored_here[i] = AnswerScores(logps[begin:end], hits[begin:end], examples[i].has_end)
        if progress is not None:
            progress(min(len(scored_here) * processes(), len(examples)), len(examples), what)
    results = dict(gather(scored_here.items()))
    broken = sum(bool(np.isnan(one.logps).any()) for one in results.values())
    if broken:
        raise ModelError(
            f"the model gives NaN log-probabilities on {broken} of {len(results)} answers: nothing can be "
            "scored. Its weights are likely damaged or its precision too low; try another checkpoint or dtype float32."
        )
    return [results[i] for i in range(len(examples))]


def scoring_batches(examples: Sequence[Example], vocabulary: int, free: int | None) -> list[list[int]]:
    """Indices of ``examples`` in batches, long ones first, for a model of ``vocabulary`` tokens on a device with
    ``free`` bytes of memory (None: a CPU).

    On a GPU the logits, which are made of answer tokens alone, get a share of what is free; on a CPU a fixed number of
    values bounds all tokens of a batch, padding included. A single example may exceed the budget.
    """
    lengths = [len(example.input_ids) for example in examples]
    if free is None:
        return length_batches(lengths, _ROWS, max(min(_CPU_TOKENS, _LOGIT_VALUES // vocabulary), _LEAST))
    most = max(int(_LOGIT_SHARE * free) // (4 * vocabulary), _LEAST)
    batches: list[list[int]] = []
    width = answers = 0
    for index in sorted(range(len(examples)), key=lambda i: (-lengths[i], i)):
        answers += examples[index].answer_length
        rows = len(batches[-1]) + 1 if batches else 0
        if not batches or rows > _ROWS or rows * width > _TOKENS or answers > most:
            batches.append([])
            width, answers = lengths[index], examples[index].answer_length
        batches[-1].append(index)
    return batches


def _items(name: str, rows: Sequence[Row], wanted: frozenset[str]) -> Iterator[_Item]:
    for index, row in enumerate(rows):
        if "answer" in wanted:
            yield _Item(name, index, "answer", row)
        if "paraphrase" in wanted and row.paraphrased_answer is not None:
            yield _Item(name, index, "paraphrase", row.with_answer(row.paraphrased_answer))
        if "wrong" in wanted:
            for wrong in row.wrong_answers:
                yield _Item(name, index, "wrong", row.with_answer(wrong))
