"""Finding judges: a file in a folder is one, other packages add theirs, and what the user wrote says which is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from expunge.errors import ConfigError, UnknownNameError, did_you_mean


class Kind(Protocol):
    """What is asked of a class of judges before one is made."""

    name: ClassVar[str]
    form: ClassVar[str]
    takes: ClassVar[tuple[str, ...]]

    @classmethod
    def is_meant(cls, text: str) -> bool: ...


K = TypeVar("K", bound=Kind)


@dataclass(frozen=True)
class Kinds(Generic[K]):
    """The judges of class ``base`` in module ``package`` (a file each, which sets ``JUDGE``) and those that other
    packages register under the entry point ``group``.

    ``option`` is what a user sets to choose one; ``options`` are the fields that a judge is made from and how a user
    sets each.
    """

    package: str
    group: str
    base: type[K]
    option: str
    options: Mapping[str, str]

    def names(self) -> list[str]:
        """Every judge there is, sorted, without importing one."""
        own = {path.stem for path in self._folder.glob("*.py") if not path.stem.startswith("_")}
        return sorted(own | {point.name for point in entry_points(group=self.group)})

    def meant(self, text: str) -> type[K]:
        """The class that ``text`` asks for; a name comes before a folder that is called so too."""
        found = self._all()
        for kind in sorted(found, key=lambda kind: kind.form != kind.name):
            if kind.is_meant(text):
                return kind
        names = [kind.form for kind in found if kind.form == kind.name]
        others = [kind.form for kind in found if kind.form != kind.name]
        raise UnknownNameError(
            f"{self.option}={text!r}: there is no such judge. {did_you_mean(text, names)} Or pass "
            f"{' or '.join(others)}."
        )

    def check_options(self, given: object, chosen: Sequence[type[K]], shown: str) -> None:
        """Raise a ConfigError over every option in ``given`` that none of the ``chosen`` judges takes."""
        problems = []
        for name, option in self.options.items():
            value: Any = getattr(given, name)
            if value in (None, ()) or any(name in kind.takes for kind in chosen):
                continue
            said = list(value) if isinstance(value, tuple) else str(value)
            owners = " or ".join(kind.form for kind in self._all() if name in kind.takes)
            without = f"{option}=[]" if isinstance(value, tuple) else f"{option}=null"
            problems.append(
                f"{option}={said} does not apply to {self.option}={shown}: it is for {owners}. Leave it out ({without} "
                "where a file or a world sets it)."
            )
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def _folder(self) -> Path:
        return Path(__file__).parent / self.package.rpartition(".")[2]

    def _all(self) -> list[type[K]]:
        return [self._load(name) for name in self.names()]

    def _load(self, name: str) -> type[K]:
        if (self._folder / f"{name}.py").is_file():
            found = getattr(import_module(f"{self.package}.{name}"), "JUDGE", None)
        else:
            found = next(iter(entry_points(group=self.group, name=name))).load()
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(
                f"judge '{name}' must set JUDGE to a kind of {self.base.__name__}, it is {type(found).__name__}."
            )
        return found
