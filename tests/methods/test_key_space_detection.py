"""Protects key_space_detection: its rows, layers, calibration and refusal, end to end on tiny models."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch

import zoo
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, InputError, ModelError, RequestError
from expunge.interventions.detection import Detection
from expunge.interventions.row_ratios import RowRatios
from expunge.methods.activations.key_space_detection import best_layer
from expunge.models.taps import tapped
from expunge.requests import Request, Row
from fitting import fit

# Forget prompts begin and end alike; retain prompts end otherwise, in two groups.
FORGET = tuple(Row(f"The town of {word}: capital?", f"It is {word}", source=f"f:{word}") for word in "abcdefghijkl")
RETAIN = tuple(
    Row(f"{'Add' if i % 2 else 'Name'} {i} and {i + 3}{'!' * (i % 2)} please", f"{2 * i + 3}", group="ab"[i % 2])
    for i in range(60)
)
REQUEST = Request(forget=FORGET, retain=RETAIN[:20], calibration=RETAIN[20:])
LEVEL = {"level": 0.1}


def erasure(values: dict[str, Any] | None = None, request: Request = REQUEST, **given: Any) -> Any:
    return fit("key_space_detection", {**LEVEL, **(values or {})}, request=request, **given)


def prompt_ids(row: Row) -> torch.Tensor:
    tokenizer = zoo.tokenizer("llama")
    (example,) = encode_all(tokenizer, Template.of(tokenizer), [row], max_length=512)
    return torch.tensor([example.input_ids[: example.answer_start]])


def generated(model: Any, ids: torch.Tensor) -> list[int]:
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    tokens: list[int] = out[0, ids.shape[1] :].tolist()
    return tokens


def test_forget_prompts_are_refused_and_retain_prompts_answered_as_before() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    found = erasure({"refusal": "No."}, model=model)
    refusal = [*tokenizer("No.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    refused = {True: 0, False: 0}
    for row in (*FORGET, *RETAIN[:20]):
        ids = prompt_ids(row)
        plain = generated(model, ids)
        with found.applied(model):
            answer = generated(model, ids)
        assert answer[: len(refusal)] == refusal or answer == plain
        refused[row in FORGET] += answer[: len(refusal)] == refusal
        assert generated(model, ids) == plain
    assert refused[True] >= 8
    assert refused[False] <= 4


def test_the_hypercube_is_made_of_the_prompts_last_keys_but_for_one_row_in_five() -> None:
    model = zoo.model("llama")
    found = erasure(model=model)
    (detection,) = found.interventions
    assert isinstance(detection, Detection)
    (site,) = detection.sites
    assert site.layer == 1  # the last one
    keys: list[torch.Tensor] = []
    # One in five of the 12 rows is held back: the two whose texts have the smallest hashes.
    ranked = sorted(FORGET, key=lambda row: hashlib.sha256(repr(row.key).encode()).digest())
    made = [row for row in FORGET if row not in ranked[:2]]
    with tapped(model, {site: lambda v, _: keys.append(v[0, -1].double())}), torch.no_grad():
        for row in made:
            model(prompt_ids(row))
    stacked = torch.stack(keys)
    box = detection.cubes.cubes[0].boxes[site]
    torch.testing.assert_close(box.centre.double(), stacked.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(box.spread.double(), stacked.std(0), rtol=1e-3, atol=1e-6)
    largest = float(((stacked - stacked.mean(0)).abs() / stacked.std(0)).max())
    assert found.details["k_star"] == pytest.approx(largest, rel=1e-3)
    assert found.details["forget_rows"] == 10
    assert found.details["curve_rows"] == {"forget": 2, "retain": 40}


def test_the_scale_keeps_to_the_level_in_every_group_and_to_the_cap() -> None:
    # 20 calibration rows a group: floor(.1 * 21) = 2, so the bound of each is 2/21; of all 40 rows 4/41.
    found = erasure({"max_scale": None})
    for mode in ("generate", "score"):
        facts = found.details["calibration"][mode]
        bounds = {bound["group"]: bound for bound in facts["bounds"]}
        assert {name: bound["bound"] for name, bound in bounds.items()} == {"": 4 / 41, "a": 2 / 21, "b": 2 / 21}
        assert all(bound["observed"] <= 0.1 for bound in bounds.values())
        assert facts["scale"] == min(bound["scale"] for bound in bounds.values())
    capped = erasure({"max_scale": 0.5})
    assert all(capped.details["scales"][mode] <= 0.5 * capped.details["k_star"] for mode in ("generate", "score"))
    by_hand = erasure({"scale": 0.7})
    assert by_hand.details["scales"]["generate"] == pytest.approx(0.7 * by_hand.details["k_star"])
    assert by_hand.details["calibration"] == {}


def test_what_is_detected_is_measured_on_rows_that_were_held_back() -> None:
    # A scale that holds everything detects both of them, one that holds nothing neither.
    for scale, share in ((1e6, 1.0), (1e-6, 0.0)):
        assert erasure({"scale": scale}).details["detected"] == {"share": share, "rows": 2, "unseen": True}
    assert not erasure({"layers": "auto"}).details["detected"]["unseen"]  # the layer was chosen on them
    few = erasure(request=replace(REQUEST, forget=FORGET[:3]))
    assert few.details["detected"]["rows"] == 3
    assert not few.details["detected"]["unseen"]
    assert [curve["layers"] for curve in few.details["curves"]] == [[0, 1], [0], [1]]


def test_layers() -> None:
    assert erasure({"layers": "all"}).details["layers"] == [0, 1]
    assert erasure({"layers": [0]}).details["layers"] == [0]
    assert erasure({"layers": "auto"}).details["layers"] in ([0], [1])


def test_the_best_layer_by_hand() -> None:
    # At level .25 one of four retain rows may be detected: the limit is the second smallest retain ratio. Layer 3:
    # 2 (1, 2 | 3, 4), all of 1, 1.5, 9 but 9 below it, 2/3; layer 5: limit 6 of (1, 6, 7, 8), all three below.
    forget = torch.tensor([[[1.0], [1.5], [9.0]], [[2.0], [4.0], [5.0]]])
    retain = torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[1.0], [6.0], [7.0], [8.0]]])
    ours, theirs = (RowRatios(one.amax(0), one, (3, 5)) for one in (forget, retain))
    assert best_layer(ours, theirs, 0.25) == 5
    same = [RowRatios(one.joint, one.by_layer[:1].expand(2, -1, -1), (3, 5)) for one in (ours, theirs)]
    assert best_layer(*same, 0.25) == 5  # equal ones: the last


def test_steering_puts_the_retain_mean_in_the_keys_place() -> None:
    model = zoo.model("llama")
    found = erasure({"action": "steer"}, model=model)
    (detection,) = found.interventions
    (site,) = detection.sites
    keys: list[torch.Tensor] = []
    with torch.no_grad():
        for row in REQUEST.retain:
            with tapped(model, {site: lambda v, _: keys.append(v[0, -1].double())}):
                model(prompt_ids(row))
    mean = torch.stack(keys).mean(0)
    seen: list[torch.Tensor] = []
    with found.applied(model), tapped(model, {site: lambda v, _: seen.append(v[0, -1].double())}), torch.no_grad():
        model(prompt_ids(FORGET[0]))
    torch.testing.assert_close(seen[0], mean, rtol=1e-4, atol=1e-6)


def test_the_same_fit_is_the_same_and_so_is_what_was_saved(tmp_path: Any) -> None:
    from expunge.methods.interface import Erasure

    model = zoo.model("llama")
    one, other = erasure(model=model), erasure(model=model)
    one.save(tmp_path / "e")
    loaded = Erasure.load(tmp_path / "e")
    for found in (other, loaded):
        ours, theirs = one.interventions[0].tensors(), found.interventions[0].tensors()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert found.interventions[0].facts() == one.interventions[0].facts()


def test_what_it_refuses() -> None:
    with pytest.raises(
        InputError, match=r"level of 0\.01 takes at least 99 calibration rows in each group.*'a' has 20"
    ):
        erasure({"level": 0.01})
    with pytest.raises(InputError, match="at least 99 calibration rows"):
        erasure({"level": 0.01, "groups": False})
    for few in (FORGET[:1], (*FORGET[:1], FORGET[0])):
        with pytest.raises(RequestError, match="at least 2 different forget rows"):
            erasure(request=replace(REQUEST, forget=few))
    with pytest.raises(RequestError, match=r"2 forget rows have no prompt \(f:a, row 2\).*method\.keys=all"):
        documents = (Row("", "A town.", "document", source="f:a"), Row("", "A river.", "document"))
        erasure(request=replace(REQUEST, forget=documents))
    with pytest.raises(RequestError, match="no calibration row is of the group 'b'"):
        erasure(request=replace(REQUEST, calibration=tuple(row for row in RETAIN[20:] if row.group == "a")))
    with pytest.raises(InputError, match="split off the 60 retain rows"):
        erasure(request=Request(forget=FORGET, retain=RETAIN))
    for layers, message in (([], "method.layers is empty"), ([99], "has no layer 99")):
        with pytest.raises((ConfigError, ModelError), match=message):
            erasure({"layers": layers})
    model = zoo.model("llama")
    with erasure(model=model).applied(model), pytest.raises(ModelError, match="an erasure is applied to the model"):
        erasure(model=model)
    with pytest.raises(RequestError, match="compares forget rows with retain rows"):
        erasure(request=Request(forget=FORGET))
