"""Protects how work is dealt to processes, and that one process needs nothing from the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from expunge import distributed
from expunge.errors import ModelError
from launching import launch


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment that a launcher gives to the second of two processes."""
    told = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_one_process_is_alone() -> None:
    assert (distributed.processes(), distributed.process(), distributed.is_main()) == (1, 0, True)
    assert distributed.gather([1, 2]) == [1, 2]
    assert distributed.broadcast("said") == "said"
    assert distributed.on_main(lambda: 3) == 3
    assert distributed.gpu() == "cuda"
    distributed.barrier()
    distributed.leave()


def test_the_launcher_says_which_process_this_is(two: pytest.MonkeyPatch) -> None:
    assert (distributed.processes(), distributed.process(), distributed.is_main()) == (2, 1, False)
    two.delenv("MASTER_PORT")  # half an environment, as some clusters set it for every job
    assert (distributed.processes(), distributed.is_main()) == (1, True)


def test_rows_are_dealt_forth_and_back_by_length(two: pytest.MonkeyPatch) -> None:
    # longest first: 9 (row 4), 7 (0), 5 (2), 3 (1), 2 (3); dealt 0 1 | 1 0 | 0
    lengths = [7, 3, 5, 2, 9]
    assert distributed.share(lengths) == [0, 2]
    two.setenv("RANK", "0")
    assert distributed.share(lengths) == [4, 1, 3]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 4, 11])
def test_every_row_is_dealt_once(two: pytest.MonkeyPatch, rows: int, processes: int) -> None:
    two.setenv("WORLD_SIZE", str(processes))
    dealt = []
    for number in range(processes):
        two.setenv("RANK", str(number))
        dealt.append(distributed.share(list(range(rows))))
    assert sorted(row for some in dealt for row in some) == list(range(rows))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_process_without_a_gpu_of_its_own_is_told(two: pytest.MonkeyPatch) -> None:
    two.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ModelError, match=r"process 1 of this machine has no GPU of its own: there are 1"):
        distributed.gpu()
    two.setattr("torch.cuda.device_count", lambda: 2)
    assert distributed.gpu() == "cuda:1"


WORKER = """
from expunge import distributed
from expunge.errors import RequestError

def fail():
    raise RequestError("no rows")

number = distributed.process()
assert distributed.gather([number] * (number + 1)) == [0, 1, 1]
assert distributed.broadcast(number) == 0
# inside, the main process waits for nobody: as if it were alone
assert distributed.on_main(lambda: (distributed.processes(), distributed.gather([number]))) == (1, [0])
assert distributed.processes() == 2
try:
    distributed.on_main(fail)
except RequestError as error:
    assert str(error) == "no rows"
else:
    raise AssertionError
distributed.barrier()
distributed.leave()
"""


def test_two_processes_talk(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    launch(tmp_path / "worker.py")


def test_one_process_imports_nothing_for_it() -> None:
    use = "d.gather([1]); d.barrier(); d.broadcast(1); d.on_main(int); d.share([1])"
    code = f"import sys; from expunge import distributed as d; {use}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
