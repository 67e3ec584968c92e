"""Protects what is said of bad fields: each once, with the element that is wrong."""

from __future__ import annotations

import pytest

from expunge.audits.quantization import Quantization
from expunge.errors import ConfigError


def said(values: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Quantization.from_values(values)
    return str(caught.value).splitlines()


def test_a_bad_element_is_told_once() -> None:
    line = "audits.quantization.schemes.0='int3': Input should be 'int8', 'int4' or 'nf4'"
    assert said({"schemes": ["int3"]}) == [line]
    assert said({"schemes": ["int3"], "group": 1}) == [
        line,
        "audits.quantization.group=1: Input should be greater than or equal to 2",
    ]


def test_an_empty_list_is_still_told() -> None:
    (line,) = said({"schemes": []})
    assert line.startswith("audits.quantization.schemes=[]: ") and "at least 1 item" in line
