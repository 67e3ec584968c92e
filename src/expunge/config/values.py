"""YAML with the number format people type (``1e-5`` is a number), and dotted overrides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from expunge.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that a float needs no dot (``1e-5``) and that ``010``, ``1:30``, dates,
    ``on``, ``off``, ``yes`` and ``no`` are words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":bool", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf)$|^\.(?:nan|NaN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _Dumper(yaml.SafeDumper):
    """YAML that PyYAML and :class:`_Loader` read alike: a string that is a number to either of them is quoted."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_value(text: str) -> Any:
    """One value as YAML reads it: ``5`` int, ``1e-5`` float, ``true`` bool, ``[a, b]`` list, anything else a string."""
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError:
        return text
    # a path may hold " #", which YAML would take for a comment
    return text if isinstance(value, str) and " #" in text and not text.startswith(("'", '"')) else value


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """``["method.beta=0.2"]`` as nested dictionaries; split on the first ``=``. All bad ones in one error."""
    values: dict[str, Any] = {}
    problems = []
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            problems.append(f"  {override!r}: expected section.field=value, such as method.beta=0.2")
            continue
        place = values
        for part in parts[:-1]:
            nested = place.setdefault(part, {})
            if not isinstance(nested, dict):
                problems.append(f"  {override!r}: {part} was given a plain value before")
                nested = {}
            place = nested
        place[parts[-1]] = parse_value(text)
    if problems:
        raise ConfigError("settings that cannot be read:\n" + "\n".join(problems))
    return values


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` on top, section by section; neither is changed."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested sections as one level of dotted names: ``{"method.beta": 0.2}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            result |= {f"{key}.{name}": inner for name, inner in flat(value).items()}
        else:
            result[key] = value
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping."""
    if not path.is_file():
        raise ConfigError(f"there is no run file {path}.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} must hold sections such as 'model:' and 'request:', it holds {type(values).__name__}."
        )
    return values


def to_yaml(values: dict[str, Any]) -> str:
    """The same values as text that :func:`read_yaml` reads back."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
