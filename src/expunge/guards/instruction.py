"""An instruction before every prompt, which the model reads and its caller does not see.

with instructed(model, Instruction.of(tokenizer, "Say nothing about Basil Mahfouz Al-Kuwaiti.")):
    model.generate(**batch)  # the outputs begin with the prompts as they were passed
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.data.template import Style, Template
from expunge.errors import ConfigError, ModelError
from expunge.guards.prompts import shared_beginning
from expunge.models.forwards import by_name, restarts
from expunge.models.generating import (
    Original,
    around_generate,
    asked_by_name,
    refuse_learned_prompts,
    setting,
    tokens_of,
)
from expunge.models.halves import Halves, stood_in
from expunge.models.taps import forget_compiled
from expunge.models.uncopied import Uncopied

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# unlike beginnings of a question: what stands before all of them is the template's own
_WORDS = ("who", "What", "42 x", "(a", "Éluard")


@dataclass(frozen=True)
class Instruction:
    """Tokens of an instruction, and where in a row they stand.

    ``opening`` is what a chat template puts right before a user's words: the instruction follows its first occurrence
    in a row. Where there is none, it stands behind the row's begin token (``begin``), or first.
    """

    tokens: tuple[int, ...]
    opening: tuple[int, ...] = ()
    begin: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, text: str, style: Style = "auto") -> Instruction:
        """``text`` and an empty line, for prompts as a :class:`~expunge.data.template.Template` writes them."""
        if not text.strip():
            raise ConfigError("the instruction is empty. Give a sentence that says what is not to be answered.")
        tokens = tuple(tokenizer.encode(f"{text.strip()}\n\n", add_special_tokens=False))
        template = Template.of(tokenizer, style)
        begin = tokenizer.bos_token_id
        if template.style == "plain":
            return cls(tokens, (), begin)
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {begin}
        rows = [
            tokenizer.encode(
                str(
                    tokenizer.apply_chat_template(
                        [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True
                    )
                ),
                add_special_tokens=False,
            )
            for words in _WORDS
        ]
        before = shared_beginning(rows)
        last = max((place for place, token in enumerate(before) if token in special), default=0)
        opening = before[last:]
        return cls(tokens, () if opening == (begin,) else opening, begin)

    def place(self, row: list[int]) -> int:
        """Before which of a row's tokens the instruction stands."""
        size = len(self.opening)
        for start in range(len(row) - size + 1 if size else 0):
            if tuple(row[start : start + size]) == self.opening:
                return start + size
        return int(bool(row) and self.begin is not None and row[0] == self.begin)


@contextmanager
def instructed(model: PreTrainedModel, instruction: Instruction) -> Iterator[None]:
    """Inside, ``model`` reads every row as if the instruction stood in it; afterwards nothing of it is left.

    - ``generate``: the instruction is put into the prompts and taken out of what is returned and streamed, so that
      outputs begin with the prompts as they were passed. ``max_length`` and ``min_length`` do not count it. Logits
      processors and stopping criteria, transformers' own among them, see rows with the instruction.
    - any other forward: states, hidden states and logits are those of the row's own tokens (the token before the
      instruction has those of the instruction's last, which predict the token that follows), labels and
      ``logits_to_keep`` count as without the instruction; attention maps, where asked for, hold it. A cache that such
      a forward returns may be continued.

    Works with padding on either side, and without a mask for rows without padding.

    Raises:
        ModelError: while running, for a mask that is not [B, S], packed rows, or a cache that was filled without the
            instruction.
    """
    refuse_learned_prompts(model)
    halves = Halves(model)
    one = _Instructed(model, halves.body, instruction)
    with ExitStack() as stack:
        forget_compiled()
        stack.callback(forget_compiled)
        stack.callback(halves.body.register_forward_pre_hook(one.before, with_kwargs=True, prepend=True).remove)
        one.last = halves.body.register_forward_hook(one.after)
        stack.callback(one.last.remove)
        stack.enter_context(around_generate(model, one.generate))
        yield


class _Local(threading.local):
    generating: int = 0
    at: Tensor | None = None


class _Instructed(Uncopied):
    def __init__(self, model: Any, body: Any, instruction: Instruction) -> None:
        self.model, self.body, self.instruction = model, body, instruction
        self.count = len(instruction.tokens)
        self.signature = inspect.signature(body.forward)
        self.last: Any = None
        self._local = _Local()
        self._caches: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        local = self._local
        local.at = None
        if local.generating or stood_in(self.body):
            return None
        # another erasure's hooks on the body are to see its states before the instruction's are taken out
        self.body._forward_hooks.move_to_end(self.last.id)
        given = by_name(self.signature, arguments, named)
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        self._refuse(given)
        seen = 0 if cache is None else int(cache.get_seq_length())
        if seen:
            given.update(self._continued(given, mask, cache))
            return (), given
        ids, embeddings = given.get("input_ids"), given.get("inputs_embeds")
        ids = None if embeddings is not None else ids
        tokens = embeddings if ids is None else ids
        if tokens is None:
            return None
        local.at = at = self.places(ids, mask, tokens)
        given.update(self.widened(ids, embeddings, mask, at))
        if given.get("position_ids") is not None:
            given["position_ids"] = self._positions(given["position_ids"], at)
        if cache is not None:
            self._caches[cache] = at
        return (), given

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def after(self, _: nn.Module, __: Any, output: Any) -> Any:
        at, self._local.at = self._local.at, None
        if at is None:
            return None
        if isinstance(output, tuple):
            return (self.kept(output[0], at), *output[1:])
        output.last_hidden_state = self.kept(output.last_hidden_state, at)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(self.kept(states, at) for states in output.hidden_states)
        cache = output.get("past_key_values")
        if cache is not None:
            self._caches[cache] = at
        return output

    def generate(self, original: Original, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """``original`` on prompts with the instruction; its outputs without."""
        asked = asked_by_name(arguments, named)
        if len(arguments) > 3:
            raise ModelError("pass generate(..) what follows its logits_processor by name: an instruction is applied.")
        ids = asked.pop("inputs", None)
        ids = asked.pop("input_ids", None) if ids is None else ids
        embeddings, cache = asked.get("inputs_embeds"), asked.get("past_key_values")
        if ids is None and embeddings is None:
            begin = [self.instruction.begin, *tokens_of(setting(self.model, asked, "bos_token_id")), 0]
            ids = torch.tensor([[next(token for token in begin if token is not None)]], device=self.model.device)
        tokens = ids if embeddings is None else embeddings
        if ids is not None and embeddings is not None and ids.shape[1]:
            raise ModelError("generate(..) was passed input_ids and inputs_embeds, and an instruction is applied.")
        if cache is not None and int(cache.get_seq_length()) and cache not in self._caches:
            raise _foreign_cache()
        mask = asked.get("attention_mask")
        if mask is None:
            mask = self._mask(ids if embeddings is None else None, tokens, asked)
        at = self.places(ids if embeddings is None else None, mask, tokens)
        asked.update(self.widened(ids if embeddings is None else None, embeddings, mask, at))
        asked.update(self._lengths(asked))
        if asked.get("streamer") is not None and embeddings is None:
            asked["streamer"] = _Streamer(asked["streamer"], ids)
        self._local.generating += 1
        try:
            found = original(**asked)
        finally:
            self._local.generating -= 1
        if cache is not None:
            self._caches[cache] = at
        if embeddings is not None:
            return found
        sequences = found if isinstance(found, Tensor) else found.sequences
        prompts = ids.repeat_interleave(len(sequences) // len(ids), 0)  # type: ignore[union-attr]
        sequences = torch.cat([prompts.to(sequences.device), sequences[:, ids.shape[1] + self.count :]], dim=1)  # type: ignore[union-attr]
        if isinstance(found, Tensor):
            return sequences
        found.sequences = sequences
        if found.get("past_key_values") is not None:
            self._caches[found.past_key_values] = at
        return found

    def places(self, ids: Tensor | None, mask: Tensor | None, tokens: Tensor) -> Tensor:
        """[B] the column of each row before which the instruction stands."""
        rows, width = tokens.shape[:2]
        real = torch.ones(rows, width, dtype=torch.bool) if mask is None else mask.bool().cpu()
        columns = [row.nonzero()[:, 0].tolist() for row in real]
        lists = [[]] * rows if ids is None else ids.tolist()
        at = []
        for there, row in zip(columns, lists, strict=True):
            number = self.instruction.place([row[column] for column in there] if row else [])
            at.append(there[number] if number < len(there) else there[-1] + 1 if there else width)
        return torch.tensor(at, device=tokens.device)

    def widened(
        self, ids: Tensor | None, embeddings: Tensor | None, mask: Tensor | None, at: Tensor
    ) -> dict[str, Tensor | None]:
        """The arguments of a forward with the instruction in them."""
        given: dict[str, Tensor | None] = {}
        tokens = torch.tensor(self.instruction.tokens, device=at.device).expand(len(at), -1)
        if ids is not None:
            given["input_ids"] = self._inserted(ids, tokens, at)
        elif embeddings is not None:
            table = self.model.get_input_embeddings()
            given["inputs_embeds"] = self._inserted(embeddings, table(tokens).to(embeddings), at)
        if mask is not None:
            given["attention_mask"] = self._inserted(mask, torch.ones_like(tokens, dtype=mask.dtype), at)
        return given

    def kept(self, states: Tensor, at: Tensor) -> Tensor:
        """[B, S, ..] of [B, S + K, ..]: of the rows' own tokens, but of the one before the instruction what follows it,
        which is what predicts the next own token."""
        columns = torch.arange(states.shape[1] - self.count, device=states.device).expand(len(states), -1)
        columns = columns + self.count * (columns >= at.to(states.device)[:, None] - 1)
        return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))

    def _inserted(self, values: Tensor, new: Tensor, at: Tensor) -> Tensor:
        """[B, S + K, ..] values [B, S, ..] with new ones [B, K, ..] before the columns ``at`` [B]."""
        width, at = values.shape[1], at.to(values.device)[:, None]
        columns = torch.arange(width + self.count, device=values.device).expand(len(values), -1)
        inside = (columns >= at) & (columns < at + self.count)
        source = torch.where(inside, width + columns - at, columns - self.count * (columns >= at + self.count))
        both = torch.cat([values, new.to(values.device)], dim=1)
        return both.gather(1, source if both.ndim == 2 else source[..., None].expand(-1, -1, both.shape[-1]))

    def _positions(self, given: Tensor, at: Tensor) -> Tensor:
        """Positions that go on through the instruction."""
        given = given.expand(len(at), -1)
        columns = torch.arange(given.shape[1], device=given.device)
        first = given.gather(1, at.to(given.device).clamp(max=given.shape[1] - 1)[:, None])
        first = first + (at.to(given.device)[:, None] >= given.shape[1]).to(given.dtype)
        new = first + torch.arange(self.count, device=given.device)
        return self._inserted(given + self.count * (columns >= at.to(given.device)[:, None]), new, at)

    def _continued(self, given: Mapping[str, Any], mask: Tensor | None, cache: Any) -> dict[str, Any]:
        """What a forward is passed that continues a cache in which the instruction stands."""
        at = self._caches.get(cache)
        if at is None:
            raise _foreign_cache()
        changed: dict[str, Any] = {}
        if mask is not None:
            ones = torch.ones(len(mask), self.count, dtype=mask.dtype, device=mask.device)
            changed["attention_mask"] = self._inserted(mask, ones, at)
        if given.get("position_ids") is not None:
            changed["position_ids"] = given["position_ids"] + self.count
        return changed

    def _lengths(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Lengths that count the prompt, with the instruction's."""
        changed: dict[str, Any] = {}
        for name in ("max_length", "min_length"):
            if asked.get(name):
                changed[name] = asked[name] + self.count
        config = asked.get("generation_config")
        if config is not None:
            config = changed["generation_config"] = copy(config)
            for name in ("max_length", "min_length"):
                if getattr(config, name, None):
                    setattr(config, name, getattr(config, name) + self.count)
        own = getattr(self.model, "generation_config", None)
        for name in ("max_length", "min_length"):
            said = asked.get(name) or getattr(config, name, None) or getattr(own, name, None)
            new = asked.get("max_new_tokens") or getattr(config, "max_new_tokens", None)
            new = new if name == "max_length" else None  # which max_new_tokens takes the place of
            if said and name not in changed and not getattr(config, name, None) and not new:
                changed[name] = said + self.count
        return changed

    def _mask(self, ids: Tensor | None, tokens: Tensor, asked: Mapping[str, Any]) -> Tensor:
        """As ``generate`` infers one: pad tokens are padding, unless the end token looks the same."""
        ones = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        pad, ends = setting(self.model, asked, "pad_token_id"), setting(self.model, asked, "eos_token_id")
        if ids is None or pad is None or not bool((ids == pad).any()):
            return ones
        if int(pad) in tokens_of(ends):
            return ones
        mask: Tensor = (ids != pad).long()
        return mask

    def _refuse(self, given: Mapping[str, Any]) -> None:
        mask, places = given.get("attention_mask"), given.get("position_ids")
        packed = given.get("cu_seq_lens_q") is not None
        if places is not None:
            real = torch.ones_like(places, dtype=torch.bool)
            if isinstance(mask, Tensor) and mask.shape == places.shape:
                real = mask != 0
            packed = packed or restarts(places, real)
        if packed:
            raise ModelError(
                "several texts are packed into one row (generate_batch, or a batch without padding), so that it cannot "
                "be told where each begins and takes its instruction. Pass them as rows of a padded batch."
            )
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ModelError(
                f"attention_mask is {shape}, and an instruction that stands before every prompt takes one of "
                "[rows, tokens], or none."
            )


class _Streamer:
    """Hands on what ``generate`` streams, with the prompts as they were passed."""

    def __init__(self, streamer: Any, ids: Tensor | None) -> None:
        self._streamer, self._ids = streamer, ids

    def put(self, value: Tensor) -> None:
        if self._ids is not None:
            value, self._ids = self._ids.cpu(), None
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streamer, name)


def _foreign_cache() -> ModelError:
    return ModelError(
        "the key-value cache was filled before the instruction was applied, which so is not in it. Begin the text anew."
    )
