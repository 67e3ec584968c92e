"""Protects how settings are read: numbers as people type them, dotted overrides, YAML that reads back as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from expunge.config.values import flat, merged, parse_overrides, parse_value, read_yaml, to_yaml
from expunge.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-3", -3),
        ("1e-5", 1e-5),  # a string for plain PyYAML, which wants 1.0e-5
        ("1E5", 1e5),
        ("+1e+3", 1e3),
        ("2.", 2.0),
        (".5", 0.5),
        ("1.5e-3", 1.5e-3),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("yes", "yes"),  # words, not the booleans of YAML 1.1
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("null", None),
        ("", None),
        ("[a, 1e-4]", ["a", 1e-4]),
        ("{a: 1}", {"a": 1}),
        ("0.0.1", "0.0.1"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("model.layers.*", "model.layers.*"),
        ("*.mlp.*", "*.mlp.*"),  # an alias to nothing in YAML: taken as it stands
        ("a: b: c", "a: b: c"),  # not YAML: taken as it stands
        ("it's", "it's"),
    ],
)
def test_values_are_what_people_mean(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_overrides_split_on_the_first_equals_sign_and_nest() -> None:
    assert parse_overrides(["method.beta=0.2", "method.alpha=1", "model=a=b", "seeds=[0, 1]", "x.y.z=w"]) == {
        "method": {"beta": 0.2, "alpha": 1},
        "model": "a=b",
        "seeds": [0, 1],
        "x": {"y": {"z": "w"}},
    }
    assert parse_overrides(["training.epochs=1", "training.epochs=2"]) == {"training": {"epochs": 2}}  # the last counts


def test_all_bad_overrides_are_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["training.epochs", "method.beta=1", "=3", ".x=1", "a..b=1", "model=m", "model.path=n"])
    message = str(caught.value)
    for bad in ("'training.epochs'", "'=3'", "'.x=1'", "'a..b=1'", "'model.path=n'"):
        assert bad in message
    assert "method.beta=1'" not in message
    assert "expected section.field=value" in message


def test_merging_goes_section_by_section_and_changes_neither_side() -> None:
    base = {"method": {"name": "npo", "beta": 0.1}, "model": "a", "seeds": [0]}
    over = {"method": {"beta": 0.2}, "seeds": [1, 2]}
    assert merged(base, over) == {"method": {"name": "npo", "beta": 0.2}, "model": "a", "seeds": [1, 2]}
    assert base["method"] == {"name": "npo", "beta": 0.1}
    assert over == {"method": {"beta": 0.2}, "seeds": [1, 2]}


def test_flat_names_are_dotted() -> None:
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": {}, "f": [1]}) == {"a.b": 1, "a.c.d": 2, "e": {}, "f": [1]}


def test_written_yaml_reads_back_as_it_was(tmp_path: Path) -> None:
    values = {
        "model": {"path": "./Łódź model", "flag": True, "none": None},
        "training": {"learning_rate": 1e-5, "epochs": 5.0, "layers": ["*.mlp.*"], "seed": 0},
        "request": {"subjects": ["yes", "off", "1e-5", "007"]},  # strings that look like something else
    }
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(values), encoding="utf-8")
    assert read_yaml(file) == values


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- a\n- b\n", "holds list"),
        (b"", "holds NoneType"),
        (b"model: [a\n", "not readable YAML"),
        (b"model: \xff\xfe\n", "not readable YAML"),
        (b"model: !!python/object/apply:os.system ['true']\n", "not readable YAML"),  # nothing is run
    ],
)
def test_a_run_file_that_is_no_mapping_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value)


def test_a_missing_run_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run file .*absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")
