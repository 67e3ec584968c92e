"""Protects audit(): from paths and from loaded models, what is written and resumed, what is refused before loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge
import zoo
from conftest import Tiny
from expunge.audits.interface import Audited
from expunge.audits.many_shot import ManyShot
from expunge.commands.loaded import erased_spec, identities
from expunge.config.run_file import ModelSpec
from expunge.errors import ConfigError, ErasureError, InputError, ModelError, OutputError, RequestError
from expunge.models.state import APPLIED
from fitting import bits, fit

FAST = ("training.max_new_tokens=3", "audits.paraphrase.limit=3")


@pytest.fixture(scope="module")
def request_(tiny: Tiny) -> expunge.Request:
    return expunge.Request.load(tiny.forget, retain=tiny.retain)


@pytest.fixture(scope="module")
def erasure(tiny: Tiny, request_: expunge.Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fit("npo", model=expunge.load_model(tiny.target), request=request_, max_steps=3, learning_rate=3e-3)
    folder: Path = tmp_path_factory.mktemp("audited") / "erasure"
    made.save(folder)
    return folder


def files(tiny: Tiny) -> dict[str, Any]:
    return {"request": {"forget": str(tiny.forget), "retain": str(tiny.retain)}, "retrained": str(tiny.twin)}


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "audits.json").read_text(encoding="utf-8"))
    return found


def test_from_paths_and_loaded_it_finds_the_same(
    tiny: Tiny, request_: expunge.Request, erasure: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = expunge.audit(
        str(tiny.target), erasure=erasure, audits="paraphrase", overrides=FAST, out=out, **files(tiny)
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "audits.json", "environment.json", "report.html", "run.yaml",
    ]  # fmt: skip
    written = read(out)
    assert written == found.as_dict() and written["finished"] and list(written["audits"]) == ["paraphrase"]
    run = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    assert run["audits"]["paraphrase"]["limit"] == 3 and run["erasure"] == str(erasure)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "other ways, the erased model gives away" in page and "Paraphrase" in page
    target, tokenizer = expunge.load_model(tiny.target), expunge.load_tokenizer(tiny.target)
    before = bits(target)
    loaded = expunge.audit(
        target,
        tokenizer,
        erasure=expunge.Erasure.load(erasure),
        retrained=expunge.load_model(tiny.twin),
        request=request_,
        audits=["paraphrase"],
        overrides=FAST,
    )
    assert bits(target) == before and not hasattr(target, APPLIED)
    ours, theirs = loaded.audits["paraphrase"], found.audits["paraphrase"]
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    with pytest.raises(OutputError, match="holds this run, finished"):
        expunge.audit(str(tiny.target), erasure=erasure, audits="paraphrase", overrides=FAST, out=out, **files(tiny))


def test_what_failed_goes_on_with_the_same_command(
    tiny: Tiny, erasure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError("no room")

    def again() -> Any:
        return expunge.audit(
            str(tiny.target),
            erasure=erasure,
            audits="paraphrase,many_shot",
            overrides=(*FAST, "audits.many_shot.limit=2"),
            out=tmp_path / "run",
            **files(tiny),
        )

    with monkeypatch.context() as patched:
        patched.setattr(ManyShot, "run", broken)
        first = again()
    assert first.failed == {"many_shot": "MemoryError: no room"} and not read(tmp_path / "run")["finished"]
    kept = first.audits["paraphrase"]
    assert "MemoryError: no room" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    second = again()
    assert not second.failed and second.audits["paraphrase"] == kept
    assert second.audits["many_shot"]["verdict"]["label"] != "failed"
    assert "MemoryError" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_what_a_kill_left_goes_on_even_after_a_report(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def again() -> Any:
        return expunge.audit(
            str(tiny.target),
            erased=tiny.twin,
            audits="paraphrase,many_shot",
            overrides=(*FAST, "audits.many_shot.limit=2"),
            out=out,
            **files(tiny),
        )

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(ManyShot, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            again()
    expunge.report([out])
    assert "it has not run yet" in (out / "report.html").read_text(encoding="utf-8")
    found = again()
    assert found.finished and list(found.audits) == ["paraphrase", "many_shot"]
    assert "it has not run yet" not in (out / "report.html").read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="holds this run, finished"):
        again()


def test_bad_options_leave_the_folder_to_the_right_ones(tiny: Tiny, tmp_path: Path) -> None:
    def audit_(*overrides: str) -> Any:
        options = {"audits": "paraphrase", "out": tmp_path / "run", **files(tiny)}
        return expunge.audit(str(tiny.target), erased=tiny.twin, overrides=overrides, **options)

    rows = tmp_path / "other.jsonl"
    rows.write_text('{"question": "q", "answer": "a", "paraphrased_question": "p"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="there is no typo"):
        audit_(*FAST, "audits.paraphrase.disguises=[typo]")
    with pytest.raises(ConfigError, match="reworded"):  # told by the rows, so after loading
        audit_(*FAST, f"audits.paraphrase.reworded={rows}")
    assert not (tmp_path / "run").exists()
    assert not audit_(*FAST).failed


def test_forget_rows_that_are_held_out_are_refused(tiny: Tiny) -> None:
    request = {"forget": str(tiny.forget), "holdout": str(tiny.forget)}
    with pytest.raises(RequestError, match=r"request\.allow_overlap=true"):
        expunge.audit(str(tiny.target), erased=tiny.twin, audits="membership", request=request)
    found = expunge.audit(
        str(tiny.target),
        erased=tiny.twin,
        audits="membership",
        request=request,
        overrides=("request.allow_overlap=true",),
    )
    assert "are also in a set that must not hold them (8)" in found.failed["membership"]


def test_another_model_may_be_the_erased_one(tiny: Tiny) -> None:
    enough = (FAST[0], "audits.paraphrase.limit=8")
    found = expunge.audit(str(tiny.target), erased=tiny.twin, audits="paraphrase", overrides=enough, **files(tiny))
    differences = [one["value"] for key, one in found.audits["paraphrase"]["rows"]["erased"].items() if "beyond" in key]
    assert differences and set(differences) == {0}  # the retrained model, twice
    assert found.audits["paraphrase"]["verdict"]["label"] == "erased"
    alone = expunge.audit(
        str(tiny.target), erased=tiny.twin, audits="paraphrase", overrides=FAST, request=files(tiny)["request"]
    )
    assert alone.audits["paraphrase"]["verdict"]["label"] == "no claim"
    assert alone.models == ("target", "erased")


def test_the_erased_model_is_loaded_as_the_target_is(tiny: Tiny) -> None:
    """The target itself, from its folder, in half precision: nothing was erased, and no logit differs."""
    options = {"audits": "patching", **files(tiny)}
    found = expunge.audit(
        str(tiny.target), erased=tiny.target, overrides=("model.dtype=bfloat16", "audits.patching.limit=3"), **options
    )
    assert found.audits["patching"]["details"]["distance"]["erased"] == 0
    target = expunge.load_model(ModelSpec(path=str(tiny.target), dtype="bfloat16"))
    found = expunge.audit(
        target,
        expunge.load_tokenizer(tiny.target),
        erased=tiny.target,
        overrides=("audits.patching.limit=3",),
        **options,
    )
    assert found.audits["patching"]["details"]["distance"]["erased"] == 0
    given = ModelSpec(path="target", dtype="bfloat16", quantization="nf4", device="cuda:1", trust_remote_code=True)
    assert erased_spec(Path("other"), given) == given.model_copy(update={"path": "other"})
    assert erased_spec("other", target) == ModelSpec(path="other", dtype="bfloat16")


def test_what_does_not_go_together_is_refused(
    tiny: Tiny, request_: expunge.Request, erasure: Path, tmp_path: Path
) -> None:
    target, given = str(tiny.target), files(tiny)
    with pytest.raises(ConfigError, match="to be audited beside the target"):
        expunge.audit(target, **given)
    with pytest.raises(ConfigError, match="not both"):
        expunge.audit(target, erasure=erasure, erased=tiny.twin, **given)
    with pytest.raises(ConfigError, match="Did you mean 'paraphrase'"):
        expunge.audit(target, erasure=erasure, audits="paraphrases", **given)
    with pytest.raises(ConfigError, match=r"audits.many_shot=3: expected an option"):
        expunge.audit(target, erasure=erasure, overrides=["audits.many_shot=3"], **given)
    with pytest.raises(ConfigError, match=r"expunge audit has no such section. Did you mean 'audits'"):
        expunge.audit(target, erasure=erasure, overrides=["audit.many_shot.shots=3"], **given)
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        expunge.audit(expunge.load_model(tiny.target), erasure=erasure, request=request_)
    for budget in (0, -1, float("nan"), "60", True):
        with pytest.raises(ConfigError, match=rf"budget={budget!r}: expected a number of seconds above 0"):
            expunge.audit(target, erasure=erasure, budget=budget, **given)  # type: ignore[arg-type]
    for names in ("", "paraphrase,", " ", [], [""], [3]):
        with pytest.raises(ConfigError, match=r"^audits=.*: expected names, such as paraphrase,many_shot"):
            expunge.audit(target, erasure=erasure, audits=names, **given)
    with pytest.raises(ConfigError, match=r"request.forget is missing"):
        expunge.audit(target, erasure=erasure)
    with pytest.raises(RequestError, match=r"nothing.jsonl"):
        expunge.audit(target, erasure=erasure, request={"forget": str(tmp_path / "nothing.jsonl")})
    with pytest.raises(ErasureError):
        expunge.audit(str(tiny.twin), erasure=erasure, request=given["request"], out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ModelError, match="another tokenizer"):
        expunge.audit(target, erased=zoo.save("gpt2", tmp_path / "gpt2"), **given)


def test_a_model_that_changed_since_the_audits_began_is_refused(
    tiny: Tiny, request_: expunge.Request, erasure: Path, tmp_path: Path
) -> None:
    """The erasure's folder is the same one, and what lies in it is another erasure; so with the models."""
    from shutil import copytree, rmtree

    place = tmp_path / "erasure"
    copytree(erasure, place)

    def again(**given: Any) -> Any:
        options = {"audits": "repeat_prompt", "out": tmp_path / "run", **files(tiny), "erasure": place, **given}
        return expunge.audit(str(tiny.target), overrides=FAST[:1], **options)  # not of a guard: it fails, and goes on

    assert list(again().failed) == ["repeat_prompt"] and list(again().failed) == ["repeat_prompt"]
    rmtree(place)
    fit("npo", model=expunge.load_model(tiny.target), request=request_, max_steps=1, learning_rate=1e-2).save(place)
    with pytest.raises(OutputError, match="and its erasure changed since it began"):
        again()
    rmtree(place)
    copytree(erasure, place)
    assert list(again().failed) == ["repeat_prompt"]

    def with_models(erased: Any, retrained: Any) -> Any:
        return again(out=tmp_path / "models", erasure=None, erased=erased, retrained=retrained)

    erased, retrained = expunge.load_model(tiny.twin), expunge.load_model(tiny.base)
    with_models(erased, retrained)
    for model, said in ((erased, "erased model"), (retrained, "retrained model")):
        model.get_input_embeddings().weight.data[0, 0] += 1
        with pytest.raises(OutputError, match=f"and its {said} changed since it began"):
            with_models(erased, retrained)
        model.get_input_embeddings().weight.data[0, 0] -= 1


def test_an_erasure_that_was_never_saved_is_told_by_what_saving_it_would_write(
    tiny: Tiny, request_: expunge.Request
) -> None:
    target, tokenizer = expunge.load_model(tiny.target), expunge.load_tokenizer(tiny.target)
    one, other = (fit("npo", model=target, request=request_, max_steps=1, learning_rate=rate) for rate in (1e-3, 1e-2))

    def told(erasure: Any) -> Any:
        return identities(Audited(target, tokenizer, request_, erasure=erasure))

    before = told(one)
    assert list(before) == ["erasure"] and list(before["erasure"]["files"]) == ["weights.safetensors"]
    assert told(one) == before != told(other)


def test_audits_are_added_to_a_finished_folder_and_stand_in_the_order_of_the_choice(
    tiny: Tiny, erasure: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def audit_(names: str, *overrides: str) -> Any:
        return expunge.audit(
            str(tiny.target), erasure=erasure, audits=names, overrides=(*FAST, *overrides), out=out, **files(tiny)
        )

    kept = audit_("paraphrase").audits["paraphrase"]
    added = audit_("many_shot,paraphrase", "audits.many_shot.limit=2")
    assert list(added.audits) == ["many_shot", "paraphrase"] and added.audits["paraphrase"] == kept
    assert list(read(out)["audits"]) == ["many_shot", "paraphrase"]
    with pytest.raises(OutputError, match=r"its audits are .*; name many_shot too"):
        audit_("paraphrase")
    with pytest.raises(OutputError, match="holds this run, finished"):
        audit_("many_shot,paraphrase", "audits.many_shot.limit=2")


def test_what_is_audited_is_never_written_over_and_stands_on_the_page(
    tiny: Tiny, erasure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shutil import copytree

    monkeypatch.chdir(tmp_path)
    run = tmp_path / "npo"
    copytree(erasure, run / "erasure")
    (run / "run.yaml").write_text("method: {name: npo}\n", encoding="utf-8")
    options = {"audits": "paraphrase", "overrides": FAST, **files(tiny)}
    for out, said in ((run, "it is --erasure"), (tmp_path, "it holds --erasure"), (tiny.twin, "it is --retrained")):
        for verb, more in ((expunge.audit, options), (expunge.evaluate, {**files(tiny), "suite": "request"})):
            with pytest.raises(OutputError, match=f"cannot be the folder to write to: .*{said}"):
                verb(str(tiny.target), erasure="npo", out=out, overwrite=True, **more)
    assert (run / "erasure" / "manifest.json").is_file() and not (run / "audit").exists()
    expunge.audit(str(tiny.target), erasure="npo", out=tmp_path / "found", **options)
    page = (tmp_path / "found" / "report.html").read_text(encoding="utf-8")
    assert "<dt>Erasure</dt><dd>npo</dd>" in "".join(line.strip() for line in page.splitlines())


def test_of_several_seeds_one_is_to_be_named(tiny: Tiny, erasure: Path, tmp_path: Path) -> None:
    from shutil import copytree

    for seed in (0, 1):
        copytree(erasure, tmp_path / "run" / f"seed-{seed}" / "erasure")
    said = r"holds 2 seeds. Pass one of them, such as .*seed-0"
    with pytest.raises(InputError, match=said):
        expunge.audit(str(tiny.target), erasure=tmp_path / "run", audits="paraphrase", **files(tiny))
    with pytest.raises(InputError, match=said):
        expunge.evaluate(str(tiny.target), erasure=tmp_path / "run", suite="request", **files(tiny))


def test_a_world_may_be_audited_against_itself() -> None:
    """Nothing was erased, which patching tells by weights and logits that do not differ: not the retrained twin."""
    found = expunge.audit(
        "world:authors",
        erased="world:authors",
        request={"world": "authors"},
        audits="patching",
        overrides=("audits.patching.limit=2",),
    )
    assert found.audits["patching"]["details"]["distance"]["erased"] == 0
