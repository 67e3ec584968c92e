"""Every error that expunge raises on purpose, and the "did you mean" that unknown names get.

Each class carries the exit code that the command line ends with, so that a script can tell a bad input (2) from a
run that failed (3) without reading the message.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ExpungeError(Exception):
    """Base of all errors a user can act on. The message says what was passed, why it fails and what to do."""

    exit_code = 3


class InputError(ExpungeError):
    """A file, a row, a name or a value that the user gave cannot be used."""

    exit_code = 2


class RequestError(InputError):
    """A request's files are missing, unreadable, badly formed or contradict each other."""


class ConfigError(InputError):
    """An unknown or impossible setting in a run file, an override or a method's fields."""


class UnknownNameError(ConfigError):
    """A method, suite, world, template or field that does not exist; the message suggests a near one."""


class ModelError(InputError):
    """A model folder or hub id that cannot be loaded, or a model that lacks what is needed."""


class EncodingError(InputError):
    """Rows that cannot become tensors: an answer cut away whole, a template that drops the answer, .."""


class OutputError(InputError):
    """An output folder that exists, cannot be written, or belongs to another run."""


class ErasureError(ExpungeError):
    """A damaged erasure, or one that belongs to another model."""


class CacheError(InputError):
    """A cache that is damaged or belongs to another model."""


class EndpointError(ExpungeError):
    """An OpenAI-compatible endpoint that cannot be reached, or that replies otherwise than it was asked to."""


class JudgeError(EndpointError):
    """A judge of answers that cannot be reached, or that replies otherwise than it was asked to."""


class ControlError(InputError):
    """A metric was asked for by name without the control (retrained model, holdout, ..) that it needs."""


class TrainingError(ExpungeError):
    """Training produced NaN or infinity, or a trainable parameter got no gradient."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest known names and lists what there is.

    Example: ``did_you_mean("noo", ["npo", "idk"])`` gives ``"Did you mean 'npo'? Known: idk, npo."``
    """
    names = sorted(set(known))
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = "Did you mean " + " or ".join(f"'{n}'" for n in near) + "? " if near else ""
    return f"{hint}Known: {', '.join(names)}."
