"""Protects the training loop: exact losses and updates whatever the split, its log, and every reason to stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import zoo
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, TrainingError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.registry import get_method, method_names
from expunge.methods.weight_method import WeightMethod
from expunge.models.halves import Halves
from expunge.requests import Request, Row
from expunge.training import schedule
from expunge.training.checkpoints import last_checkpoint
from expunge.training.step import Step
from fitting import REQUEST, fit, rows, snapshot
from history import read_history

# Plain gradient steps: an update is the gradient itself, so that differences show at their own size.
SGD: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 0, "schedule": "constant_with_warmup", "learning_rate": 0.1}
SIX = Request(forget=rows(6, "forget"), retain=rows(6, "retain"))


def answer_logps(model: torch.nn.Module, given: tuple[Row, ...]) -> list[torch.Tensor]:
    """Per row, the log-probabilities of its answer's tokens: one row a forward, all logits, no mask."""
    tokenizer = zoo.tokenizer("llama")
    result = []
    for example in encode_all(tokenizer, Template.of(tokenizer), given, max_length=512):
        ids = torch.tensor([example.input_ids])
        logps = model(ids).logits[0].log_softmax(-1)
        result.append(torch.stack([logps[t - 1, ids[0, t]] for t in range(example.answer_start, ids.shape[1])]))
    return result


@pytest.mark.parametrize("accumulation", [1, 3])
def test_one_step_by_hand(tmp_path: Path, accumulation: int) -> None:
    # grad_diff, gamma 2, alpha 0.5, all 12 rows in one optimizer step: 2 mean(logp_f) + 0.5 mean(-logp_r), means over
    # the tokens of all 6 rows of a side, and w - 0.1 dL/dw.
    model = zoo.model("llama").train()
    forget, retain = (torch.cat(answer_logps(model, given)) for given in (SIX.forget, SIX.retain))
    loss_f, loss_r = 2 * forget.mean(), -0.5 * retain.mean()
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss_f + loss_r, list(parameters.values()))
    batch = 6 // accumulation
    erasure = fit(
        "grad_diff",
        {"gamma": 2.0, "alpha": 0.5},
        request=SIX,
        folder=tmp_path,
        max_steps=1,
        max_grad_norm=0,
        forget_batch=batch,
        retain_batch=batch,
        accumulation=accumulation,
        **SGD,
    )
    (line,) = read_history(tmp_path)
    assert line["forget_loss"] == pytest.approx(loss_f.item(), rel=1e-5)
    assert line["retain_loss"] == pytest.approx(loss_r.item(), rel=1e-5)
    assert line["loss"] == pytest.approx((loss_f + loss_r).item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(sum(float(g.square().sum()) for g in gradients) ** 0.5, rel=1e-4)
    for (name, before), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(erasure.tensors[name], (before - 0.1 * gradient).detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("parameters", ["full", "lora"])
@pytest.mark.parametrize("method", ["npo", "grad_diff"])
def test_accumulating_4_x_2_is_8_x_1(tmp_path: Path, method: str, parameters: str) -> None:
    # 11 rows of very different lengths, 8 a step: the second step has 3, split 2 + 1 (its accumulation ends early).
    request = Request(forget=rows(11, "forget"), retain=rows(11, "retain"))
    fits, logs = [], []
    for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
        folder = tmp_path / f"{batch}x{accumulation}"
        folder.mkdir()
        split = {"forget_batch": batch, "retain_batch": batch, "accumulation": accumulation}
        fits.append(fit(method, request=request, folder=folder, parameters=parameters, epochs=2, **split, **SGD))
        logs.append([line for line in read_history(folder) if "loss" in line])
    assert [line["step"] for line in logs[0]] == [1, 2, 3]  # 22 rows: 8, 8, 6
    for other, log in zip(fits[1:], logs[1:], strict=True):
        for name, tensor in fits[0].tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, atol=2e-6, rtol=0)
        for one, two in zip(logs[0], log, strict=True):
            assert two == pytest.approx(one, rel=2e-4)
    if parameters == "full":
        model = zoo.model("llama")
        moved = max(float((fits[0].tensors[n] - p.detach()).abs().max()) for n, p in model.named_parameters())
        assert moved > 1e-3  # so that the tolerance above means something


@pytest.mark.parametrize("method", [name for name in method_names() if issubclass(get_method(name), WeightMethod)])
def test_cutting_a_forward_by_length_changes_no_update(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One forward of 8 + 8 rows a step, of 10 to 28 tokens, against pieces wherever they save a token.
    request = Request(forget=rows(8, "forget"), retain=rows(8, "retain"), subjects=("forget",))
    small = {**SGD, "learning_rate": 0.02}
    values = {"rmu": {"layer": 1}, "pdu": {"eps": 0.5}, "causal_intervention": {"substitutes": 2}}.get(method)
    fits, logs = [], []
    for name, worth in (("whole", {}), ("cut", {"cpu": 1})):
        monkeypatch.setattr(schedule, "_WORTH", worth)
        (tmp_path / name).mkdir()
        sizes = {"forget_batch": 8, "retain_batch": 8, "epochs": 2, "max_grad_norm": 0}
        fits.append(fit(method, values, request=request, folder=tmp_path / name, **sizes, **small))
        logs.append([line for line in read_history(tmp_path / name) if "loss" in line])
    for name, tensor in fits[0].tensors.items():
        torch.testing.assert_close(fits[1].tensors[name], tensor, atol=2e-6, rtol=0)
    for one, two in zip(*logs, strict=True):
        assert two == pytest.approx(one, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize(
    "changed", [{"parameters": "lora", "gradient_checkpointing": True}, {"dtype": "bfloat16"}], ids=["lora", "bfloat16"]
)
def test_passes_of_the_body_change_no_update(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Refusals are shorter than the answers they are preferred to, and cannot be dealt to other forwards.
    request, counts = Request(forget=rows(4, "forget"), retain=rows(4, "retain")), []
    fits, run_body = [], Halves.states

    def counting(self: Halves, *given: Any, **named: Any) -> Any:
        counts[-1] += 1
        return run_body(self, *given, **named)

    monkeypatch.setattr(Halves, "states", counting)
    for name, worth in (("whole", {}), ("cut", {"cpu": 1})):
        monkeypatch.setattr(schedule, "_WORTH", worth)
        (tmp_path / name).mkdir()
        counts.append(0)
        fits.append(fit("dpo", request=request, folder=tmp_path / name, max_steps=1, **{**SGD, **changed}))
    assert counts[1] > counts[0] + 1
    tolerance = 2e-3 if "dtype" in changed else 2e-6  # the same products over other sets of rows, in 8 bits of mantissa
    for name, tensor in fits[0].tensors.items():
        torch.testing.assert_close(fits[1].tensors[name], tensor, atol=tolerance, rtol=0)


def test_a_padded_row_is_a_row_alone(tmp_path: Path) -> None:
    # A long and a short row in one forward, padded, give the losses of two forwards without padding.
    request = Request(forget=(Row("Who?", "Me"), Row("Where was it?", "In town" + " by the river" * 12)))
    logs = []
    for batch in (2, 1):
        (tmp_path / str(batch)).mkdir()
        fit("grad_ascent", request=request, folder=tmp_path / str(batch), max_steps=1, forget_batch=batch,
            accumulation=2 // batch, **SGD)  # fmt: skip
        logs.append(read_history(tmp_path / str(batch))[0]["forget_loss"])
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


def test_the_log_has_a_line_a_step_with_its_parts_and_rate(tmp_path: Path) -> None:
    fit("npo", folder=tmp_path, warmup_epochs=1, learning_rate=6e-4)
    lines = read_history(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [0.3333, 0.6667, 1.0, 1.3333, 1.6667, 2.0]  # 3 steps an epoch
    # Three steps of warm-up to the peak at the fourth, then down to what would be 0 at a seventh: the rates that steps
    # 1 to 6 were taken with.
    assert [line["learning_rate"] for line in lines] == pytest.approx([1.5e-4, 3e-4, 4.5e-4, 6e-4, 4e-4, 2e-4])
    for line in lines:
        assert list(line) == ["step", "epoch", "loss", "forget_loss", "retain_loss", "learning_rate", "grad_norm"]
        assert line["loss"] == pytest.approx(line["forget_loss"] + line["retain_loss"])
        assert line["grad_norm"] > 0


@pytest.mark.parametrize(
    ("epochs", "warmup", "steps"), [(2, 1, 3), (2, 0, 0), (2, 0.5, 2), (1, 3, 9), (2, 0.0666667, 1)]
)
def test_warm_up_is_counted_in_epochs(epochs: float, warmup: float, steps: int) -> None:
    # 3 steps an epoch; half an epoch is 1.5 steps, so 2; more warm-up than training is all warm-up.
    from expunge.training.arguments import training_arguments
    from expunge.training.schedule import make_schedule
    from fitting import settings

    chosen = settings(epochs=epochs, warmup_epochs=warmup)
    schedule = make_schedule(chosen, forget_lengths=[5] * 6, retain_lengths=[])
    assert training_arguments(chosen, schedule, Path("out"), on_cpu=True, keep=False).warmup_steps == steps


def test_warm_up_is_not_a_step_longer_for_a_rounding_error() -> None:
    # 0.07 epochs of 100 steps are 7 steps, though 0.07 * 100 = 7.000000000000001.
    from expunge.training.arguments import training_arguments
    from expunge.training.schedule import make_schedule
    from fitting import settings

    chosen = settings(epochs=1, warmup_epochs=0.07)
    schedule = make_schedule(chosen, forget_lengths=[5] * 200, retain_lengths=[])
    assert training_arguments(chosen, schedule, Path("out"), on_cpu=True, keep=False).warmup_steps == 7


@pytest.mark.parametrize(
    ("rhythm", "steps"),
    [
        ({"score_every_steps": 2}, [0, 2, 4, 6]),
        ({"score_every_steps": 4}, [0, 4, 6]),  # and always at the end
        ({"score_every_epochs": 1}, [0, 3, 6]),
        ({"score_every_epochs": 0.5}, [0, 2, 4, 6]),  # 1.5 steps, rounded to 2
        ({}, []),
    ],
)
def test_scores_come_at_the_rhythm_asked_for(tmp_path: Path, rhythm: dict[str, Any], steps: list[int]) -> None:
    fit("npo", folder=tmp_path, **rhythm)
    lines = [line for line in read_history(tmp_path) if "scores" in line]
    assert [line["step"] for line in lines] == steps
    assert all(list(line["scores"]) == ["forget_probability", "retain_probability"] for line in lines)


def test_a_score_is_the_mean_of_the_rows_mean_token_probability(tmp_path: Path) -> None:
    fit("npo", folder=tmp_path, max_steps=1, score_every_steps=1, score_rows=4)
    with torch.no_grad():
        logps = answer_logps(zoo.model("llama"), REQUEST.forget[:4])
    by_hand = sum(float(row.mean().exp()) for row in logps) / 4
    assert read_history(tmp_path)[0]["scores"]["forget_probability"] == pytest.approx(by_hand, rel=1e-4)


def test_scoring_does_not_change_the_training() -> None:
    from fitting import same_tensors

    model = zoo.model("gpt2", resid_pdrop=0.2)  # dropout draws random numbers; scoring must draw none
    assert same_tensors(
        fit("npo", model=model, family="gpt2"), fit("npo", model=model, family="gpt2", score_every_steps=1)
    )


@method_fields
class Breaks(WeightMethod):
    """A loss that turns into NaN at its third forward."""

    name: ClassVar[str] = "breaks"
    paper: ClassVar[Paper] = Paper("None", "none")
    calls: ClassVar[list[int]] = []

    def loss(self, step: Step) -> dict[str, torch.Tensor]:
        self.calls.append(1)
        poison = float("nan") if len(self.calls) == 3 else 1.0
        return {"forget_loss": step.forget.mean_over_tokens(step.forget.logps) * poison}


@pytest.mark.parametrize("keep", [True, False])
def test_nan_stops_with_step_rows_and_checkpoint(tmp_path: Path, keep: bool) -> None:
    Breaks.calls.clear()
    model = zoo.model("llama")
    before = snapshot(model)
    with pytest.raises(TrainingError) as caught:
        fit(Breaks(), model=model, folder=tmp_path if keep else None, checkpoint_every=1)
    text = str(caught.value)
    assert "breaks: forget_loss is nan at optimizer step 3 of 6, rows forget.jsonl:" in text
    assert ("The last good checkpoint is checkpoint-2." if keep else "There is no checkpoint yet.") in text
    assert "Lower training.learning_rate" in text
    assert text.count("forget.jsonl:") == 2  # the two rows of that step
    assert snapshot(model) == before


@method_fields
class PoisonsGradient(WeightMethod):
    """A finite loss whose gradient is NaN from one forward on: the square root's slope at 0, times 0."""

    name: ClassVar[str] = "poisons_gradient"
    paper: ClassVar[Paper] = Paper("None", "none")
    calls: ClassVar[list[int]] = []
    at: int = 3

    def loss(self, step: Step) -> dict[str, torch.Tensor]:
        self.calls.append(1)
        zero = (step.forget.logps * 0).abs().sqrt() if len(self.calls) == self.at else step.forget.logps * 0
        return {"forget_loss": step.forget.mean_over_tokens(step.forget.logps + zero)}


@pytest.mark.parametrize(
    ("at", "lines", "message"),
    [
        (
            3,
            500,
            r"the gradient norm is nan at optimizer step 3 of 6, rows .+ The last good checkpoint is checkpoint-2",
        ),  # every step is logged
        (3, 1, "parameters are not finite after optimizer step 3 of 6: model.embed_tokens.weight"),  # before saving
        (6, 1, "the gradient norm is nan at optimizer step 6 of 6, rows "),
    ],
)
def test_weights_that_are_not_finite_are_neither_kept_nor_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, lines: int, message: str
) -> None:
    monkeypatch.setattr("expunge.training.arguments._LOG_LINES", lines)
    PoisonsGradient.calls.clear()
    model = zoo.model("llama")
    before = snapshot(model)
    with pytest.raises(TrainingError, match=message):
        fit(PoisonsGradient(at=at), model=model, folder=tmp_path, checkpoint_every=1)
    found = last_checkpoint(next((tmp_path / "checkpoints").iterdir()))
    assert found is not None
    assert found.name == f"checkpoint-{at - 1}"
    assert snapshot(model) == before


def test_the_last_step_is_checked_although_no_log_or_checkpoint_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.training.arguments._LOG_LINES", 2)  # of 5 steps, 2 and 4 are logged
    PoisonsGradient.calls.clear()
    with pytest.raises(TrainingError, match="parameters are not finite after optimizer step 5 of 5"):
        fit(PoisonsGradient(at=5), max_steps=5)


def test_a_parameter_without_gradient_stops_the_run() -> None:
    model: Any = zoo.model("llama")
    model.unused = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(
        TrainingError, match=r"1 trainable parameters got no gradient from npo: unused\. Leave them out"
    ):
        fit("npo", model=model)
    assert fit("npo", model=model, max_steps=1, layers=("model.*",)).details["tensors_trained"] > 0


def test_a_loss_that_no_trained_parameter_reaches_stops_the_run() -> None:
    # The norm after the last layer, which RMU's loss on layer 0 does not go through.
    message = r"the loss of rmu depends on none of the 1 trained parameters: model\.norm\.weight\. Name others"
    with pytest.raises(TrainingError, match=message):
        fit("rmu", {"layer": 0}, layers=("model.norm.weight",))


@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_gradient_checkpointing_gives_the_same_training(parameters: str) -> None:
    fits, calls = {}, {False: 0, True: 0}
    for checkpointing in (False, True):
        model: Any = zoo.model("llama")
        handle = model.model.layers[0].mlp.register_forward_pre_hook(
            lambda *_, on=checkpointing: calls.update({on: calls[on] + 1})
        )
        fits[checkpointing] = fit(
            "grad_diff", model=model, parameters=parameters, gradient_checkpointing=checkpointing, max_steps=3, **SGD
        )
        handle.remove()
    assert calls == {False: 3, True: 6}  # recomputed in each backward
    for name, tensor in fits[False].tensors.items():
        torch.testing.assert_close(fits[True].tensors[name], tensor, atol=1e-6, rtol=0)


def test_autocast_runs_in_every_fit_of_a_model_and_leaves_its_forward_alone() -> None:
    model: Any = zoo.model("llama")
    seen: list[torch.dtype] = []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    for _ in range(2):
        fit("npo", model=model, dtype="bfloat16", max_steps=2)
        assert set(seen) == {torch.bfloat16}  # the reference's forwards too
        assert "forward" not in vars(model)
        seen.clear()
    fit("npo", model=model, dtype="float32", max_steps=1)
    assert set(seen) == {torch.float32}


def test_an_unknown_optimizer_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"training.optimizer='adamw_torch_fuzed'.*Did you mean 'adamw_torch_fused'"):
        fit("npo", optimizer="adamw_torch_fuzed")


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    for step, whole in ((9, True), (10, True), (11, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trained.safetensors").touch()
        if whole:
            (folder / "complete").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"  # by number, not by spelling
    assert last_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_training_and_leaves_nothing_compiled() -> None:
    model: Any = zoo.model("llama")
    plain = fit("npo", max_steps=3, **SGD)
    compiled = fit("npo", model=model, compile=True, max_steps=3, **SGD)
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(compiled.tensors[name], tensor, atol=1e-6, rtol=0)
    assert not any("_compiled_call_impl" in module.__dict__ for module in model.modules())
