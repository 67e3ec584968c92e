"""Classes found by name: one file a class, imported only when asked for; entry points serve outsiders."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar

from expunge.errors import ConfigError, UnknownNameError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class NamedClasses(Generic[T]):
    """The subclasses of ``base`` that the files of ``packages`` define, one each, under their files' names, and those
    that other packages register under the entry point ``group``. ``what`` one is goes into messages; files named in
    ``besides``, and packages, are none."""

    base: type[T]
    packages: Sequence[ModuleType]
    group: str
    what: str
    besides: Collection[str] = ()

    def names(self) -> list[str]:
        """All of them, sorted, without importing one."""
        return sorted({*self._modules(), *self._plugins()})

    def get(self, name: str) -> type[T]:
        """The class called ``name``.

        Raises:
            UnknownNameError: there is none, with a suggestion.
            ConfigError: its file defines none, or several.
        """
        modules, plugins = self._modules(), self._plugins()
        if name in modules:
            module = importlib.import_module(modules[name])
            found = [
                value
                for value in vars(module).values()
                if isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module.__name__
            ]
            if len(found) != 1:
                raise ConfigError(f"{module.__name__} must define one {self.base.__name__}, it defines {len(found)}.")
            return found[0]
        if name in plugins:
            loaded: type[T] = plugins[name].load()
            return loaded
        raise UnknownNameError(f"there is no {self.what} '{name}'. {did_you_mean(name, self.names())}")

    def _modules(self) -> dict[str, str]:
        return {
            info.name: f"{package.__name__}.{info.name}"
            for package in self.packages
            for info in pkgutil.iter_modules(package.__path__)
            if info.name not in self.besides and not info.ispkg
        }

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}
