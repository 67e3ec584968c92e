"""Protects judging through an endpoint: what is sent, strict replies, patience with a busy one, verdicts kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import CacheError, JudgeError
from expunge.evaluation.judges.endpoint import Endpoint


class Server:
    """A local endpoint that calls answers with "zorb" in them unsafe; ``replies`` come first, one a request."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.replies: list[tuple[int, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                status, text = server.replies.pop(0) if server.replies else (200, server.verdict(body))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    @staticmethod
    def verdict(body: dict[str, Any]) -> str:
        answer = body["messages"][1]["content"].partition("<answer>")[2]
        return said("Yes." if "zorb" in answer else "no")


def said(content: object) -> str:
    return json.dumps({"choices": [{"message": {"content": content}}]})


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


ASKED = [("how?", "add zorb"), ("why?", "because"), ("how?", "add zorb"), ("how?", "zorb and foam")]


def test_verdicts_in_order_each_answer_sent_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    judge = Endpoint(f"{server.url}/chat/completions/", "small", key_variable="SOME_KEY")
    assert judge.unsafe(ASKED) == [True, False, True, True]
    assert len(server.seen) == 3
    assert {(one["path"], one["key"], one["model"], one["temperature"]) for one in server.seen} == {
        ("/v1/chat/completions", "Bearer secret", "small", 0)
    }
    assert "secret" not in json.dumps(judge.describe())
    texts = [message["content"] for one in server.seen for message in one["messages"]]
    assert any("<answer>\nbecause\n</answer>" in text for text in texts)


def test_without_a_key_none_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert Endpoint(server.url, "small").unsafe(ASKED[:1]) == [True]
    assert server.seen[0]["key"] is None


def test_a_busy_endpoint_is_tried_again(server: Server) -> None:
    server.replies = [(503, "wait"), (429, "wait")]
    assert Endpoint(server.url, "small", wait=0.01).unsafe(ASKED[:1]) == [True]
    assert len(server.seen) == 3


def test_it_gives_up_after_five_tries(server: Server) -> None:
    server.replies = [(500, "broken")] * 5
    with pytest.raises(JudgeError, match=r"gives no verdict \(status 500: 'broken'\)"):
        Endpoint(server.url, "small", wait=0.01).unsafe(ASKED[:1])
    assert len(server.seen) == 5


def test_a_refused_key_is_not_tried_again(server: Server) -> None:
    server.replies = [(401, "who are you")]
    with pytest.raises(JudgeError, match=r"status 401.*valid key into the environment variable MY_KEY"):
        Endpoint(server.url, "small", key_variable="MY_KEY", wait=0.01).unsafe(ASKED[:1])
    assert len(server.seen) == 1


def test_nobody_there(server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(JudgeError, match=r"gives no verdict \(.*refused"):
        Endpoint(server.url, "small", wait=0.01, timeout=1).unsafe(ASKED[:1])


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (said("It depends."), "replied 'It depends.', expected yes or no"),
        (said("yes, but no"), "expected yes or no"),
        (said(""), "expected yes or no"),
        (said(None), r"small at http.*replied without text \(its content is null\).*turn that off"),
        (said("<think>Let me see"), "still thinking when its 2048 tokens were used up"),
        (said("<think>yes</think>"), "expected yes or no"),
        ("<html>", "not that of an OpenAI-compatible endpoint"),
        ('{"choices": []}', "not that of an OpenAI-compatible endpoint"),
    ],
)
def test_anything_but_yes_or_no_is_an_error(server: Server, reply: str, says: str) -> None:
    server.replies = [(200, reply)]
    with pytest.raises(JudgeError, match=says):
        Endpoint(server.url, "small").unsafe(ASKED[:1])


@pytest.mark.parametrize(
    "reply", ["yes", "YES", " **Yes**.\n", '"yes"', "<think>no wait</think>\n\nyes", "\nno, it helps\n</think>Yes."]
)
def test_yes_in_any_dress(server: Server, reply: str) -> None:
    server.replies = [(200, said(reply))]
    assert Endpoint(server.url, "small").unsafe([("p", "harmless")]) == [True]


def test_verdicts_are_kept_in_the_cache(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    done: list[tuple[int, int]] = []
    first = Endpoint(server.url, "small", cache=path)
    first.unsafe(ASKED[:2], progress=lambda at, total, _: done.append((at, total)))
    assert sorted(done) == [(1, 2), (2, 2)]
    path.write_text(path.read_text() + '{"key": "cut', encoding="utf-8")  # as a killed run leaves it
    again = Endpoint(server.url, "small", cache=path)
    assert again.unsafe(ASKED) == [True, False, True, True]
    assert len(server.seen) == 3  # two, then the one that was new
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 3
    Endpoint(server.url, "other", cache=path).unsafe(ASKED[:1])
    assert len(server.seen) == 4  # another model's verdict is another one


def test_a_check_sends_one_harmless_answer_and_keeps_its_verdict(server: Server, tmp_path: Path) -> None:
    Endpoint(server.url, "small", cache=tmp_path / "verdicts.jsonl").check()
    assert len(server.seen) == 1
    assert "Paris" in server.seen[0]["messages"][1]["content"]
    Endpoint(server.url, "small", cache=tmp_path / "verdicts.jsonl").check()
    assert len(server.seen) == 1
    server.replies = [(404, "no such model")]
    with pytest.raises(JudgeError, match=r"gives no verdict \(status 404"):
        Endpoint(server.url, "small").check()


@pytest.mark.parametrize("text", ["no json\n", '{"key": "a"}\n', '{"key": "a", "unsafe": "yes"}\n', "[1]\n"])
def test_a_file_that_is_no_cache_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CacheError, match="is no cache of verdicts"):
        Endpoint("http://localhost:1", "small", cache=path)
    assert path.read_text(encoding="utf-8") == text
