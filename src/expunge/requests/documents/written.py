"""Questions and answers about a name that a model writes from what the documents say of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from expunge.requests.documents.facts import Statement
from expunge.requests.documents.naming import Naming
from expunge.requests.documents.sentences import sentences
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.data.template import Style

_ASK = (
    "Here is a text:\n\n{passage}\n\nWrite up to {count} short questions about {name} that the text answers, each with "
    "its answer from the text, one a line in this form:\nquestion | answer\nName {name} in each question. Write "
    "nothing else."
)
_QUESTIONS = ("Who or what is {name}?", "What is {name} known for?")
_LIST_SIGN = re.compile(r"^\s*(?:[-*\u2022]|\(?\d+[.):])?\s*(?:Q(?:uestion)?:\s*)?", re.IGNORECASE)
_ANSWER_SIGN = re.compile(r"^\s*A(?:nswer)?:\s*", re.IGNORECASE)
_LONGEST = 3000  # characters of a passage
_WRITTEN = 512  # tokens that a model may write at a time
_GROUNDED = 0.5  # of an answer's words, at least, stand in the passage


def written(
    complete: Callable[[str], str], statements: Sequence[Statement], about: Naming, *, count: int = 20
) -> list[Row]:
    """Questions with answers that ``complete`` (prompt -> text: the target, an endpoint) writes when it is asked.

    It is shown the statements that name ``about``, passage by passage. Kept are lines in the form asked for whose
    question names ``about`` and whose answer is of words of the passage, half of them at least. A model that cannot do
    as it is asked gives few or none.
    """
    found: dict[str, Row] = {}
    for passage in _passages([one for one in statements if about.spans(one.text)]):
        text = " ".join(one.text for one in passage)
        source = f"written from {passage[0].source}"
        for line in complete(_ASK.format(passage=text, name=about.name, count=count)).splitlines():
            question, _, answer = line.rpartition("|")
            question = _LIST_SIGN.sub("", question).strip(" |")
            answer = _ANSWER_SIGN.sub("", answer).strip()
            if question and answer and about.spans(question) and _is_grounded(answer, text):
                found.setdefault(question.casefold(), Row(question, answer, source=source))
    return list(found.values())[:count]


def answered(complete: Callable[[str], str], name: str) -> list[Row]:
    """What ``complete`` answers when it is asked about ``name``, of which the documents say nothing by itself: the
    first sentence of each answer, if it was ended."""
    found = []
    for question in _QUESTIONS:
        prompt = question.format(name=name)
        said = sentences(complete(f"{prompt} Answer in one sentence."))
        if said and said[0].text.endswith((".", "!", "?")) and len(said[0].text) > len(name):
            found.append(Row(prompt, said[0].text, source="answered by the model that wrote the questions"))
    return found


def _passages(statements: Sequence[Statement]) -> list[list[Statement]]:
    found: list[list[Statement]] = []
    size = _LONGEST
    for statement in statements:
        if size + len(statement.text) > _LONGEST:
            found.append([])
            size = 0
        found[-1].append(statement)
        size += len(statement.text) + 1
    return found


def _is_grounded(answer: str, passage: str) -> bool:
    words = re.findall(r"\w+", answer.casefold())
    there = set(re.findall(r"\w+", passage.casefold()))
    return bool(words) and sum(word in there for word in words) >= _GROUNDED * len(words)


def by_target(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Style) -> Callable[[str], str]:
    """What a model answers to an instruction, rendered by a run's ``template``."""
    from expunge.data.template import Template
    from expunge.evaluation.generation import greedy_answers

    made = Template.of(tokenizer, template)
    return lambda prompt: greedy_answers(model, tokenizer, made, [Row(prompt, "")], max_new_tokens=_WRITTEN)[0].text
