"""Protects a suite's options: checked against the types its ``build`` declares, all bad ones in one error."""

from __future__ import annotations

from pathlib import Path

import pytest

import expunge.benchmarks.registry as registry
from expunge.benchmarks.registry import Benchmark
from expunge.config.run_file import NamedSpec
from expunge.errors import ConfigError
from expunge.evaluation.suite import Suite
from expunge.parts import build_suite
from expunge.requests import Request, Row

ROWS = tuple(Row(f"Who is {i}?", f"Person {i}") for i in range(5))
REQUEST = Request(forget=ROWS, retain=tuple(Row(f"Where is {i}?", f"In {i}") for i in range(5)))


def test_all_bad_options_come_in_one_error() -> None:
    spec = NamedSpec(name="safety", limit="abc", markers={"a": 1}, judge=True, limt=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError) as caught:
        build_suite(spec, REQUEST)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for line, said in zip(
        sorted(lines),
        (
            r"suite.judge=True: Input should be a valid string",
            r"suite.limit='abc': Input should be a valid integer",
            r"suite.limt: suite safety has no such option. Did you mean 'limit'",
            r"suite.markers={'a': 1}: Input should be a valid string, or: Input should be",
        ),
        strict=True,
    ):
        assert line.startswith(said)


def test_a_number_is_text_where_text_is_asked_for() -> None:
    for markers, said in ((3, "3"), ([2024, "pipe"], "2024")):
        suite, _ = build_suite(NamedSpec(name="safety", markers=markers), REQUEST)  # type: ignore[call-arg]
        assert suite.judge is not None
        assert said in str(suite.judge.describe())
    with pytest.raises(ConfigError, match="there is no such judge"):
        build_suite(NamedSpec(name="safety", judge=3), REQUEST)  # type: ignore[call-arg]


def test_scores_by_name_and_all_rows() -> None:
    spec = NamedSpec(name="request", metrics=["probability"], limit=None)  # type: ignore[call-arg]
    suite, metrics = build_suite(spec, REQUEST)
    assert (len(suite.sets["forget"]), metrics) == (5, ("probability",))
    assert build_suite(NamedSpec(name="request", metrics="rouge", limit="2"), REQUEST)[1] == ("rouge",)  # type: ignore[call-arg]


def test_a_suite_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def build(data: str | Path, share: float = 0.5) -> Suite:
        given.append((data, share))
        return Suite("other", {"forget": ROWS}, {"forget": ("rouge",)})

    def unknown(data: Nowhere) -> Suite:  # type: ignore[name-defined]  # noqa: F821
        return build(data)

    for function in (build, unknown):
        one = Benchmark("other", "", "", "", ("rouge",), function)
        monkeypatch.setattr(registry, "get_benchmark", lambda _, one=one: one)
        with pytest.raises(ConfigError, match=r"suite\.data is required\. Pass suite\.data=\.\."):
            build_suite(NamedSpec(name="other"), None)
        build_suite(NamedSpec(name="other", data="folder"), None)  # type: ignore[call-arg]
    assert given == [("folder", 0.5)] * 2
