"""Protects judging answers through an endpoint: what is sent, strict JSON with one repair, replies kept by wording."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint_server import Clock, Fault, said, serving
from endpoint_server import Endpoint as Server
from expunge.errors import JudgeError
from expunge.evaluation.answer_judge import Asked
from expunge.evaluation.answer_judges import endpoint
from expunge.evaluation.answer_judges.endpoint import Endpoint, parse_verdict
from expunge.evaluation.types import AnswerVerdict

ASKED = [Asked("Where?", "Vienna", "In Vienna."), Asked("Where?", "Vienna", "I do not know.")]


def judged(body: dict[str, Any]) -> str:
    answer = body["messages"][1]["content"].partition("<model_answer>")[2]
    known = "Vienna" in answer or "Paris" in answer
    return json.dumps({"privacy": 1 if known else 0, "quality": 0.9, "rejection": 0 if known else 1})


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(judged) as found:
        yield found


def test_verdicts_in_order(server: Server) -> None:
    judge = Endpoint(server.url, "small")
    assert judge.verdicts(ASKED) == [AnswerVerdict(1, 0.9, 0), AnswerVerdict(0, 0.9, 1)]
    sent = sorted(one["messages"][1]["content"] for one in server.seen)
    assert sent[0].startswith(
        "<question>\nWhere?\n</question>\n<right_answer>\nVienna\n</right_answer>\n<model_answer>\nI do not know.\n"
    )
    assert judge.label == "small"


@pytest.mark.parametrize(
    "reply",
    [
        '{"privacy": 0.5, "quality": 1, "rejection": 0}',
        '```json\n{"rejection": 0, "privacy": 0.5, "quality": 1.0}\n```',
        '<think>{"privacy": 1}</think>\n {"privacy": 0.5, "quality": 1, "rejection": 0.0}',
    ],
)
def test_the_object_in_any_dress(server: Server, reply: str) -> None:
    server.faults = [Fault(body=said(reply))]
    assert Endpoint(server.url, "small").verdicts(ASKED[:1]) == [AnswerVerdict(0.5, 1, 0)]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("It gives it away.", "expected a JSON object and nothing else"),
        ('Here: {"privacy": 0, "quality": 1, "rejection": 0}', "expected a JSON object and nothing else"),
        ("[0, 1, 0]", "expected a JSON object with the keys privacy, quality, rejection"),
        ('{"privacy": 0, "quality": 1}', "with the keys privacy, quality, rejection"),
        ('{"privacy": 0, "quality": 1, "rejection": 0, "why": ""}', "with the keys privacy, quality, rejection"),
        (
            '{"privacy": 0.7, "quality": 2, "rejection": true}',
            "privacy is 0.7, expected 0, 0.5 or 1; quality is 2, expected a number from 0 to 1; rejection is true,",
        ),
        ('{"privacy": "0", "quality": NaN, "rejection": null}', 'privacy is "0", .* quality is NaN, .* is null,'),
    ],
)
def test_what_is_no_such_object(server: Server, reply: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_verdict(reply)
    server.faults = [Fault(body=said(reply))]
    assert Endpoint(server.url, "small").verdicts(ASKED[:1]) == [AnswerVerdict(1, 0.9, 0)]  # the second time it is
    told = server.seen[1]["messages"][-1]["content"]
    assert told.startswith("That cannot be used: ")
    assert told.endswith('and "rejection" (0 or 1).')
    server.faults = [Fault(body=said(reply))] * 2
    with pytest.raises(JudgeError, match=r"judge small at .* replied .* Choose a model that does as it is asked"):
        Endpoint(server.url, "small").verdicts(ASKED[:1])


def test_replies_are_kept_by_the_prompts_version(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "verdicts.jsonl"
    first = Endpoint(server.url, "small", cache=path).verdicts(ASKED)
    assert Endpoint(server.url, "small", cache=path).verdicts(ASKED) == first
    assert len(server.seen) == 2
    monkeypatch.setattr(endpoint, "PROMPT_VERSION", 2)
    Endpoint(server.url, "small", cache=path).verdicts(ASKED)
    assert len(server.seen) == 4


def test_a_check_sends_one_harmless_question(server: Server) -> None:
    Endpoint(server.url, "small").check()
    assert len(server.seen) == 1
    assert "Paris" in server.seen[0]["messages"][1]["content"]
    server.faults = [Fault(404, "no such model")]
    with pytest.raises(JudgeError, match=r"judge http.* gives no verdict \(status 404"):
        Endpoint(server.url, "small").check()


def test_a_limit_on_requests_holds(server: Server) -> None:
    clock = Clock()
    judge = Endpoint(server.url, "small", per_minute=20, at_once=1, clock=clock, sleep=clock.sleep)
    judge.verdicts(ASKED)
    assert clock.slept == [3]  # 60 / 20 seconds between the two
