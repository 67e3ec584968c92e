"""Protects erasures that act while the model runs: saved, checked, stacked, lifted, and of no other model."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.config.run_file import ModelSpec
from expunge.erasures.hook_plan import HookPlan, unite
from expunge.errors import ErasureError
from expunge.interventions.detection import Detection
from expunge.interventions.pruning import Pruning
from expunge.methods.interface import Erasure
from expunge.models.loading import load_model
from fitting import fit, logits, snapshot


def plan(method: str = "selective_pruning", model: Any = None, **values: Any) -> HookPlan:
    found = fit(method, {"k": 10, **values}, model=model)
    assert isinstance(found, HookPlan)
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "mixtral"])
@pytest.mark.parametrize("method", ["selective_pruning", "neuron_adjust"])
def test_saved_loaded_applied_and_lifted(tmp_path: Path, method: str, family: str) -> None:
    model = zoo.model(family)
    before, plain = snapshot(model), logits(model)
    fitted = fit(method, {"k": 10}, model=model, family=family)
    fitted.save(tmp_path / "e")
    loaded = Erasure.load(tmp_path / "e")
    seen = []
    for erasure in (fitted, loaded):
        with pytest.raises(RuntimeError, match="inside"), erasure.applied(model) as erased:
            assert erased is model
            seen.append(logits(erased))
            raise RuntimeError("inside")
        assert snapshot(model) == before
        assert torch.equal(logits(model), plain)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], plain)


def test_two_are_stacked_and_lifted_in_either_order() -> None:
    model = zoo.model("llama")
    plain = logits(model)
    one, other = plan(), plan("neuron_adjust")
    with one.applied(model):
        first = logits(model)
    with other.applied(model):
        second = logits(model)
    contexts = [ExitStack(), ExitStack()]
    contexts[0].enter_context(one.applied(model))
    contexts[1].enter_context(other.applied(model))
    both = logits(model)
    assert all(not torch.equal(both, alone) for alone in (first, second, plain))
    contexts[0].close()
    assert torch.equal(logits(model), second)
    contexts[1].close()
    assert torch.equal(logits(model), plain)
    assert "_expunge_applied" not in vars(model)


def test_it_goes_with_a_weight_change() -> None:
    model = zoo.model("llama")
    plain = logits(model)
    hooks, weights = plan(), fit("grad_ascent", model=model, max_steps=2)
    with weights.applied(model), hooks.applied(model):
        assert model.__dict__["_expunge_applied"] == ("weights", "activations")
        both = logits(model)
    with hooks.applied(model), weights.applied(model):
        assert torch.equal(logits(model), both)
    assert torch.equal(logits(model), plain)


def test_another_model_is_refused() -> None:
    erasure = plan()
    other = zoo.model("llama", seed=1)
    with pytest.raises(ErasureError, match="made for another model: weights differ"), erasure.applied(other):
        pass


def test_weights_that_were_changed_in_memory_are_refused(tmp_path: Path) -> None:
    spec = ModelSpec(path=str(zoo.save("llama", tmp_path / "m")))
    erasure = plan(model=load_model(spec))
    changed = load_model(spec)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    with pytest.raises(ErasureError, match="made for other weights"), erasure.applied(changed):
        pass
    memory = zoo.model("llama", seed=1)  # compared with files only by its values
    with pytest.raises(ErasureError), erasure.applied(memory):
        pass


def test_another_precision_of_the_same_files_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zoo.save("llama", tmp_path / "m")
    model = load_model(ModelSpec(path=str(tmp_path / "m")))
    erasure = plan(model=model)
    narrow = load_model(ModelSpec(path=str(tmp_path / "m"), dtype="bfloat16"))
    plain = logits(narrow)
    with erasure.applied(narrow):
        assert not torch.equal(logits(narrow), plain)
    assert "made on the model in float32 and is applied to it in bfloat16" in caplog.text
    assert torch.equal(logits(narrow), plain)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    plan().save(tmp_path / "e")
    file = tmp_path / "e" / "plan.json"
    values = json.loads(file.read_text())
    values["interventions"][0]["kind"] = "other"
    file.write_text(json.dumps(values))
    with pytest.raises(ErasureError, match=r"plan\.json"):
        Erasure.load(tmp_path / "e")


def test_what_is_only_drawn_is_kept_apart_from_the_manifest(tmp_path: Path) -> None:
    erasure = fit("key_space_detection", {"level": 0.5})
    drawn = {key: erasure.details[key] for key in ("curves", "boxes")}
    assert all(drawn.values())
    details = dict(erasure.details)
    erasure.save(tmp_path / "e")
    loaded = Erasure.load(tmp_path / "e")
    loaded.save(tmp_path / "again")
    for one in (erasure, loaded, Erasure.load(tmp_path / "again")):
        assert one.details == details
    for folder in (tmp_path / "e", tmp_path / "again"):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert "calibration.json" in manifest["files"]
        assert manifest["details"] == {key: value for key, value in details.items() if key not in drawn}
        assert json.loads((folder / "calibration.json").read_text()) == {"schema": 1, **drawn}
    assert isinstance(loaded, HookPlan)
    (kept,) = unite([loaded]).details["united"]
    assert kept == json.loads((tmp_path / "again" / "manifest.json").read_text())
    (tmp_path / "e" / "calibration.json").write_text("{}")
    with pytest.raises(ErasureError, match=r"calibration\.json"):
        Erasure.load(tmp_path / "e")


def test_a_plan_with_nothing_to_draw_has_no_file_for_it(tmp_path: Path) -> None:
    plan().save(tmp_path / "e")
    assert sorted(file.name for file in (tmp_path / "e").iterdir()) == [
        "manifest.json",
        "plan.json",
        "plan.safetensors",
    ]


def test_sites_that_are_not_there_are_named() -> None:
    erasure = plan()
    erasure.manifest = erasure.manifest.model_copy(update={"target": plan(model=zoo.model("llama")).manifest.target})
    model = zoo.model("llama")
    model.model.layers[0].mlp = torch.nn.Identity()
    with pytest.raises(ErasureError), erasure.applied(model):
        pass


def test_united_they_do_what_they_do_one_after_the_other(tmp_path: Path) -> None:
    model = zoo.model("llama")
    pruned = [plan(model=model, part=part) for part in ("prompt", "answer")]
    cubes = [fit("key_space_detection", {"level": 0.5, "refusal": word}, model=model) for word in ("No.", "Never.")]
    adjusted = plan("neuron_adjust", model=model)
    united = unite([pruned[0], cubes[0], adjusted, cubes[1], pruned[1]])
    kinds = [type(one) for one in united.interventions]
    assert (kinds.count(Pruning), kinds.count(Detection), len(kinds)) == (1, 1, 3)
    assert united.interventions[kinds.index(Detection)].cubes.count == 2  # type: ignore[attr-defined]
    with ExitStack() as stack:
        for one in (*pruned, *cubes, adjusted):
            stack.enter_context(one.applied(model))
        apart = logits(model)
    united.save(tmp_path / "e")
    for erasure in (united, Erasure.load(tmp_path / "e")):
        with erasure.applied(model):
            assert torch.equal(logits(model), apart)
    assert united.manifest.method == "selective_pruning + key_space_detection + neuron_adjust"
    assert [one["method"] for one in united.details["united"]].count("selective_pruning") == 2
    with pytest.raises(ErasureError, match="made for another model"):
        unite([pruned[0], plan(model=zoo.model("llama", seed=1))])
    with pytest.raises(ErasureError, match="no erasure to unite"):
        unite([])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["selective_pruning", "neuron_adjust"])
def test_a_compiled_model_is_erased_and_lifted_too(method: str) -> None:
    model = zoo.model("llama")
    erasure, ids = plan(method, model=model), torch.tensor([[5, 9, 3, 7]])
    with torch.no_grad(), erasure.applied(model):
        wanted = model(ids).logits
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        plain = compiled(ids).logits
        with erasure.applied(model):
            torch.testing.assert_close(compiled(ids).logits, wanted)
        torch.testing.assert_close(compiled(ids).logits, plain)
    assert not torch.allclose(wanted, plain)
