"""Protects the machine from generated code: nothing outside its folder is touched, and nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from expunge.evaluation.sandbox import Limits, Outcome
from sandboxed import MODES, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is shut in on Linux alone")

every_mode = pytest.mark.parametrize("without", MODES.values(), ids=MODES.keys())
modes = pytest.mark.parametrize("without", [MODES[name] for name in MODES if name != "no own root"])


def refused(outcome: Outcome) -> bool:
    """The code got an error from the system, and did not merely fail in another way."""
    return outcome.verdict == "error" and any(
        word in outcome.detail for word in ("PermissionError", "FileNotFoundError", "ProcessLookupError", "OSError")
    )


@pytest.fixture(autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sandboxes of a test have their folders, which their processes are known by."""
    folder = tmp_path_factory.mktemp("sandboxes")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user with a secret in its environment, that must neither be read nor killed."""
    code = "print('here', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], env={"SECRET": "open-sesame"}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@every_mode
def test_code_that_solves_its_task_passes(without: tuple[str, ...]) -> None:
    code = "import collections, math, re\ndef twice(x):\n    return 2 * x"
    outcome = run(code, "assert twice(2) == 4", "assert twice(math.pi) > 6", without=without)
    assert (outcome.verdict, outcome.detail) == ("passed", "")
    assert set(outcome.layers) == {"network", "writes", "reads", "processes", "signals"}
    assert all(outcome.layers.values())


@modes
@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w')",
        "open({path!r}, 'a').write('x')",
        "import os; os.open({path!r}, os.O_RDWR | os.O_CREAT)",
        "import os; os.remove({path!r})",
        "import os; os.mkdir({path!r} + '.d')",
        "import os; os.symlink('x', {path!r} + '.l')",
        "import os; os.rename({path!r}, {path!r} + '.2')",
        "import os; os.chmod({path!r}, 0o777)",
        "import pathlib; pathlib.Path({path!r}).write_text('x')",
        "import os; os.truncate({path!r}, 0)",
        "open('../../../../../../..' + {path!r}, 'w')",
        "open('/proc/self/root' + {path!r}, 'w')",
    ],
)
def test_nothing_is_written_outside_its_folder(code: str, without: tuple[str, ...], tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("as it was")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)  # nothing but the sandbox is in the way
    assert refused(run(code.format(path=str(kept)), without=without))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "as it was"
    assert kept.stat().st_mode & 0o777 == 0o666


def test_a_link_leads_nowhere_and_the_system_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("open-sesame")
    (tmp_path / "secret").chmod(0o666)
    assert refused(run(f"import os; os.symlink({str(tmp_path)!r}, 'l'); open('l/secret').read()"))
    for path in ("/usr/lib/x", sys.base_prefix + "/x", "/x", "/dev/shm/x", "/tmp/x", os.__file__):
        assert refused(run(f"open({path!r}, 'w')")), path


def test_its_own_folder_is_empty_can_be_written_and_is_gone_afterwards(folders: Path) -> None:
    code = "import os\nassert os.listdir() == []\nopen('a', 'w').write('b')\nassert open('a').read() == 'b'\n"
    outcome = run(code + "os.makedirs('c/d')\nos.chmod('c', 0)")
    assert list(folders.iterdir()) == []
    if "own root" not in outcome.layers["writes"]:
        pytest.skip("this machine permits no root of its own, so nothing can be written")
    assert outcome.passed


@every_mode
def test_files_and_environments_of_others_are_not_read(
    without: tuple[str, ...], bystander: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("open-sesame")
    assert "SECRET=open-sesame" in Path(f"/proc/{bystander.pid}/environ").read_text()
    for path in (f"/proc/{bystander.pid}/environ", f"/proc/{os.getpid()}/environ", tmp_path / "secret", "/etc/passwd"):
        outcome = run(f"print(open({str(path)!r}).read())", without=without)
        assert refused(outcome), path
        assert outcome.stdout == ""
    assert refused(run(f"import os; print(os.listdir({str(tmp_path)!r}))", without=without))


def test_its_own_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "open-sesame")
    assert run("import os", "assert dict(os.environ) == {}, os.environ").passed


@modes
@pytest.mark.parametrize(
    "code",
    [
        "import os, time\nwhile True: os.fork()",
        "import subprocess; subprocess.Popen(['sleep', '100'])",
        "import os; os.posix_spawn('/bin/sleep', ['sleep', '100'], {})",
        "import os; os.system('sleep 100 &') and None\nraise OSError",
        "import os; os.execv('/bin/true', ['true'])",
        "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    ],
)
def test_no_process_is_made(code: str, without: tuple[str, ...], folders: Path) -> None:
    outcome = run(code, without=without)
    assert outcome.verdict == "error"
    assert outcome.seconds < 4
    assert _processes(folders) == set()


def test_a_limit_on_processes_binds_root_too_and_what_is_left_dies(folders: Path) -> None:
    code = (
        "import os, time\nmade = 0\nwhile True:\n    try:\n        if os.fork() == 0:\n            time.sleep(100)\n"
        "    except OSError:\n        break\n    made += 1\n"
    )
    outcome = run(code, "assert made == 15, made", without=("seccomp",))  # 16 with the one that makes them
    if "process limit" not in outcome.layers["processes"]:
        pytest.skip("this machine permits no user of its own")
    assert outcome.passed
    assert _processes(folders) == set()


def test_threads_are_limited() -> None:
    code = (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()"
    )
    outcome = run(code)
    assert outcome.verdict in ("error", "out of memory")
    assert outcome.seconds < 4


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(1000)",
        "while True: pass",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "import os\nfor i in range(3, 100):\n    try: os.close(i)\n    except OSError: pass\nwhile True: pass",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start(); time.sleep(1000)",
        "class A:\n    def __eq__(self, other):\n        while True: pass\nassert A() == 1",
    ],
)
def test_hanging_code_is_ended(code: str) -> None:
    began = time.monotonic()
    outcome = run(code, limits=Limits(seconds=0.5))
    assert outcome.verdict == "timed out"
    assert 0.5 <= outcome.seconds < 2
    assert time.monotonic() - began < 10


def test_processor_time_is_limited() -> None:
    outcome = run("while True: pass", limits=Limits(seconds=60, cpu_seconds=1))
    assert (outcome.verdict, outcome.detail) == ("timed out", "used 1 s of processor time")
    assert outcome.seconds < 30


@modes
@pytest.mark.parametrize(
    "code",
    [
        "x = []\nwhile True: x.append('a' * 10**6 + str(len(x)))",
        "x = bytearray(10**12)",
        "x = [[0] * 1000 for _ in range(10**9)]",
        "x = 'a'\nwhile True: x += x",
    ],
)
def test_memory_is_limited(code: str, without: tuple[str, ...]) -> None:
    assert run(code, without=without).verdict == "out of memory"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("f = open('a', 'wb')\nwhile True: f.write(b'x' * 2**16)", "File too large"),
        ("for i in range(10**6):\n    open(str(i), 'wb').write(b'x' * 2**19)", "No space left"),
        ("for i in range(10**6): open(str(i), 'wb').close()", "No space left"),
        ("fs = [open(__import__('os').devnull) for _ in range(1000)]", "Too many open files"),
    ],
)
def test_disk_and_open_files_are_limited(code: str, reason: str) -> None:
    outcome = run(code)
    if "own root" not in outcome.layers["writes"]:
        assert refused(outcome)
    else:
        assert outcome.verdict == "error" and reason in outcome.detail


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_limited(stream: str) -> None:
    outcome = run(f"import sys\nwhile True: sys.{stream}.write('x' * 10000)")
    assert (outcome.verdict, outcome.detail) == ("killed", "wrote more than 1048576 bytes of output")


@modes
def test_no_socket_is_opened(without: tuple[str, ...]) -> None:
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        for code in (
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=1)",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
            "import socket; socket.socket(socket.AF_UNIX).bind('s')",
        ):
            outcome = run(code, without=without)
            assert outcome.verdict == "error", code
            assert any(name in outcome.detail for name in ("PermissionError", "URLError", "ModuleNotFound")), outcome
        with contextlib.suppress(TimeoutError):
            calls.append(server.accept())
    assert calls == []


@modes
def test_others_are_not_signalled(without: tuple[str, ...], bystander: subprocess.Popen[bytes]) -> None:
    for target in ("os.getppid()", str(os.getpid()), str(bystander.pid), "-1", "0"):
        outcome = run(f"import os, signal; os.kill({target}, signal.SIGKILL)", without=without)
        assert refused(outcome), target
    assert bystander.poll() is None


def test_a_normal_user_is_protected_too(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    """As root these tests see root's ways alone: the same from an unprivileged user, in an interpreter it can run."""
    if os.geteuid() != 0:
        pytest.skip("not root: every other test has shown it")
    source = str(Path(__file__).parents[2] / "src")
    code = (
        f"import sys, json; sys.path.insert(0, {source!r})\n"
        "from expunge.evaluation.sandbox import *\n"
        "found = []\n"
        "for without in json.loads(sys.argv[1]):\n"
        "    box = Sandbox(Limits(seconds=3, memory_bytes=2**27), without=without)\n"
        "    for code in json.loads(sys.argv[2]):\n"
        "        one = box.run(Program(code, ('assert f(1) == 2',)))\n"
        "        found.append([one.verdict, one.detail, one.weak])\n"
        "print(json.dumps(found))\n"
    )
    tried = {
        "def f(x): return 2": "passed",
        "def f(x): return 3": "failed",
        "import os\nwhile True: os.fork()": "error",
        "import socket; socket.socket()": "error",
        f"import os; os.kill({bystander.pid}, 9)": "error",
        "import os; os.kill(os.getppid(), 9)": "error",
        f"open({str(tmp_path / 'x')!r}, 'w')": "error",
        f"open('/proc/{bystander.pid}/environ')": "error",
        "import os; open(f'/proc/{os.getppid()}/environ')": "error",
        "x = bytearray(10**10)": "out of memory",
    }
    tmp_path.chmod(0o777)
    given = json.dumps([list(without) for without in MODES.values()]), json.dumps(list(tried))
    for interpreter in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [interpreter, "-I", "-S", "-c", code, *given], user=65534, group=65534, extra_groups=[],
                capture_output=True, text=True, cwd="/", env={}, timeout=100,
            )  # fmt: skip
        except OSError:
            continue  # a home folder is closed to other users
        if done.returncode == 0:
            break
    else:
        pytest.skip("no interpreter that an unprivileged user can run with this package")
    found = json.loads(done.stdout)
    assert [verdict for verdict, *_ in found] == list(tried.values()) * len(MODES), found
    assert list(tmp_path.iterdir()) == []
    assert bystander.poll() is None


def test_the_launcher_dies_with_its_caller(folders: Path) -> None:
    source = str(Path(__file__).parents[2] / "src")
    code = (
        f"import sys; sys.path.insert(0, {source!r})\nfrom expunge.evaluation.sandbox import *\n"
        "print('begun', flush=True); Sandbox(Limits(seconds=30)).run(Program('while True: pass'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(folders)}
    )
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    deadline = time.monotonic() + 20
    while len(_processes(folders)) < 2 and time.monotonic() < deadline:  # launcher and code
        time.sleep(0.02)
    assert len(_processes(folders)) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    while _processes(folders) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _processes(folders) == set()


def _processes(folders: Path) -> set[int]:
    """The processes of sandboxes with a folder there, launchers included."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.fsencode(folders) in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
            except OSError:
                pass
    return found
