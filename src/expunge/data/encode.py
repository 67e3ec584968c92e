"""Rows to token ids, with the place where the answer begins found from character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.data.template import Rendered, Template
from expunge.errors import EncodingError
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LISTED = 20


@dataclass(frozen=True, slots=True)
class Example:
    """One row as token ids. Tokens from ``answer_start`` on are the answer, its end token included; ``has_end`` says
    whether that token survived (``full_length`` is the row's length before it was cut to the maximum)."""

    input_ids: list[int]
    answer_start: int
    has_end: bool
    full_length: int

    @property
    def answer_length(self) -> int:
        return len(self.input_ids) - self.answer_start

    @property
    def truncated(self) -> bool:
        return self.full_length > len(self.input_ids)


def encode(tokenizer: PreTrainedTokenizerBase, template: Template, row: Row, *, max_length: int) -> Example:
    """One row as an :class:`Example`; see :func:`encode_all`."""
    return encode_all(tokenizer, template, [row], max_length=max_length)[0]


def encode_all(
    tokenizer: PreTrainedTokenizerBase, template: Template, rows: Sequence[Row], *, max_length: int
) -> list[Example]:
    """Encode rows in one call of the tokenizer; all rows that cannot be encoded are named in one error.

    A token that straddles the boundary between prompt and answer belongs to the answer. For a document every token but
    the first is answer. A row longer than ``max_length`` tokens loses the end of its answer; a row that would lose all
    of it is an error that says what length is needed.
    """
    if not rows:
        return []
    readable: list[Row] = []
    rendered: list[Rendered] = []
    examples: list[Example] = []
    problems: list[str] = []
    advice = ""
    for row in rows:
        try:
            rendered.append(template.render(row))
            readable.append(row)
        except EncodingError as error:
            problems.append(str(error))
    for row, text, (ids, start) in zip(readable, rendered, _tokenize(tokenizer, rendered), strict=True):
        has_end = bool(text.end)
        if not text.end and tokenizer.eos_token_id is not None:
            ids, has_end = [*ids, tokenizer.eos_token_id], True
        start = max(start, 1)  # the first token of a text has nothing to be predicted from
        where = row.source or f"row {row.prompt[:40]!r}"
        if len(ids) <= start:
            problems.append(f"{where}: the answer {row.answer[:40]!r} has no tokens to predict")
        elif start >= max_length:
            advice = "; raise training.max_length or shorten them"
            problems.append(
                f"{where}: the prompt takes {start} tokens, so max_length {max_length} cuts all of the answer; "
                f"{start + 1} is needed to keep one token, {len(ids)} to keep all"
            )
        examples.append(Example(ids[:max_length], start, has_end and len(ids) <= max_length, len(ids)))
    if problems:
        listed = "\n  ".join(problems[:_LISTED])
        more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise EncodingError(f"{len(problems)} of {len(rows)} rows cannot be encoded{advice}:\n  {listed}{more}")
    return examples


def encode_prompt(tokenizer: PreTrainedTokenizerBase, template: Template, row: Row, *, max_length: int) -> list[int]:
    """The prompt alone, as a caller of ``generate`` would tokenize it (a document has an empty prompt: its first
    token serves). A prompt longer than ``max_length`` tokens is an error."""
    text = template.render(row)
    if not text.prompt:
        return encode(tokenizer, template, row, max_length=max_length).input_ids[:1]
    ((ids, _),) = _tokenize(tokenizer, [Rendered(text.prompt, "", "", text.special)])
    if len(ids) > max_length:
        raise EncodingError(
            f"{row.source or 'a row'}: the prompt takes {len(ids)} tokens, more than max_length {max_length}. "
            "Raise training.max_length or shorten the prompt."
        )
    return ids


def rows_with_room(
    tokenizer: PreTrainedTokenizerBase, template: Template, rows: Sequence[Row], *, max_length: int
) -> list[int]:
    """The places of the rows of which ``max_length`` tokens hold the prompt and a token of an answer. A row that cannot
    be rendered is among them: encoding it says why."""
    found = []
    for place, row in enumerate(rows):
        try:
            text = template.render(row)
        except EncodingError:
            found.append(place)
            continue
        alone = Rendered(text.prompt, "", "", text.special)
        (_, start), (ids, _) = _tokenize(tokenizer, [text, alone])
        if max(start, len(ids) if text.prompt else 1) < max_length:
            found.append(place)
    return found


def end_token_ids(tokenizer: PreTrainedTokenizerBase, template: Template) -> set[int]:
    """Ids at which a generated answer is over: the tokenizer's end token and the token that closes a chat turn."""
    ids = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if template.style == "chat":
        end = template.render(Row("question", "answer")).end
        closing = tokenizer(end, add_special_tokens=False)["input_ids"]
        ids.update(closing[-1:])
    return ids


def _tokenize(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered]) -> list[tuple[list[int], int]]:
    """Token ids (without an end token that the tokenizer appends by itself) and the index of the first answer token."""
    result: list[tuple[list[int], int]] = [([], 0)] * len(rendered)
    for special in (True, False):
        chosen = [i for i, text in enumerate(rendered) if text.special is special]
        if not chosen:
            continue
        texts = [rendered[i].prompt + rendered[i].answer + rendered[i].end for i in chosen]
        if tokenizer.is_fast:
            encoded = tokenizer(
                texts,
                add_special_tokens=special,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            for i, ids, offsets in zip(chosen, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                result[i] = _split(list(ids), offsets, len(rendered[i].prompt))
        else:
            for i, text in zip(chosen, texts, strict=True):
                result[i] = _split_without_offsets(tokenizer, text, rendered[i].prompt, special)
    return result


def _split(ids: list[int], offsets: Sequence[tuple[int, int]], boundary: int) -> tuple[list[int], int]:
    while len(ids) > 1 and tuple(offsets[len(ids) - 1]) == (0, 0):
        ids = ids[:-1]  # an end or separator token from the tokenizer's post-processor
    start = next((i for i in range(len(ids)) if offsets[i][1] > boundary), len(ids))
    return ids, start


def _split_without_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, prompt: str, special: bool
) -> tuple[list[int], int]:
    """For tokenizers written in Python: the answer begins where the prompt's own tokens stop agreeing."""
    ids = list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    alone = list(tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"])
    if special and ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        ids, alone = ids[:-1], alone[:-1]
    start = 0
    while start < min(len(ids), len(alone)) and ids[start] == alone[start]:
        start += 1
    return ids, start
