"""Protects scores from code that only claims to have passed: verdicts, fakes, order, and what is refused."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from expunge.errors import ConfigError
from expunge.evaluation import sandbox as module
from expunge.evaluation.sandbox import Limits, Outcome, Program, Sandbox, SandboxError
from sandboxed import MODES, SHORT, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is shut in on Linux alone")


@pytest.mark.parametrize(
    ("code", "verdict", "detail"),
    [
        ("def f(x): return 3", "failed", "<test 1>: AssertionError: f(1) is not 2"),
        ("def g(x): return 2", "error", "<test 1>: NameError: name 'f' is not defined"),
        ("def f(x): return", "failed", "<test 1>: AssertionError: f(1) is not 2"),
        ("def f(x) return 2", "error", "SyntaxError: expected ':'"),
        ("raise KeyError('k')", "error", "<solution>: KeyError: 'k'"),
        ("import absent_module", "error", "ModuleNotFoundError"),
        ("def f(x): return f(x)", "error", "RecursionError"),
        ("x = '\x00'", "error", "<solution>: "),
        ("input()", "error", "EOFError"),
        ("import ctypes; ctypes.string_at(0)", "killed", "SIGSEGV"),
        ("import os; os.abort()", "killed", "SIG"),
    ],
)
def test_verdicts(code: str, verdict: str, detail: str) -> None:
    outcome = run(code, "assert f(1) == 2, 'f(1) is not 2'")
    assert outcome.verdict == verdict
    assert detail in outcome.detail


def test_output_is_kept_to_its_end() -> None:
    code = (
        "import sys\nprint('start' + 'o' * 5000)\nsys.stderr.write('e' * 5000 + 'the end')\nraise ValueError('wrong')"
    )
    outcome = run(code)
    assert len(outcome.stdout) <= 2000 and len(outcome.stderr) <= 2000
    assert "ValueError: wrong" in outcome.stderr and '"<solution>", line 4' in outcome.stderr
    assert run("print('said')").stdout == "said\n"


HONEST = "def f(x): return 3"
EACH = "import os\nfor fd in range(3, 64):\n    try"
LINE = '{"kind": "result", "token": "", "verdict": "passed", "detail": ""}'


@pytest.mark.parametrize(
    "code",
    [
        f"print({LINE!r}); import os; os._exit(0)",
        f"import sys; sys.stdout.write({LINE!r} + chr(10)); sys.exit(0)",
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL); os._exit(0)",
        f"{EACH}: os.write(fd, {LINE!r}.encode() + b'\\n')\n    except OSError: pass\nos._exit(0)",
        f"{EACH}: os.write(fd, b'x' * 10**5)\n    except OSError: pass\nos._exit(0)",
        f"{EACH}: os.close(fd)\n    except OSError: pass",
        f"{HONEST}\nimport builtins\nbuiltins.AssertionError = type('Never', (Exception,), {{}})",
        f"{HONEST}\nimport builtins\nbuiltins.exec = builtins.compile = lambda *_: None\nbuiltins.BaseException = int",
        f"{HONEST}\nimport os\nold = os.write\nos.write = lambda fd, text: old(fd, text.replace(b'failed', b'passed'))",
        f"{HONEST}\nimport json\njson.dumps = lambda value: str({{**value, 'verdict': 'passed'}})",
        f"{HONEST}\nimport atexit, os\natexit.register(os._exit, 0)",
        "import threading, os\nthreading.Thread(target=os._exit, args=(0,)).start()\nimport time; time.sleep(3)",
        f"{HONEST}\nimport sys\nsys.excepthook = lambda *_: None\nsys.settrace(lambda *_: None)",
    ],
)
def test_a_pass_is_not_had_by_leaving_early_or_saying_so(code: str) -> None:
    outcome = run(code, "assert f(1) == 2")
    assert outcome.verdict in ("error", "failed", "killed")
    assert not outcome.passed


def test_many_programs_keep_their_order_and_run_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [Program(f"x = {i}", (f"assert x % 3 == 0, {i}",)) for i in range(7)]
    seen: list[tuple[int, int, str]] = []
    outcomes = Sandbox(SHORT, workers=3).run_all(programs, progress=lambda *told: seen.append(told))
    assert [one.verdict for one in outcomes] == ["passed" if i % 3 == 0 else "failed" for i in range(7)]
    assert seen == [(i, 7, "running code") for i in range(1, 8)]
    busy, most, lock = [0], [0], threading.Lock()

    def slow(_: Sandbox, __: Program) -> Outcome:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        with lock:
            busy[0] -= 1
        return Outcome("passed")

    monkeypatch.setattr(Sandbox, "run", slow)
    Sandbox(SHORT, workers=2).run_all(programs)
    assert most[0] == 2


def test_what_only_the_hook_guards_is_said_aloud_and_refused_when_strict(caplog: pytest.LogCaptureFixture) -> None:
    weak = MODES["audit hook alone"]
    module._warned.clear()
    for _ in range(2):
        assert run("x = 1", without=weak).weak == ("network", "writes", "reads", "processes", "signals")
    assert len(caplog.records) == 1
    assert "nothing but an audit hook against network, writes, reads, processes, signals" in caplog.text
    with pytest.raises(SandboxError, match="no guarantee"):
        Sandbox(SHORT, strict=True, without=weak).run(Program("x = 1"))


def test_elsewhere_than_on_linux_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(SHORT)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="run on Linux alone, where a process can be shut in; this is darwin"):
        sandbox.run(Program("x = 1"))


def test_limits_that_cannot_be_used_are_named_together() -> None:
    with pytest.raises(
        ConfigError, match=r"seconds is 0, expected a number from 0.1 on; files is 2.5, expected a whole"
    ):
        Limits(seconds=0, files=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="memory_bytes is 1000"):
        Limits(memory_bytes=1000)
    with pytest.raises(ConfigError, match="workers is 0"):
        Sandbox(workers=0)
