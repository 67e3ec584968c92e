"""Protects the membership audit: what it asks for, what a model that knows and one that never did are said to be."""

from __future__ import annotations

import copy
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.interface import Audited
from expunge.audits.membership import _gains, _verdict
from expunge.audits.parts.membership_attacks import separation
from expunge.audits.registry import make_audit
from expunge.data.batches import collate, pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, ControlError
from expunge.guards.prompt_guard import Refusal
from expunge.models.logprobs import answer_logprobs
from expunge.requests import Request, Row
from word_guards import Guarded, word_guard

WORDS = ("book", "name", "author", "born", "city", "father", "award", "year")


def _rows(seed: int, count: int) -> list[Row]:
    """Answers of random words: both sets are drawn alike."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(WORDS), (count, 8), generator=generator).tolist()
    return [Row(f"What about {number}?", " ".join(WORDS[n] for n in some)) for number, some in enumerate(draws)]


FORGET, HOLDOUT = _rows(1, 24), _rows(2, 24)
TOKENIZER = zoo.tokenizer("llama")
REQUEST = Request(tuple(FORGET), holdout=tuple(HOLDOUT))


def _taught(seed: int, rows: list[Row]) -> torch.nn.Module:
    model = zoo.model("llama", seed=seed).train()
    batch = collate(encode_all(TOKENIZER, Template.of(TOKENIZER), rows, max_length=200), pad_id(TOKENIZER))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        (-answer_logprobs(model, batch, hits=False).logps.mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def taught() -> torch.nn.Module:
    return _taught(0, FORGET)


def test_random_models_take_no_row_for_a_member() -> None:
    """Each interval holds a half in 95% of all draws of rows: fewer than 6 of 8 would be 0.6% likely."""
    target, erased = (zoo.model("llama", seed=seed) for seed in (0, 1))
    inside: Counter[tuple[str, str]] = Counter()
    for draw in range(8):
        request = Request(tuple(_rows(10 + draw, 20)), holdout=tuple(_rows(50 + draw, 20)))
        found = make_audit("membership").run(Audited(target, TOKENIZER, request, erased=erased))
        for model, every in found.details["attacks"].items():
            inside.update((model, attack) for attack, one in every.items() if one["low"] <= 0.5 <= one["high"])
    assert len(inside) == 14 and min(inside.values()) >= 6


def test_who_was_trained_on_the_rows_is_found_by_every_attack(taught: torch.nn.Module) -> None:
    audited = Audited(
        taught, TOKENIZER, REQUEST, erased=copy.deepcopy(taught), retrained=zoo.model("llama", seed=2)  # type: ignore[arg-type]
    )  # fmt: skip
    found = make_audit("membership").run(audited)
    aucs = {key: score.value for key, score in found.rows["erased"].items() if key != "privleak"}
    assert set(aucs) == {
        "membership_loss", "membership_zlib", "membership_min_k_20", "membership_min_k_40",
        "membership_min_k_plus_plus_20", "membership_min_k_plus_plus_40", "membership_reference",
        "membership_gradient_norm",
    }  # fmt: skip
    assert min(aucs.values()) > 0.85
    # the reference attack is no control of itself
    assert found.label == "hidden" and "sure in 7 of 7 attacks" in found.sentence
    assert set(found.details["beyond_retrained"]) == set(found.details["attacks"]["retrained"])
    assert "reference" not in found.details["beyond_retrained"] and found.details["left_out"] == {}
    a, control = (found.rows[model]["membership_min_k_40"].value for model in ("erased", "retrained"))
    assert found.rows["erased"]["privleak"].value == pytest.approx(100 * ((1 - a) - (1 - control)) / (1 - control))
    assert found.rows["erased"]["privleak"].value < 0
    assert "membership_reference" not in found.rows["retrained"]
    assert found.rows["erased"]["membership_loss"].n == 48


def test_less_like_a_member_than_a_model_that_never_saw_the_rows_is_said(taught: torch.nn.Module) -> None:
    other = _taught(0, HOLDOUT)  # to it the forget rows are the ones that were never seen
    audited = Audited(taught, TOKENIZER, REQUEST, erased=other, retrained=zoo.model("llama", seed=2))  # type: ignore[arg-type]
    found = make_audit("membership", {"attacks": ("loss", "min_k")}).run(audited)
    # turning the sign finds them: as good as the attack itself
    assert found.label == "hidden" and "look less like members" in found.sentence
    assert (
        "turned round, the attack finds them. This gives away that something was removed, not what." in found.sentence
    )
    assert found.rows["erased"]["privleak"].value > 0
    assert set(found.rows["erased"]) == {"membership_loss", "membership_min_k_20", "membership_min_k_40", "privleak"}


def test_without_the_retrained_model_there_is_no_claim(taught: torch.nn.Module) -> None:
    audited = Audited(taught, TOKENIZER, REQUEST, erased=zoo.model("llama", seed=1))  # type: ignore[arg-type]
    found = make_audit("membership", {"attacks": ("loss", "reference"), "limit": 12}).run(audited)
    assert found.label == "no claim" and "--retrained" in found.sentence
    assert set(found.rows["target"]) == {"membership_loss"}
    assert found.details["rows"] == {"forget": 12, "holdout": 12}
    assert found.details["left_out"] == {
        "reference": "it compares with the retrained model, and none was passed (--retrained)"
    }
    few = Audited(taught, TOKENIZER, REQUEST, erased=zoo.model("llama", seed=1), retrained=zoo.model("llama", seed=2))  # type: ignore[arg-type]
    found = make_audit("membership", {"attacks": ("loss",), "limit": 9}).run(few)
    assert found.label == "no claim" and "too few" in found.sentence


def _separations(forget: Any) -> Any:
    return separation(forget, np.arange(20.0))


def test_both_directions_count_and_the_best_attack_is_of_the_one_spoken_of() -> None:
    """20 holdout scores 0 to 19. A model that never saw the rows: forget scores between them, 0.5, 1.5, .. 19.5, each
    above 1 to 20 of 20: AUC (1 + .. + 20) / 400 = 0.525. All below all: 0."""
    alike, below = np.arange(20) + 0.5, np.full(20, -1.0)
    above = np.full(20, 18.5)  # above 19 of 20: 0.95
    audited: Any = SimpleNamespace(at_inference=False, cleared="erased")
    guarded: Any = SimpleNamespace(at_inference=True, cleared="suppressed")
    counts = {"forget": 20, "holdout": 20}

    def told(who: Any, target: np.ndarray = above, **scores: Any) -> tuple[str, str]:
        erased = {name: _separations(values) for name, values in scores.items()}
        control = {name: _separations(alike) for name in scores if name != "reference"}
        knows = {name: _separations(target) for name in scores}
        found: Any = {"target": knows, "erased": erased, "retrained": control}
        return _verdict(who, counts, found, _gains(erased, control))

    label, sentence = told(audited, loss=below, zlib=alike)
    assert label == "hidden"
    # wholly apart: 1 - 0.025^(1/20) = 1 - exp(-0.18444) = 0.168
    assert (
        "(20 and 20) the attack that tells them apart best in the erased model, loss, has an AUC of 0.00 (0.00 to 0.17)"
        in sentence
    )
    assert (
        "less like members (0.00) than to a model that never saw them (0.53), which is sure in 1 of 2 attacks"
        in sentence
    )
    assert "something was held back, not what" in told(guarded, loss=below)[1]
    # the larger of the two differences comes first: 0.525 down, 0.425 up
    label, sentence = told(audited, loss=above, zlib=below)
    assert label == "hidden" and "in the erased model, zlib, has" in sentence
    assert sentence.index("look less like members") < sentence.index(
        "By loss the forget rows look more like members (0.95)"
    )
    assert told(audited, loss=alike)[0] == "erased" and told(guarded, loss=alike)[0] == "suppressed"
    assert "(1 attack)" in told(audited, loss=alike)[1]
    # where the target's rows are not found either, nothing follows
    label, sentence = told(audited, alike, loss=alike)
    assert label == "no claim" and "in the target either" in sentence
    # with no control of its own the reference attack decides nothing, however far off
    label, sentence = told(audited, loss=alike, reference=below)
    assert label == "erased" and "reference" not in sentence
    assert told(audited, reference=below)[0] == "no claim"


class _Guard(Guarded):
    kind = "inputs"


def test_a_guards_rows_are_not_taken_for_members_by_what_the_guard_does() -> None:
    guard: Any = _Guard(TOKENIZER, word_guard("What", Refusal("no")))
    holdout = tuple(row.with_prompt(row.prompt.replace("What", "Who")) for row in HOLDOUT)
    request = Request(tuple(FORGET), holdout=holdout)
    target, retrained = zoo.model("llama", seed=0), zoo.model("llama", seed=2)
    found = make_audit("membership").run(Audited(target, TOKENIZER, request, erasure=guard, retrained=retrained))
    # of a refused row every token is equally likely: it has no min-k%++, and no gradient of the model's own
    aucs = {name: one["auc"] for name, one in found.details["attacks"]["erased"].items()}
    undefined = {"min_k_plus_plus_20", "min_k_plus_plus_40", "gradient_norm"}
    assert {name for name, value in aucs.items() if np.isnan(value)} == undefined
    assert "while the model runs" in found.details["left_out"]["gradient_norm"]
    assert set(found.as_dict()["left_out"]["erased"]) == {f"membership_{name}" for name in undefined}
    alone = make_audit("membership", {"attacks": ("min_k_plus_plus",)})
    found = alone.run(Audited(target, TOKENIZER, request, erasure=guard, retrained=retrained))
    assert found.label == "no claim" and "No attack" in found.sentence


def test_what_is_missing_is_said() -> None:
    target, erased = zoo.model("llama", seed=0), zoo.model("llama", seed=1)
    audited = Audited(target, TOKENIZER, Request(tuple(FORGET)), erased=erased)
    with pytest.raises(ControlError, match=r"24 forget rows.*no holdout rows.*--holdout"):
        make_audit("membership").check(audited)
    audited = Audited(target, TOKENIZER, REQUEST, erased=erased)
    with pytest.raises(ConfigError, match=r"there is no minkk\. Did you mean 'min_k'"):
        make_audit("membership", {"attacks": ("loss", "minkk")}).check(audited)
    with pytest.raises(ControlError, match="reference"):
        make_audit("membership", {"attacks": ("reference",)}).check(audited)
