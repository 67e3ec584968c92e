"""A client of OpenAI-compatible endpoints: patient with busy ones, strict with odd replies, and no call paid twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.errors import CacheError, ConfigError, EndpointError

if TYPE_CHECKING:
    from expunge.training.run import Progress

T = TypeVar("T")
Conversation = Sequence[tuple[str, str]]
"""Turns of role and content."""

KEY = "OPENAI_API_KEY"
_PATH = "/chat/completions"
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_ASKS_FOR_PATIENCE = {429, 503}
_TRIES = 5
_LONGEST_WAIT = 60.0  # seconds, whatever the endpoint asks for
_THOUGHTS = ("<think>", "</think>")
_SHOWN = 200


@dataclass(frozen=True)
class Caller:
    """On whose behalf a client asks, as its messages say it: ``who`` it is, what it ``gives``, the ``option`` whose
    ``_key`` and ``_cache`` a user sets, and the class of its errors."""

    who: str = "endpoint"
    gives: str = "reply"
    option: str = "endpoint"
    error: type[EndpointError] = EndpointError


class EndpointClient:
    """Asks ``model`` at ``url`` (``http://HOST/v1``), up to ``at_once`` questions at a time.

    The key is read from the environment variable ``key_variable`` when it is needed and written nowhere; without it no
    key is sent, as local servers want it. A busy or unreachable endpoint is tried five times, after 1, 2, 4, 8 times
    ``wait`` seconds or what its ``Retry-After`` says, a minute at most; where it asks for patience, no other question
    is sent meanwhile. ``per_minute`` spaces all requests evenly. ``cache`` is a file of replies by what was asked.
    Thoughts that end in ``</think>`` are no part of a reply. Models that take neither ``max_tokens`` nor a temperature
    and say so get the request in their form.

    ``clock`` and ``sleep`` stand in for the machine's in tests.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        caller: Caller | None = None,
        key_variable: str | None = None,
        cache: str | Path | None = None,
        per_minute: float | None = None,
        at_once: int = 8,
        timeout: float = 60.0,
        wait: float = 1.0,
        temperature: float = 0.0,
        max_tokens: int = 2048,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.caller = caller or Caller()
        if per_minute is not None and not per_minute > 0:
            raise ConfigError(
                f"{self.caller.option}_rate={per_minute}: expected a number of requests a minute above 0, or null for "
                "no limit."
            )
        self.url = url.rstrip("/").removesuffix(_PATH)
        self.model = model
        self._key_variable = key_variable or KEY
        self._cache = None if cache is None else _Cache(Path(cache).expanduser(), self.caller)
        self._pace = _Pace(per_minute, clock, sleep)
        self._at_once = at_once
        self._timeout = timeout
        self._wait = wait
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._sleep = sleep

    def complete(self, prompt: str) -> str:
        """The model's reply to ``prompt``."""
        return self.ask([("user", prompt)], str)

    def ask(
        self, conversation: Conversation, parse: Callable[[str], T], *, version: int = 0, repair: str | None = None
    ) -> T:
        """What ``parse`` makes of the reply to ``conversation``.

        ``parse`` raises a ValueError that says what it expected. Then, where ``repair`` is given, the model is told so
        with ``repair`` behind it, once. Only replies that ``parse`` takes are kept in the cache, by the URL, the model,
        its settings, the conversation and the ``version`` of how it is asked and parsed.

        Raises:
            EndpointError: no reply, or none that can be used (the class that the caller names).
        """
        key = self._key(conversation, version)
        kept = None if self._cache is None else self._cache.replies.get(key)
        if kept is not None:
            return parse(kept)
        text = self._reply(conversation)
        try:
            found = parse(text)
        except ValueError as error:
            if repair is None:
                raise self._unusable(text, error) from error
            said = f"That cannot be used: {error}. {repair}"
            text = self._reply([*conversation, ("assistant", text), ("user", said)])
            try:
                found = parse(text)
            except ValueError as again:
                raise self._unusable(text, again) from again
        if self._cache is not None:
            self._cache.add(key, text)
        return found

    def ask_all(
        self,
        conversations: Sequence[Conversation],
        parse: Callable[[str], T],
        *,
        version: int = 0,
        repair: str | None = None,
        progress: Progress | None = None,
        what: str = "asking",
    ) -> list[T]:
        """:meth:`ask` for each of ``conversations``, in their order; equal ones are sent once. The first error ends
        it, with the replies up to then kept in the cache."""
        keys = [self._key(one, version) for one in conversations]
        open_ = dict(zip(keys, conversations, strict=True))
        found: dict[str, T] = {}
        counting = threading.Lock()
        new = len(open_) if self._cache is None else len(open_.keys() - self._cache.replies.keys())
        asked = 0
        ended = threading.Event()  # set where an error happens: the next question must not wait to be taken back

        def answer(key: str) -> None:
            nonlocal asked
            if ended.is_set():
                return
            known = self._cache is not None and key in self._cache.replies
            try:
                reply = self.ask(open_[key], parse, version=version, repair=repair)
            except BaseException:
                ended.set()
                raise
            with counting:
                found[key] = reply
                if not known:
                    asked += 1
                    if progress is not None:
                        progress(asked, new, what)

        with ThreadPoolExecutor(self._at_once) as pool:
            futures = [pool.submit(answer, key) for key in open_]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                ended.set()
                for future in futures:
                    future.cancel()
                raise
        return [found[key] for key in keys]

    def _key(self, conversation: Conversation, version: int) -> str:
        settings = [self.url, self.model, self._temperature, self._max_tokens]
        return hashlib.sha256(json.dumps([version, *settings, list(conversation)]).encode()).hexdigest()

    def _reply(self, conversation: Conversation) -> str:
        """The text of the reply, thoughts aside."""
        body = self._post(
            {
                "model": self.model,
                "messages": [{"role": role, "content": content} for role, content in conversation],
                "temperature": self._temperature,
                "max_tokens": self._max_tokens,
            }
        )
        who = f"{self.caller.who} {self.model} at {self.url}"
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise self.caller.error(
                f"{self.caller.who} {self.url}: its reply is not that of an OpenAI-compatible endpoint "
                f"({body[:_SHOWN]!r}). Check the URL."
            ) from error
        if not isinstance(text, str):
            raise self.caller.error(
                f"{who} replied without text (its content is {json.dumps(text)[:_SHOWN]}). A model that thinks may "
                f"have used up its {self._max_tokens} tokens, another may call tools instead: turn that off at the "
                "endpoint, or choose another model."
            )
        begin, end = _THOUGHTS
        if text.lstrip().startswith(begin) and end not in text:
            raise self.caller.error(
                f"{who} was still thinking when its {self._max_tokens} tokens were used up. Turn thinking off at the "
                "endpoint, or choose another model."
            )
        return text.rpartition(end)[2].strip()

    def _post(self, content: dict[str, Any]) -> str:
        said = ""
        for attempt in range(_TRIES):
            wait = self._wait * 2**attempt
            self._pace.turn()
            try:
                with urllib.request.urlopen(self._request(content), timeout=self._timeout) as response:
                    return str(response.read().decode("utf-8", "replace"))
            except urllib.error.HTTPError as error:
                text = error.read(_SHOWN).decode("utf-8", "replace")
                said = f"status {error.code}: {text!r}"
                if error.code in (401, 403):
                    said += (
                        f". Put a valid key into the environment variable {self._key_variable} "
                        f"({self.caller.option}_key)"
                    )
                if error.code == 400 and (other := _in_its_form(content, text)) is not None:
                    content = other
                    continue
                if error.code not in _AGAIN:
                    break
                wait = _seconds(error.headers.get("Retry-After"), wait)
                if error.code in _ASKS_FOR_PATIENCE:
                    self._pace.hold(min(wait, _LONGEST_WAIT))
                    continue  # its next turn waits as long
            except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
                said = str(getattr(error, "reason", error) or type(error).__name__)
            if attempt + 1 < _TRIES:
                self._sleep(min(wait, _LONGEST_WAIT))
        raise self.caller.error(
            f"{self.caller.who} {self.url} gives no {self.caller.gives} ({said}). Check the URL, the model's name and "
            "the key."
        )

    def _request(self, content: dict[str, Any]) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._key_variable):
            headers["Authorization"] = f"Bearer {key}"
        return urllib.request.Request(f"{self.url}{_PATH}", json.dumps(content).encode(), headers, method="POST")

    def _unusable(self, text: str, error: ValueError) -> EndpointError:
        return self.caller.error(
            f"{self.caller.who} {self.model} at {self.url} replied {text[:_SHOWN]!r}, {error}. Choose a model that "
            "does as it is asked."
        )


class _Pace:
    """When the next request may be sent, for all threads of a client."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock, self._sleep = clock, sleep
        self._next = float("-inf")
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Wait for the next free moment, and take it."""
        with self._lock:
            now = self._clock()
            at = max(now, self._next)
            self._next = at + self._gap
        if at > now:
            self._sleep(at - now)

    def hold(self, seconds: float) -> None:
        """Let nobody send anything for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class _Cache:
    """Replies in a JSON Lines file, one appended at a time; a last line that was cut off is dropped."""

    def __init__(self, path: Path, caller: Caller) -> None:
        self.path = path
        self.replies: dict[str, str] = {}
        self._lock = threading.Lock()
        if not path.exists():
            return
        try:
            text = path.read_text(encoding="utf-8")
            *lines, rest = text.split("\n")
            for number, line in enumerate(lines, 1):
                entry = json.loads(line)
                if not (isinstance(entry["key"], str) and isinstance(entry["reply"], str)):
                    raise ValueError(f"line {number} has no reply")
                self.replies[entry["key"]] = entry["reply"]
            if rest:
                with path.open("r+b") as file:
                    file.truncate(len(text.encode()) - len(rest.encode()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{caller.option}_cache: {path} is no cache of {caller.gives}s ({error}). Name another file, or "
                "delete it."
            ) from error

    def add(self, key: str, reply: str) -> None:
        with self._lock:
            self.replies[key] = reply
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "reply": reply}) + "\n")


def _in_its_form(content: dict[str, Any], said: str) -> dict[str, Any] | None:
    """``content`` without what the endpoint says it does not take, None where it says nothing of the kind: models that
    think count their tokens under another name, and some have one temperature only."""
    if "max_completion_tokens" in said and "max_tokens" in content:
        rest = {name: value for name, value in content.items() if name != "max_tokens"}
        return {**rest, "max_completion_tokens": content["max_tokens"]}
    if "temperature" in said and "unsupported" in said.casefold() and "temperature" in content:
        return {name: value for name, value in content.items() if name != "temperature"}
    return None


def _seconds(text: str | None, otherwise: float) -> float:
    """What a ``Retry-After`` says: seconds, or a date."""
    if text is None:
        return otherwise
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return otherwise
