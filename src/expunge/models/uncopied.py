"""What stands before a model by hooks and cannot go along when it is copied."""

from __future__ import annotations

from typing import Any, NoReturn

from expunge.errors import ModelError


class Uncopied:
    """The base of what owns hooks of a model: a deep copy of the model is refused while they are there.

    The copy's hooks would be those of the model that was copied.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise ModelError(
            "the model is being copied while a guard stands before it, and the guard would not stand before the copy. "
            "Copy it before applied(..) is entered, or after it is left, and apply the guard to the copy."
        )
