"""How many tokens of each row are its prompt: said by whoever scores answers, read by what acts on prompts alone.

A forward over rows that hold prompt and answer does not show where one ends and the other begins, and what corrupts or
watches prompts must leave answers alone. Scoring code says it here. ``generate`` needs none of this: all that it is
given is prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from expunge.errors import ConfigError, ModelError

_LOCAL = threading.local()


@contextmanager
def prompt_lengths(lengths: Iterable[int]) -> Iterator[None]:
    """Inside, row i of every forward in this thread begins with ``lengths[i]`` tokens of prompt, padding on either side
    not counted. Of nested contexts the inner one holds.

    Raises:
        ConfigError: a length that is no whole number from 0 up; all of them in one error.
    """
    given = tuple(lengths)
    bad = [f"row {row}: {length!r}" for row, length in enumerate(given) if not _is_length(length)]
    if bad:
        raise ConfigError(
            f"{len(bad)} of {len(given)} prompt lengths are no number of tokens ({', '.join(bad)}). Pass a whole "
            "number from 0 up for every row of the forward."
        )
    before = getattr(_LOCAL, "lengths", None)
    _LOCAL.lengths = given
    try:
        yield
    finally:
        _LOCAL.lengths = before


def known_prompt_lengths(rows: int) -> tuple[int, ...] | None:
    """The prompt lengths of a forward over ``rows`` rows, None where nobody said them.

    Raises:
        ModelError: they were given for another number of rows, so that no row's length is known.
    """
    given: tuple[int, ...] | None = getattr(_LOCAL, "lengths", None)
    if given is not None and len(given) != rows:
        raise ModelError(
            f"prompt lengths were given for {len(given)} rows, and the model runs over {rows}. Open prompt_lengths(..) "
            "around one forward at a time, with a length for each of its rows."
        )
    return given


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
