"""Protects numbers that live through training: a dual variable is logged, kept, and goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from fitting import StoppedError, fit, same_tensors, stop_at
from history import read_history

VALUES = {"eps": 0.5, "initial": 2.0, "eta": 0.25, "warmup_epochs": 0.0}


def test_the_dual_variable_follows_its_rule_and_is_logged_and_recorded(tmp_path: Path) -> None:
    erasure = fit("pdu", VALUES, folder=tmp_path)
    lines = [line for line in read_history(tmp_path) if "loss" in line]
    expected = 2.0
    for line in lines:
        # lambda + eta (nll - eps) after each step; the log has the step's nll and the lambda that came out of it
        expected = max(0.0, expected + 0.25 * (line["retain_nll"] - 0.5))
        assert line["lambda"] == pytest.approx(expected, rel=1e-5)
    assert len(lines) == 6
    assert erasure.details["state"]["lambda"] == lines[-1]["lambda"] != 2.0


def test_the_loss_in_the_log_is_the_sum_of_its_terms_alone(tmp_path: Path) -> None:
    fit("pdu", VALUES, folder=tmp_path)
    for line in read_history(tmp_path):
        assert line["loss"] == pytest.approx(line["forget_loss"] + line["retain_loss"], rel=1e-5)


def test_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fit("pdu", VALUES, folder=tmp_path, checkpoint_every=1, progress=stop_at(3))
    resumed = fit("pdu", VALUES, folder=tmp_path, checkpoint_every=1)
    straight = fit("pdu", VALUES, checkpoint_every=1)
    assert same_tensors(resumed, straight)
    assert resumed.details["state"] == straight.details["state"]
