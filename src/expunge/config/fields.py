"""Classes that are their own configuration: their fields as plain values, described, and checked from values."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from expunge.errors import ConfigError, did_you_mean

_RANGE_KEYS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "enum")


class Fields:
    """What a class decorated with :func:`~expunge.methods.interface.method_fields` can say of its fields."""

    name: ClassVar[str]

    @classmethod
    def section(cls) -> str:
        """Where a run file has the fields."""
        return "method"

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Build from plain values (a section of a run file without its name); all bad fields in one error."""
        try:
            return cls(**values)
        except ValidationError as error:
            section = cls.section()
            known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
            meanings = {field["name"]: field["description"] for field in cls.parameters()}
            lines = []
            problems = error.errors()
            for problem in problems:
                if problem["type"] == "too_short" and any(_inside(other["loc"], problem["loc"]) for other in problems):
                    continue  # only since bad elements, which are told, do not count
                field = ".".join(str(part) for part in problem["loc"])
                if problem["type"] == "unexpected_keyword_argument":
                    lines.append(f"{section}.{field}: no such field of {cls.name}. {did_you_mean(field, known)}")
                elif problem["type"] == "missing":
                    lines.append(f"{section}.{field} is required: {meanings[field]}. Pass {section}.{field}=..")
                else:
                    lines.append(f"{section}.{field}={problem['input']!r}: {problem['msg']}")
            raise ConfigError("\n".join(lines)) from error

    def values(self) -> dict[str, Any]:
        """The fields as plain values, as a run file and a manifest record them."""
        found: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return found

    @classmethod
    def parameters(cls) -> list[dict[str, Any]]:
        """Name, type, default and description of every field, for listings and docs."""
        schema = TypeAdapter(cls).json_schema()
        required = set(schema.get("required", ()))
        return [
            {
                "name": name,
                "type": field.get("type", "|".join(str(t.get("type")) for t in field.get("anyOf", ()))),
                "default": None if name in required else field.get("default"),
                "required": name in required,
                "range": {k: field[k] for k in _RANGE_KEYS if k in field},
                "description": field.get("description", ""),
            }
            for name, field in schema.get("properties", {}).items()
        ]


def _inside(place: tuple[int | str, ...], whole: tuple[int | str, ...]) -> bool:
    return len(place) > len(whole) and place[: len(whole)] == whole
