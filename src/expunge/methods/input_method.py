"""The base of every method that guards a model's inputs. Importing this loads no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.methods.interface import Kind
from expunge.methods.untrained import Subject, UntrainedMethod

if TYPE_CHECKING:
    from expunge.erasures.input_guard import InputGuard
    from expunge.erasures.manifest import Manifest
    from expunge.guards.interface import Guard


class InputMethod(UntrainedMethod):
    """A method that acts on what a model is asked. Subclasses say by which guards."""

    family: ClassVar[Kind] = "inputs"
    format: ClassVar[str] = "input_guard"
    reads_documents: ClassVar[bool] = False

    @abstractmethod
    def guards(self, subject: Subject) -> Sequence[Guard]:
        """What stands before the model; figures for the manifest go into ``subject.details``."""

    def erasure(self, subject: Subject, manifest: Manifest) -> InputGuard:
        from expunge.erasures.input_guard import InputGuard

        return InputGuard(manifest, self.guards(subject))
