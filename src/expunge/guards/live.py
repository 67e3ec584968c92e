"""Guards before a loaded model that follow their store: a change on disk holds from the next call on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from expunge.errors import ConfigError, ErasureError
from expunge.guards.prompt_guard import PromptGuard, PromptGuards, check_action

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.guards.store import GuardStore, Stored


class LiveGuards(PromptGuards):
    """The guards of ``store``, read again whenever its trail has grown; they are changed there."""

    def __init__(self, store: GuardStore, model: PreTrainedModel) -> None:
        super().__init__()
        self.store, self.model = store, model
        self._following = threading.RLock()
        self._seen: tuple[int, int] | None = None
        self._head = ""
        self._digests: dict[str, str] = {}
        self._follow()

    @property
    def names(self) -> dict[str, bool]:
        self._follow()
        return super().names

    @property
    def version(self) -> int:
        self._follow()
        return super().version

    @contextmanager
    def active(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
        self._follow()
        with super().active(model, tokenizer):
            yield

    def add(self, guard: PromptGuard) -> None:  # noqa: ARG002
        raise self._refusal("add")

    def lift(self, name: str) -> None:  # noqa: ARG002
        raise self._refusal("lift")

    def disable(self, name: str) -> None:  # noqa: ARG002
        raise self._refusal("disable")

    def enable(self, name: str) -> None:  # noqa: ARG002
        raise self._refusal("enable")

    def _refusal(self, action: str) -> ConfigError:
        return ConfigError(
            f"these guards follow the store {self.store.folder}. {action.capitalize()} it there, with "
            f"GuardStore({str(self.store.folder)!r}).{action}(.., who=.., why=..): the model follows."
        )

    def _follow(self) -> None:
        """Do what the store's trail says; one look at the file's size and time where it says nothing new."""
        with self._following:
            seen = self.store.trail.state()
            if seen != self._seen or seen is None:
                self._update()
                self._seen = seen

    def _update(self) -> None:
        with self.store.steady():
            held = self.store.in_force()
            if self._head and not self.store.trail.has(self._head):
                raise ErasureError(
                    f"the audit trail {self.store.trail.path} no longer has the line that this model's guards were "
                    f"read from ({self._head}): lines were cut off or written anew. Put back a copy of the trail, or "
                    "apply the store anew to go by the trail that is there now."
                )
            self._take(held)
            self._head = self.store.trail.head

    def _take(self, held: Mapping[str, Stored]) -> None:
        new = {}
        for name, one in held.items():
            if self._digests.get(name) != one.added.sha256:  # read first: what cannot be is refused before any change
                new[name] = self.store.read(one)
                check_action(new[name], self.model)
        for name in list(super().names):
            if name not in held or name in new:
                super().lift(name)
        for guard in new.values():
            super().add(guard)
        for name, enabled in super().names.items():
            if enabled != held[name].enabled:
                (super().disable if enabled else super().enable)(name)
        self._digests = {name: one.added.sha256 for name, one in held.items()}
