"""Protects run files: short forms, one resolved form that reads back, every problem named at once with a suggestion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.config.run_file import ModelSpec, RequestSpec, RunConfig, make_config, make_section, read_config
from expunge.errors import ConfigError
from expunge.training.settings import TrainingSettings


def config(*overrides: str, **values: Any) -> RunConfig:
    return make_config({"model": "m", "request": "forget.jsonl", "method": "npo", **values}, overrides)


def problems(*overrides: str, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*overrides, **values)
    return str(caught.value)


def test_a_plain_string_stands_for_the_main_field() -> None:
    made = config(suite="tofu", retrained="twin")
    assert made.model == ModelSpec(path="m")
    assert made.request.forget == "forget.jsonl"
    assert made.method.name == "npo"
    assert (made.suite.name, made.suite.options) == ("tofu", {})
    assert made.retrained == ModelSpec(path="twin")


def test_an_override_reaches_into_a_section_given_as_a_string() -> None:
    made = config("model.dtype=bfloat16", "method.beta=0.2", "suite.limit=3", "retrained.path=r2", retrained="r")
    assert made.model == ModelSpec(path="m", dtype="bfloat16")
    assert made.method.options == {"beta": 0.2}
    assert made.suite.options == {"limit": 3}
    assert made.retrained == ModelSpec(path="r2")


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: m\nrequest: f.jsonl\nmethod: {name: npo, beta: 0.3}\ntraining: {epochs: 7, learning_rate: 1e-3}\n",
        encoding="utf-8",
    )
    made = read_config(file, ["training.epochs=9"])
    assert made.training.epochs == 9
    assert made.training.learning_rate == 1e-3
    assert made.training.forget_batch == TrainingSettings().forget_batch  # type: ignore[call-arg]
    assert made.method.options == {"beta": 0.3}


def test_a_learning_rate_without_a_dot_is_a_number() -> None:
    assert config("training.learning_rate=1e-5").training.rate == 1e-5
    # and the defaults: 1e-5, for LoRA 1e-4
    assert config().training.rate == 1e-5
    assert config("training.parameters=lora").training.rate == 1e-4
    assert config("training.parameters=lora", "training.learning_rate=3e-4").training.rate == 3e-4


@pytest.mark.parametrize(
    ("given", "seeds"),
    [(3, (0, 1, 2)), ([4, 7], (4, 7)), (None, (0,)), (1, (0,))],
)
def test_seeds_are_a_count_or_a_list(given: Any, seeds: tuple[int, ...]) -> None:
    assert config(seeds=given).seeds == seeds


def test_without_seeds_the_training_seed_counts() -> None:
    assert config("training.seed=5").seeds == (5,)


def test_a_seed_of_several_is_a_run_of_its_own() -> None:
    one = config(seeds=3).with_seed(2)
    assert one.seeds == (2,)
    assert one.training.seed == 2


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method.beta=0.25", "training.learning_rate=1e-5", "suite.limit=4", "seeds=[3, 5]", "retrained=twin"),
        ("training.layers=['*.mlp.*']", "request.columns={question: q}", "request.subjects=[yes, off]"),
        ("training.seed=4",),
    ],
)
def test_the_resolved_file_reads_back_to_the_same_run(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    first = config(*overrides)
    file = tmp_path / "run.yaml"
    file.write_text(first.to_yaml(), encoding="utf-8")
    again = read_config(file)
    assert again.to_yaml() == first.to_yaml()
    assert again.seeds == first.seeds


def test_the_resolved_file_holds_every_value_used() -> None:
    values = config("method.beta=0.25").to_dict()
    assert list(values) == ["model", "request", "method", "training", "suite", "audits", "retrained", "seeds"]
    assert values["method"] == {"name": "npo", "alpha": 1.0, "retain": "nll", "beta": 0.25}
    assert set(values["training"]) == set(TrainingSettings.model_fields)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.bata=1", "method.bata: no such field of npo. Did you mean 'beta'?"),
        ("method.beta=-1", "method.beta=-1: Input should be greater than 0"),
        ("method.beta=high", "method.beta='high': Input should be a valid number"),
        ("method.name=npoo", "there is no method 'npoo'. Did you mean 'npo' or 'simnpo' or 'dpo'?"),
        ("training.learnin_rate=1", "training.learnin_rate: no such setting. Did you mean 'learning_rate'"),
        ("training.epochs=0", "training.epochs=0: Input should be greater than 0"),
        ("training.schedule=linaer", "training.schedule='linaer': Input should be 'linear', 'cosine'"),
        ("traning.epochs=3", "traning: no such setting. Did you mean 'training'"),
        ("model.dtyp=float32", "model.dtyp: no such setting. Did you mean 'dtype'?"),
        ("request.forgett=x", "request.forgett: no such setting. Did you mean 'forget'?"),
        ("request.template=fancy", "request.template='fancy': Input should be 'auto', 'chat' or 'plain'"),
        ("suite.name=tofuu", "there is no suite 'tofuu'. Did you mean 'tofu'?"),
        ("seeds=[]", "seeds"),
        ("seeds=0", "seeds"),
        ("seeds=[1, 1]", "names a seed twice"),
        ("seeds=[-1]", "seeds"),
        ("seeds=many", "seeds"),
        ("audits=[many_shots]", "there is no audit 'many_shots'. Did you mean 'many_shot'"),
        ("training.seed=-1", "training.seed=-1"),
        ("training=5", "training=5"),
        ("method=5", "method"),
    ],
)
def test_a_bad_setting_is_named_with_what_was_passed(override: str, says: str) -> None:
    assert says in problems(override)


def test_all_problems_are_in_one_error() -> None:
    message = problems("traning.epochs=3", "training.epochs=-1", "method.bata=1", "suite.name=tofuu", "model.x=1")
    assert message.startswith("5 settings cannot be used:\n")
    for bad in ("traning:", "training.epochs=-1:", "method.bata:", "'tofuu'", "model.x:"):
        assert bad in message


def test_what_every_run_needs_is_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({})
    for section in ("model", "request", "method"):
        assert f"{section}: missing" in str(caught.value)
    assert "request needs forget: FILE" in problems(request={"retain": "r.jsonl"})
    assert "only one of them" in problems(request={"forget": "f.jsonl", "world": "authors"})


def test_two_score_rhythms_at_once_are_refused() -> None:
    assert "not both" in problems("training.score_every_steps=1", "training.score_every_epochs=1")


def test_one_section_by_itself_names_its_problems() -> None:
    with pytest.raises(ConfigError) as caught:
        make_section(RequestSpec, {"forgett": "x", "template": 3}, "request")
    assert "request.forgett: no such setting. Did you mean 'forget'?" in str(caught.value)
    assert "request.template=3" in str(caught.value)
