"""Protects the client of endpoints: patience as asked for, a pace, replies kept by what was asked, plain errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint_server import Clock, Endpoint, Fault, said, serving
from expunge.errors import ConfigError, EndpointError
from expunge.evaluation.endpoint_client import Caller, EndpointClient

GONE = "Mon, 01 Jan 2001 00:00:00 GMT"
FAR = "Fri, 01 Jan 2999 00:00:00 GMT"


def echo(body: dict[str, Any]) -> str:
    return f"<think>hm</think> {body['messages'][-1]['content'].upper()} "


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serving(echo) as endpoint:
        yield endpoint


def client(server: Endpoint, clock: Clock, **settings: Any) -> EndpointClient:
    return EndpointClient(server.url, "small", clock=clock, sleep=clock.sleep, **settings)


def test_a_prompt_is_completed(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    assert client(server, Clock(), key_variable="SOME_KEY", temperature=0.5).complete("hello") == "HELLO"
    assert server.seen == [
        {
            "path": "/v1/chat/completions",
            "key": "Bearer secret",
            "model": "small",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.5,
            "max_tokens": 2048,
        }
    ]


@pytest.mark.parametrize(
    ("faults", "slept"),
    [
        ([Fault(500), Fault(502), Fault(504)], [1, 2, 4]),  # 1 second, doubled each time
        ([Fault(429)], [1]),
        ([Fault(429, headers={"Retry-After": "7"}), Fault(503, headers={"Retry-After": "0.5"})], [7, 0.5]),
        ([Fault(429, headers={"Retry-After": "3600"})], [60]),  # a minute at most
        ([Fault(429, headers={"Retry-After": FAR})], [60]),
        ([Fault(503, headers={"Retry-After": GONE})], []),
        ([Fault(429, headers={"Retry-After": "soon"})], [1]),
        ([Fault(body="{", cut=True)], [1]),  # a reply whose end is missing
    ],
)
def test_patience(server: Endpoint, faults: list[Fault], slept: list[float]) -> None:
    clock = Clock()
    server.faults = list(faults)
    assert client(server, clock).complete("hello") == "HELLO"
    assert clock.slept == pytest.approx(slept)
    assert len(server.seen) == len(faults) + 1


def test_slow_replies_are_not_waited_for(server: Endpoint) -> None:
    clock = Clock()
    server.faults = [Fault(slow=True)]
    assert client(server, clock, timeout=0.2).complete("hello") == "HELLO"
    server.faults = [Fault(slow=True)] * 5
    with pytest.raises(EndpointError, match=r"gives no reply \(timed out\)"):
        client(server, clock, timeout=0.05).complete("hello")
    assert clock.slept == [1, 1, 2, 4, 8]  # nobody waits after the fifth


def test_a_limit_spaces_requests_evenly(server: Endpoint) -> None:
    clock = Clock()
    slow = client(server, clock, per_minute=30, at_once=1)
    assert slow.ask_all([[("user", text)] for text in "abc"], str) == ["A", "B", "C"]
    assert clock.slept == [2, 2]  # 60 / 30 seconds apart, the first at once
    with pytest.raises(ConfigError, match=r"endpoint_rate=0: expected a number of requests a minute above 0"):
        client(server, clock, per_minute=0)


def test_patience_asked_for_one_question_holds_the_next_too(server: Endpoint) -> None:
    clock = Clock()
    both = client(server, clock, at_once=1)
    server.faults = [Fault(429, headers={"Retry-After": "9"})] * 5
    with pytest.raises(EndpointError, match="status 429"):
        both.complete("hello")
    assert clock.slept == [9, 9, 9, 9]
    assert both.complete("hello") == "HELLO"
    assert clock.slept == [9, 9, 9, 9, 9]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(404, "no model small"), r"gives no reply \(status 404: 'no model small'\). Check the URL"),
        (Fault(403, "no"), r"status 403.*valid key into the environment variable OPENAI_API_KEY \(endpoint_key\)"),
        (Fault(400, "temperature too high"), "status 400: 'temperature too high'"),
        (Fault(200, "<html>"), "not that of an OpenAI-compatible endpoint"),
        (Fault(200, '{"choices": []}'), "not that of an OpenAI-compatible endpoint"),
        (Fault(200, '{"choices": {"message": 1}}'), "not that of an OpenAI-compatible endpoint"),
        (Fault(200, "[1, 2]"), "not that of an OpenAI-compatible endpoint"),
        (Fault(200, said(None)), "replied without text"),
        (Fault(200, said("<think>so")), "still thinking"),
    ],
)
def test_what_no_patience_helps_is_an_error_at_once(server: Endpoint, fault: Fault, says: str) -> None:
    clock = Clock()
    server.faults = [fault]
    with pytest.raises(EndpointError, match=says):
        client(server, clock).complete("hello")
    assert (len(server.seen), clock.slept) == (1, [])


def test_models_that_take_other_settings_get_them(server: Endpoint) -> None:
    server.faults = [
        Fault(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        Fault(400, "Unsupported value: 'temperature' does not support 0 with this model."),
    ]
    clock = Clock()
    assert client(server, clock).complete("hello") == "HELLO"
    last = server.seen[-1]
    assert last["max_completion_tokens"] == 2048
    assert not {"max_tokens", "temperature"} & last.keys()
    assert clock.slept == []


def whole_number(text: str) -> int:
    if not text.isdigit():
        raise ValueError("expected a whole number")
    return int(text)


def test_a_reply_of_another_form_is_repaired_once(server: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    one = client(server, Clock(), cache=path)
    server.faults = [Fault(body=said("seven")), Fault(body=said("7"))]
    assert one.ask([("user", "3 + 4?")], whole_number, repair="Digits only.") == 7
    assert [(turn["role"], turn["content"]) for turn in server.seen[1]["messages"]] == [
        ("user", "3 + 4?"),
        ("assistant", "seven"),
        ("user", "That cannot be used: expected a whole number. Digits only."),
    ]
    # kept is the reply that could be used, under the question as it was asked
    assert client(server, Clock(), cache=path).ask([("user", "3 + 4?")], whole_number, repair="Digits only.") == 7
    assert len(server.seen) == 2
    server.faults = [Fault(body=said("eight")), Fault(body=said("ate"))]
    with pytest.raises(EndpointError, match=r"endpoint small at .* replied 'ate', expected a whole number"):
        one.ask([("user", "4 + 4?")], whole_number, repair="Digits only.")
    assert len(path.read_text().splitlines()) == 1


def test_replies_are_kept_by_all_that_decides_them(server: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    questions = [[("user", text)] for text in ("a", "b", "a")]
    progress: list[tuple[int, int]] = []
    first = client(server, Clock(), cache=path)
    found = first.ask_all(questions, str, progress=lambda done, total, _: progress.append((done, total)))
    assert found == ["A", "B", "A"]
    assert len(server.seen) == 2  # equal questions are one
    assert sorted(progress) == [(1, 2), (2, 2)]
    assert client(server, Clock(), cache=path).ask_all(questions, str) == ["A", "B", "A"]
    assert len(server.seen) == 2
    assert all(json.loads(line).keys() == {"key", "reply"} for line in path.read_text().splitlines())
    for sent, other in enumerate(
        (
            client(server, Clock(), cache=path, temperature=1.0),
            client(server, Clock(), cache=path, max_tokens=10),
            EndpointClient(server.url, "large", cache=path),
        ),
        start=3,
    ):
        other.complete("a")
        assert len(server.seen) == sent
    first.ask([("user", "a")], str, version=2)
    assert len(server.seen) == 6


def test_the_first_error_ends_it_and_keeps_what_was_said(server: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    server.faults = [Fault(body=said("1")), Fault(404, "gone")]
    with pytest.raises(EndpointError, match="status 404"):
        client(server, Clock(), cache=path, at_once=1).ask_all([[("user", text)] for text in "abcd"], whole_number)
    assert len(path.read_text().splitlines()) == 1
    assert len(server.seen) == 2  # one at a time: nothing more was on its way


def test_so_many_questions_at_a_time(server: Endpoint) -> None:
    """Three are held until all three are there; were fewer sent at once, they would never come."""
    meeting = threading.Barrier(3, timeout=10)
    server.reply = lambda body: f"{body['messages'][0]['content']}{meeting.wait() * 0}"
    assert client(server, Clock(), at_once=3).ask_all([[("user", text)] for text in "abc"], str) == ["a0", "b0", "c0"]


def test_messages_speak_for_the_caller(server: Endpoint) -> None:
    class OwnError(EndpointError):
        pass

    caller = Caller("questioner", "question", "request.endpoint", OwnError)
    server.faults = [Fault(401, "who")]
    with pytest.raises(OwnError, match=r"^questioner http.* gives no question \(status 401.*\(request.endpoint_key\)"):
        client(server, Clock(), caller=caller).complete("hello")
