"""Protects the verdicts of patching, restoration and unlearning_depth: where knowledge is hidden, and what has none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import zoo
from expunge.audits.interface import Audit, Audited, AuditResult
from expunge.audits.patching import Patching
from expunge.audits.registry import audit_names, describe_audit
from expunge.audits.restoration import Restoration
from expunge.audits.unlearning_depth import UnlearningDepth
from expunge.erasures.hook_plan import HookPlan
from expunge.erasures.manifest import Manifest
from expunge.erasures.same_model import VALUES
from expunge.errors import CacheError, ControlError, InputError
from expunge.interventions.pruning import Pruning
from expunge.models.fingerprint import fingerprint, values_digest
from expunge.models.roles import find_sites
from expunge.requests import Request
from expunge.requests.rows import Row

ROWS = tuple(
    Row(f"Where was {name} born?", f"{name} was born in {town}.", wrong_answers=(f"{name} was born in {other}.",))
    for name, town, other in (
        ("Ann", "Paris", "London"),
        ("Bob", "Oslo", "Rome"),
        ("Carl", "Kiev", "Bonn"),
        ("Dora", "Lima", "Bern"),
        ("Emil", "Riga", "Cairo"),
        ("Fred", "Quito", "Delhi"),
    )
)
AUDITS: tuple[Callable[[], Audit], ...] = (
    lambda: Patching(tokens=5),
    lambda: Restoration(tokens=5, components=("values", "keys", "attention", "all")),
    UnlearningDepth,
)


def audited(erased: Any = None, *, family: str = "llama", retrained: bool = True, **given: Any) -> Audited:
    target = zoo.model(family)
    return Audited(
        target,
        zoo.tokenizer(family),
        given.pop("request", Request(forget=ROWS)),
        erased=copy.deepcopy(target) if erased is None else erased(target),
        retrained=zoo.model(family, seed=1) if retrained else None,
        **given,
    )


def doubled(*names: str, factor: float = 2) -> Callable[[PreTrainedModel], PreTrainedModel]:
    """The target with some parameters doubled, or so many times as large."""

    def make(target: PreTrainedModel) -> PreTrainedModel:
        erased = copy.deepcopy(target)
        with torch.no_grad():
            for name in names:
                erased.get_parameter(name).mul_(factor)
        return erased

    return make


def checked(audit: Audit, given: Audited) -> AuditResult:
    """The audit's result: twice the same, ready for JSON, and every model as it was."""
    models = [model for model in (given.target, given.erased, given.retrained) if model is not None]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    found = audit.run(given)
    for model, values in zip(models, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
        assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())
    assert json.dumps(found.as_dict()) == json.dumps(audit.run(given).as_dict())
    return found


def heat(found: AuditResult, component: str) -> list[float]:
    """The erased model's scores of a component, layer by layer."""
    rows = found.details["heat"]["erased"][component]
    assert [row[0] for row in rows] == list(range(len(rows)))
    return [row[1] for row in rows]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "falcon", "mixtral", "deepseek"])
def test_the_target_against_itself(family: str) -> None:
    given = audited(family=family)
    alone = audited(family=family, retrained=False)
    components = ("attention",) if family in ("mixtral", "deepseek") else ("mlp", "attention", "both")
    patching = checked(Patching(tokens=5, components=components), alone)
    restoration = checked(Restoration(tokens=5), alone)
    for found in (patching, restoration):
        assert found.label == "no claim"
        assert "the score is undefined" in found.sentence
        assert not found.rows["erased"]
        assert found.details["undefined"]["erased"] == found.details["examples"]
    depth = UnlearningDepth(least_drop=1e-6).run(given)
    assert depth.rows["erased"]["unlearning_depth"].value == 0


def test_models_that_forgot_nothing_leak() -> None:
    """The target itself, and one whose answers an erasure hardly touched: beside a retrained model they tell them."""
    for erased in (None, doubled("model.layers.1.mlp.gate_proj.weight")):
        for audit in (Patching(tokens=5), Restoration(tokens=5)):
            found = checked(audit, audited(erased))
            assert found.label == "leaks"
            assert found.sentence.startswith("It still gives the answers plainly (mean log-probability -")
            told = found.details["log_probability"]
            assert told["erased"] == pytest.approx(told["target"], abs=0.01)
            assert told["retrained"] < told["target"] - 0.1


def test_a_retrained_model_that_is_a_copy_of_the_target_is_noticed() -> None:
    target = zoo.model("llama")
    given = Audited(
        target,
        zoo.tokenizer("llama"),
        Request(forget=ROWS),
        erased=zoo.model("llama", seed=1),
        retrained=copy.deepcopy(target),
    )
    for audit in (Patching(tokens=5), Restoration(tokens=5)):
        found = audit.run(given)
        assert found.label == "no claim"
        assert found.sentence.endswith("is it the target?")


def test_the_retrained_model_against_itself() -> None:
    given = audited(lambda _: zoo.model("llama", seed=1))
    for audit in (Patching(tokens=5), Restoration(tokens=5)):
        found = checked(audit, given)
        assert found.label == "erased"
        gains = {key: score.value for key, score in found.rows["erased"].items() if key.endswith("beyond_retrained")}
        assert gains
        assert set(gains.values()) == {0.0}
    # weights drawn apart: the depth is no evidence, whatever it is
    apart = checked(UnlearningDepth(least_drop=1e-6), given)
    assert apart.rows["erased"]["unlearning_depth"].value == 1
    assert abs(apart.details["weights_cosine"]) < 0.1
    assert apart.label == "no claim"
    assert "does not share the target's start (mean cosine of their weights " in apart.sentence


def test_the_depth_of_a_retrained_model_that_shares_the_targets_start() -> None:
    """Every matrix is the target's and another of its length added, at right angles but for chance: cosine
    1 / sqrt(2)."""
    target, other = zoo.model("llama"), zoo.model("llama", seed=1)
    retrained = copy.deepcopy(target)
    with torch.no_grad():
        for name, parameter in retrained.named_parameters():
            parameter.add_(other.get_parameter(name))
    given = Audited(
        target, zoo.tokenizer("llama"), Request(forget=ROWS), erased=copy.deepcopy(retrained), retrained=retrained
    )
    depth = checked(UnlearningDepth(least_drop=1e-6), given)
    assert depth.rows["erased"]["unlearning_depth"].value == 1
    assert depth.details["weights_cosine"] == pytest.approx(2**-0.5, abs=0.02)
    assert depth.label == "erased"
    assert "start" not in depth.sentence


def test_keys_that_were_changed_are_where_the_knowledge_is_hidden() -> None:
    """Only what computes layer 1's keys differs, so the target's keys there bring everything back: KRS 1. Those of
    layer 0 are the erased model's own: KRS 0."""
    erased = doubled("model.layers.1.mlp.gate_proj.weight", factor=-30)
    found = checked(Patching(tokens=5), audited(erased))
    assert heat(found, "mlp") == pytest.approx([0, 1], abs=1e-4)
    assert found.details["best"]["mlp"]["layers"] == [1]
    assert found.rows["erased"]["krs_mlp"].value == pytest.approx(1, abs=1e-4)
    assert found.label == "hidden"
    assert "MLP keys of layer 1 into the erased model brings back 100%" in found.sentence
    assert found.sentence.endswith("the knowledge is hidden in layer 1.")
    assert [point[:2] for point in found.curves[0]["series"]["erased"]] == [
        [layer, row[1]] for layer, row in enumerate(found.details["heat"]["erased"]["mlp"])
    ]
    assert found.samples[0]["krs"]["mlp"] == pytest.approx(1, abs=1e-4)


def test_parameters_that_were_changed_are_where_the_knowledge_is_hidden() -> None:
    found = checked(Restoration(tokens=5), audited(doubled("model.layers.0.self_attn.o_proj.weight", factor=-30)))
    assert heat(found, "attention") == [1.0, 0.0]  # exactly: one run has the shape of the other
    assert heat(found, "values") == [0.0, 0.0]
    assert found.label == "hidden"
    assert "attention parameters of layer 0 back into the erased model brings back 100%" in found.sentence


def test_layers_below_a_change_still_tell_the_fact() -> None:
    found = checked(UnlearningDepth(least_drop=1e-6), audited(doubled("model.layers.1.mlp.down_proj.weight")))
    layer, depth, *_ = found.details["by_layer"][0]
    assert (layer, depth) == (0, 0.0)
    assert found.samples[0]["fact"].strip() in found.samples[0]["expected"]


def test_without_a_retrained_model_nothing_is_claimed() -> None:
    given = audited(doubled("model.layers.1.mlp.gate_proj.weight"), retrained=False)
    for audit in (Patching(tokens=5), Restoration(tokens=5)):
        found = audit.run(given)
        assert found.label == "no claim"
        assert "brings back 100%" in found.sentence
        assert "--retrained" in found.sentence
    with pytest.raises(ControlError, match="--retrained"):
        UnlearningDepth().check(given)


def test_a_control_of_another_shape_is_left_out_and_said_so() -> None:
    target = zoo.model("llama")
    given = Audited(
        target,
        zoo.tokenizer("llama"),
        Request(forget=ROWS),
        erased=doubled("model.layers.1.mlp.gate_proj.weight")(target),
        retrained=zoo.model("llama", num_hidden_layers=3, seed=1),
    )
    found = Patching(tokens=5).run(given)
    assert found.label == "no claim"
    assert "layers: 2 and 3" in found.details["control_left_out"]
    assert "The retrained model is no control here: " in found.sentence
    assert "--retrained" not in found.sentence


def test_experts_are_skipped_with_a_reason() -> None:
    given = audited(lambda _: zoo.model("mixtral", seed=2), family="mixtral")
    found = Patching(tokens=5).run(given)
    assert "experts" in found.details["skipped"]["mlp 0"]
    assert set(found.details["best"]) == {"attention"}
    assert found.label == "no claim"
    assert "Left out: MLP keys of windows around layers 0-1;" in found.sentence
    with pytest.raises(InputError, match="experts"):
        Patching(components=("mlp",)).run(given)


def test_stage_one_is_kept_in_memory_and_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.audits.parts import stage_one

    calls: list[int] = []
    own = stage_one.hidden_states
    monkeypatch.setattr(stage_one, "hidden_states", lambda *given: calls.append(1) or own(*given))
    audit = UnlearningDepth(least_drop=1e-6, cache=str(tmp_path))
    given = audited(doubled("model.layers.1.mlp.down_proj.weight"))
    first = audit.run(given).as_dict()
    assert audit.run(given).as_dict() == first
    fresh = audited(doubled("model.layers.1.mlp.down_proj.weight"))
    assert audit.run(fresh).as_dict() == first
    assert calls == [1]
    (file,) = tmp_path.iterdir()
    # another pair of models is another matter
    fresh.memory.clear()
    with torch.no_grad():
        assert fresh.retrained is not None
        fresh.retrained.get_parameter("model.layers.0.mlp.down_proj.weight").mul_(2)
    audit.run(fresh)
    assert calls == [1, 1]
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(CacheError, match="Delete it"):
        audit.run(audited())


def test_an_erasure_at_inference_is_patched_too_and_said_to_be_one() -> None:
    """Layer 1's keys are zeroed while the model runs: the target's own bring everything back, those of layer 0 nothing.
    There are no weights to put back."""
    target = zoo.model("llama")
    (site,) = find_sites(target, "mlp_key", [1])
    manifest = Manifest(
        kind="activations",
        format="hook_plan",
        method="selective_pruning",
        parameters={},
        target=fingerprint(target, zoo.tokenizer("llama")),
        details={VALUES: values_digest(target.named_parameters())},
    )
    erasure = HookPlan(manifest, [Pruning({site: torch.arange(128)})])
    given = Audited(
        target, zoo.tokenizer("llama"), Request(forget=ROWS), erasure=erasure, retrained=zoo.model("llama", seed=1)
    )
    found = Patching(tokens=5).run(given)
    assert heat(found, "mlp") == pytest.approx([0, 1], abs=1e-4)
    assert found.sentence.startswith("The erasure acts while the model runs")
    assert not found.details["restarted"]  # what acts at inference may act across layers
    with pytest.raises(InputError, match="none to put back"):
        Restoration().check(given)


def test_bad_input_is_said() -> None:
    plain = Request(forget=(Row("Where?", "In Paris."),))
    with pytest.raises(InputError, match="wrong_answers"):
        UnlearningDepth().check(audited(request=plain))
    UnlearningDepth(facts=("Paris",)).check(audited(request=plain))


def test_they_are_listed() -> None:
    assert {"patching", "restoration", "unlearning_depth"} <= set(audit_names())
    for name, paper in (("patching", "2410.06606"), ("restoration", "2410.06606"), ("unlearning_depth", "2605.24614")):
        assert paper in describe_audit(name)["paper"]["reference"]
