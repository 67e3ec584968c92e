"""Text of a row: the tokenizer's chat template where there is one, a plain question/answer template otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from expunge.errors import EncodingError
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["auto", "chat", "plain"]

_PROBE = "expungeprobeanswer"


@dataclass(frozen=True)
class Rendered:
    """A row as text. ``answer`` holds the separator that precedes it, so that ``prompt`` never ends in white space that
    would tokenize differently once an answer follows. ``end`` closes a chat turn ("" where the end token's id is
    appended instead); ``special`` says whether the tokenizer adds its own special tokens (a chat template has them)."""

    prompt: str
    answer: str
    end: str
    special: bool


@dataclass(frozen=True)
class Template:
    """Renders rows for one tokenizer.

    Questions and chats use the chat template under ``chat``; under ``plain`` they read
    ``Question: {q}\\nAnswer: {a}``. Completions and documents are raw text under either. ``auto`` means ``chat`` for a
    tokenizer that has a template and ``plain`` for one that has none.
    """

    tokenizer: PreTrainedTokenizerBase
    style: Literal["chat", "plain"]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, style: Style = "auto") -> Template:
        """The template for ``tokenizer``; asking for ``chat`` where there is none is an error."""
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        if style == "chat" and not has_chat:
            raise EncodingError(
                "template 'chat' was asked for, but this tokenizer has no chat template. "
                "Use template 'plain' or save the tokenizer with its chat_template."
            )
        return cls(tokenizer, "chat" if has_chat and style != "plain" else "plain")

    def render(self, row: Row) -> Rendered:
        """The prompt, answer and end of ``row`` as text."""
        if row.kind == "document":
            return Rendered("", row.answer, "", True)
        if row.kind == "completion":
            prompt = row.prompt.rstrip()
            return Rendered(prompt, row.prompt[len(prompt) :] + row.answer, "", True)
        if self.style == "plain":
            turns = [self._plain_turn(role, text) for role, text in row.history]
            return Rendered("".join(turns) + f"Question: {row.prompt}\nAnswer:", f" {row.answer}", "", True)
        messages = [{"role": role, "content": text} for role, text in row.history]
        messages.append({"role": "user", "content": row.prompt})
        dropped, bridge, end = self._chat_ends
        opened = self._apply(messages, row).removesuffix(dropped) + bridge
        prompt = opened.rstrip(" ")
        return Rendered(prompt, opened[len(prompt) :] + row.answer.strip(), end, False)

    @staticmethod
    def _plain_turn(role: str, text: str) -> str:
        return {"user": f"Question: {text}\n", "assistant": f"Answer: {text}\n"}.get(role, f"{text}\n")

    def _apply(self, messages: list[dict[str, str]], row: Row | None = None, **kwargs: Any) -> str:
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, **kwargs}
        try:
            return str(self.tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # templates raise whatever their author wrote
            where = f"{row.source}: " if row is not None and row.source else ""
            roles = ", ".join(message["role"] for message in messages)
            raise EncodingError(
                f"{where}the tokenizer's chat template refused a conversation with the roles ({roles}): {error}. "
                "Change the row's roles or use template 'plain'."
            ) from error

    @cached_property
    def _chat_ends(self) -> tuple[str, str, str]:
        """What to take off the generation prompt, what to put before an answer instead, and what closes the answer.

        Templates of reasoning models open a thinking block in the generation prompt, or put an empty one before a
        finished answer. The prompt is what stands before a finished answer, so that training, scoring and generation
        all see the answer in the same place.
        """
        user = [{"role": "user", "content": "question"}]
        opened = self._apply(user)
        full = self._apply([*user, {"role": "assistant", "content": _PROBE}], add_generation_prompt=False)
        at = full.rfind(_PROBE)
        if at < 0:
            raise EncodingError(
                "the tokenizer's chat template leaves out the assistant's text, so there is no answer to score. "
                "Use template 'plain' or a template that renders assistant turns."
            )
        shared = next(
            (i for i, (a, b) in enumerate(zip(opened, full[:at], strict=False)) if a != b), min(len(opened), at)
        )
        dropped, bridge = opened[shared:], full[shared:at]
        if "question" in dropped:  # the two differ before the answer's turn: only the generation prompt is sure
            dropped = bridge = ""
        tail = full[at + len(_PROBE) :]
        known = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}
        found = [(tail.find(token), -len(token), token) for token in known if token and token in tail]
        if not found:
            return dropped, bridge, str(self.tokenizer.eos_token or "")
        at, _, token = min(found)
        return dropped, bridge, tail[:at] + token
