"""Protects evaluate() with loaded models: whose row is whose, which options apply, and what is written or refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge
import zoo
from conftest import Tiny
from expunge.errors import ConfigError, ControlError, ErasureError, ModelError, OutputError
from expunge.evaluation.suite import Suite
from expunge.models.state import marked
from fitting import fit

FAST = ("training.max_new_tokens=3", "suite.limit=2")


@pytest.fixture(scope="module")
def request_(tiny: Tiny) -> expunge.Request:
    return expunge.Request.load(tiny.forget, retain=tiny.retain)


@pytest.fixture
def target(tiny: Tiny) -> Any:
    return expunge.load_model(tiny.target)


@pytest.fixture(scope="module")
def twin(tiny: Tiny) -> Any:
    return expunge.load_model(tiny.twin)


@pytest.fixture(scope="module")
def tokenizer(tiny: Tiny) -> Any:
    return expunge.load_tokenizer(tiny.target)


@pytest.fixture(scope="module")
def erasure(tiny: Tiny, request_: expunge.Request) -> Any:
    model = expunge.load_model(tiny.target)
    return fit("npo", model=model, request=request_, max_steps=3, learning_rate=3e-3)


def test_inside_applied_the_model_is_the_erased_one(
    target: Any, twin: Any, tokenizer: Any, erasure: Any, request_: expunge.Request
) -> None:
    with erasure.applied(target) as erased:
        found = expunge.evaluate(erased, tokenizer, request=request_, retrained=twin, overrides=FAST)
    assert list(found.rows) == ["erased", "retrained"]
    assert found.verdict.effect == "removal"
    assert "nothing was erased" not in found.verdict.sentence
    assert found.rows["erased"]["forget_quality"].n == 2
    assert "forget_answer_perplexity needs the target" in found.left_out["forget_answer_perplexity"]
    # the same model, lifted, is a target as it is
    plain = expunge.evaluate(target, tokenizer, request=request_, metrics="probability", overrides=FAST)
    assert list(plain.rows) == ["target"]
    assert "nothing was erased" in plain.verdict.sentence
    before, after = (row["forget_probability"].value for row in (plain.rows["target"], found.rows["erased"]))
    assert after < 0.9 * before


def test_with_the_target_beside_it_everything_is_judged(
    target: Any, twin: Any, tokenizer: Any, erasure: Any, request_: expunge.Request, tiny: Tiny
) -> None:
    with erasure.applied(target) as erased:
        found = expunge.evaluate(
            erased,
            tokenizer,
            request=request_,
            target=expunge.load_model(tiny.target),
            retrained=twin,
            overrides=FAST,
        )
    assert list(found.rows) == ["target", "erased", "retrained"]
    assert found.left_out == {}
    assert found.verdict.effect == "removal"


def test_loaded_and_paths_give_the_same_scores(
    target: Any, tokenizer: Any, erasure: Any, request_: expunge.Request, tiny: Tiny, tmp_path: Path
) -> None:
    erasure.save(tmp_path / "erasure")
    options: dict[str, Any] = {"request": request_, "retrained": str(tiny.twin), "overrides": FAST}
    paths = expunge.evaluate(str(tiny.target), erasure=tmp_path / "erasure", **options)
    with erasure.applied(target) as erased:
        loaded = expunge.evaluate(erased, tokenizer, target=expunge.load_model(tiny.target), **options)
    assert loaded.rows == paths.rows
    assert loaded.verdict == paths.verdict
    assert loaded.samples == paths.samples


def test_the_erased_model_is_loaded_as_the_target_is(tiny: Tiny) -> None:
    found = expunge.evaluate(
        str(tiny.target),
        erased=str(tiny.target),
        request={"forget": str(tiny.forget)},
        metrics=["forget_probability"],
        overrides=(*FAST, "model.dtype=bfloat16"),
    )
    ours, theirs = (found.rows[name]["forget_probability"].value for name in ("target", "erased"))
    assert ours == theirs


def test_an_unmarked_model_beside_a_target_is_the_erased_one(
    target: Any, twin: Any, tokenizer: Any, request_: expunge.Request
) -> None:
    found = expunge.evaluate(twin, tokenizer, target=target, request=request_, metrics=["probability"], overrides=FAST)
    assert list(found.rows) == ["target", "erased"]
    assert found.verdict.effect == "removal"


def test_hooks_are_suppression(target: Any, tokenizer: Any, request_: expunge.Request) -> None:
    for kinds, effect in ((("weights",), "removal"), (("weights", "activations"), "suppression")):
        with marked(target, kinds[0]), marked(target, kinds[-1]):
            found = expunge.evaluate(target, tokenizer, request=request_, metrics=["rouge"], overrides=FAST)
        assert (list(found.rows), found.verdict.effect) == (["erased"], effect)
        assert "nothing was erased" not in found.verdict.sentence


def test_settings_of_the_run_hold(target: Any, tokenizer: Any, tiny: Tiny) -> None:
    files = {"forget": str(tiny.forget), "retain": str(tiny.retain)}

    def scores(*overrides: str) -> Any:
        return expunge.evaluate(target, tokenizer, request=files, overrides=(*FAST, *overrides))

    plain = scores()
    assert [sample["set"] for sample in plain.samples if sample["set"] != "forget_paraphrased"] == [
        *["forget"] * 2,  # suite.limit=2
        *["retain"] * 2,
    ]
    longer = scores("training.max_new_tokens=12").samples[0]["answers"]["target"]
    short = plain.samples[0]["answers"]["target"]
    assert len(longer) > len(short) and longer.startswith(short)
    cut = scores("training.max_length=56").rows["target"]["forget_probability"].value
    assert cut != plain.rows["target"]["forget_probability"].value
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    as_chat = expunge.evaluate(target, chatty, request=files, overrides=FAST)
    assert as_chat.rows != plain.rows
    as_plain = expunge.evaluate(target, chatty, request={**files, "template": "plain"}, overrides=FAST)
    assert as_plain.rows == plain.rows


def test_a_built_suite(target: Any, tokenizer: Any, request_: expunge.Request) -> None:
    suite = Suite("mine", {"forget": request_.forget[:2]}, {"forget": ("probability",)})
    found = expunge.evaluate(target, tokenizer, suite)
    assert (found.suite, list(found.rows["target"])) == ("mine", ["forget_probability"])
    with pytest.raises(ConfigError, match="suite 'mine' is built and brings its own rows"):
        expunge.evaluate(target, tokenizer, suite, request=request_)
    with pytest.raises(ConfigError, match="suite: it was passed loaded, so no setting can change it"):
        expunge.evaluate(target, tokenizer, suite, overrides=["suite.limit=1"])


def test_out_is_a_run_folder(
    target: Any, twin: Any, tokenizer: Any, erasure: Any, request_: expunge.Request, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def evaluate(**changed: Any) -> Any:
        options = {"request": request_, "retrained": twin, "out": out, "overrides": FAST, **changed}
        with erasure.applied(target) as erased:
            return expunge.evaluate(erased, tokenizer, **options)

    found = evaluate()
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {"run.yaml", "environment.json", "samples.jsonl", "scores.json", "report.html"}
    written = (out / "scores.json").read_bytes()
    assert json.loads(written) == json.loads(json.dumps(found.to_json()))
    run = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    assert run["model"] == {"path": target.config._name_or_path, "loaded": "LlamaForCausalLM", "applied": ["weights"]}
    assert run["request"]["rows"]["forget"]["rows"] == 8
    assert run["training"]["max_new_tokens"] == 3
    assert run["suite"] == {"name": "request", "limit": 2}
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert environment["target"]["weights"] == erasure.manifest.target.weights
    assert environment["data"]["forget"]["rows"] == 8
    with pytest.raises(OutputError, match="holds this run, finished"):
        evaluate()
    with pytest.raises(OutputError, match="holds another run"):
        evaluate(metrics=["probability"])
    assert (out / "scores.json").read_bytes() == written
    again = evaluate(metrics=["probability"], overwrite=True)
    assert json.loads((out / "scores.json").read_bytes())["rows"].keys() == again.rows.keys()
    assert (out / "scores.json").read_bytes() != written


def test_somebodys_folder_is_not_touched(
    target: Any, tokenizer: Any, request_: expunge.Request, tmp_path: Path
) -> None:
    (tmp_path / "scores.json").write_text("mine")
    with pytest.raises(OutputError, match="holds no run"):
        expunge.evaluate(target, tokenizer, request=request_, out=tmp_path, overwrite=True, overrides=FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_an_erased_model_alone_can_be_reported(
    target: Any, tokenizer: Any, erasure: Any, request_: expunge.Request, tmp_path: Path
) -> None:
    with erasure.applied(target) as erased:
        expunge.evaluate(erased, tokenizer, request=request_, out=tmp_path / "run", overrides=FAST)
    assert "Nothing is claimed" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_retrained_path_has_its_tokenizer_checked(
    target: Any, tokenizer: Any, request_: expunge.Request, tmp_path: Path
) -> None:
    other = zoo.save("gpt2", tmp_path / "other")
    with pytest.raises(ModelError, match=r"retrained model .* has another tokenizer"):
        expunge.evaluate(target, tokenizer, request=request_, retrained=other, out=tmp_path / "run", overrides=FAST)
    assert not (tmp_path / "run").exists()


def test_options_that_do_not_apply_are_errors(
    target: Any, twin: Any, tokenizer: Any, request_: expunge.Request, tiny: Tiny
) -> None:
    def refused(pattern: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(ConfigError, match=pattern):
            expunge.evaluate(*arguments, **{"request": request_, "overrides": FAST, **options})

    refused(r"erasure= goes with paths.*with erasure.applied\(model\) as erased", target, tokenizer, erasure="run")
    refused("erased= goes with paths", target, tokenizer, erased="run")
    refused("needs its tokenizer", target)
    refused("target= is the very model that is judged. Leave it out", target, tokenizer, target=target)
    refused("retrained= is the very model", target, tokenizer, retrained=target)
    refused("target= and retrained= are one model", target, tokenizer, target=twin, retrained=twin)
    refused("model: it was passed loaded", target, tokenizer, overrides=["model.dtype=float16"])
    refused("retrained: it was passed loaded", target, tokenizer, retrained=twin, overrides=["retrained.dtype=float16"])
    refused("methd: expunge evaluate has no such section", target, tokenizer, overrides=["methd.beta=1"])
    refused("training.epoch: no such setting", target, tokenizer, overrides=["training.epoch=1"])
    refused("overrides name row files too", target, tokenizer, overrides=[f"request.forget={tiny.forget}"])
    for name, value in {"tokenizer": tokenizer, "target": target, "retrained": twin}.items():
        refused(f"{name}= was passed loaded, and the model as a path", str(tiny.target), **{name: value})
    with marked(twin, "weights"):
        refused("target= carries an erasure", target, tokenizer, target=twin)
    with marked(target, "weights"):
        refused("target= is the very model that is judged, which carries the", target, tokenizer, target=target)
        with pytest.raises(ControlError, match="needs the target"):
            expunge.evaluate(target, tokenizer, request=request_, metrics=["answer_perplexity"])


def test_an_erasure_whose_target_had_another_tokenizer_is_refused(erasure: Any, tiny: Tiny, tmp_path: Path) -> None:
    erasure.save(tmp_path / "erasure")
    shutil.copytree(tiny.target, tmp_path / "model")
    tokenizer = expunge.load_tokenizer(tiny.target)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ErasureError, match="made for another model: tokenizer differ"):
        expunge.evaluate(
            str(tmp_path / "model"),
            erasure=tmp_path / "erasure",
            request={"forget": str(tiny.forget)},
            out=tmp_path / "run",
            overrides=FAST,
        )
    assert not (tmp_path / "run").exists()
