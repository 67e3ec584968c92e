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
from expunge.audits.many_shot import ManyShot
from expunge.errors import ConfigError, ErasureError, ModelError, OutputError, RequestError
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


def test_another_model_may_be_the_erased_one(tiny: Tiny) -> None:
    found = expunge.audit(str(tiny.target), erased=tiny.twin, audits="paraphrase", overrides=FAST, **files(tiny))
    differences = [one["value"] for key, one in found.audits["paraphrase"]["rows"]["erased"].items() if "beyond" in key]
    assert differences and set(differences) == {0}  # the retrained model, twice
    assert found.audits["paraphrase"]["verdict"]["label"] == "erased"
    alone = expunge.audit(
        str(tiny.target), erased=tiny.twin, audits="paraphrase", overrides=FAST, request=files(tiny)["request"]
    )
    assert alone.audits["paraphrase"]["verdict"]["label"] == "no claim"
    assert alone.models == ("target", "erased")


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
    with pytest.raises(ConfigError, match="budget=0"):
        expunge.audit(target, erasure=erasure, budget=0, **given)
    with pytest.raises(ConfigError, match=r"request.forget is missing"):
        expunge.audit(target, erasure=erasure)
    with pytest.raises(RequestError, match=r"nothing.jsonl"):
        expunge.audit(target, erasure=erasure, request={"forget": str(tmp_path / "nothing.jsonl")})
    with pytest.raises(ErasureError):
        expunge.audit(str(tiny.twin), erasure=erasure, request=given["request"], out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ModelError, match="another tokenizer"):
        expunge.audit(target, erased=zoo.save("gpt2", tmp_path / "gpt2"), **given)
