"""Protects what the target is heard to say: the right place of the right text, whatever shares a forward with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.data.encode import encode
from expunge.data.template import Template
from expunge.requests import Row
from expunge.teachers.asking import _groups, ask
from expunge.teachers.names import Subject
from expunge.teachers.plans import NameStarts, Plan, swapped_plan

FAMILIES = ("llama", "gpt2", "gemma2", "mixtral")
SUBJECT = Subject("Marta Quill")
NAMES = ("Ida Vandermeer", "Bo Li", "Rose Tamm")
TEXTS = (
    "Marta Quill lived by the river. In the town Quill was known; she sold the boats.",
    "In spring Marta Quill went to the market.",
    "The boats, which Quill had sold, came back in the night, and the whole town stood by the river to see them.",
)


def planned(family: str, names: tuple[str, ...] = NAMES, texts: tuple[str, ...] = TEXTS) -> list[Plan]:
    tokenizer = zoo.tokenizer(family)
    template = Template.of(tokenizer, "plain")
    starts = NameStarts(tokenizer)
    found = []
    for number, text in enumerate(texts):
        row = Row("", text, "document")
        example = encode(tokenizer, template, row, max_length=512)
        found.append(swapped_plan(number, example, template.render(row), SUBJECT, names, starts, 512))
    return found


def heard(model: Any, asked: tuple[int, ...]) -> torch.Tensor:
    """[tokens, V] probabilities of one text, run alone."""
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([asked])).logits[0].float().softmax(-1)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_one_substitute_teaches_what_the_target_says_of_the_swapped_text(family: str) -> None:
    model = zoo.model(family)
    plans = planned(family, NAMES[:1])
    for plan, (places, targets, lost) in zip(plans, ask(model, plans), strict=True):
        assert torch.equal(places, plan.places)
        assert len(lost) == len(targets) == len(places)
        plain = plan.standing < 0  # elsewhere a name is given back (a random model gives none a tenth)
        said = heard(model, plan.asked[0])[plan.at[0]]
        assert float(said[plain].gather(1, plan.names.sources.expand(int(plain.sum()), -1)).max()) < 0.1
        torch.testing.assert_close(targets.dense()[plain], said[plain], atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_substitutes_teach_the_mean(family: str) -> None:
    model = zoo.model(family)
    (plan, *_) = planned(family)
    ((_, targets, lost),) = ask(model, [plan])
    plain = plan.standing < 0
    said = torch.stack([heard(model, text)[at] for text, at in zip(plan.asked, plan.at, strict=True)]).mean(0)
    torch.testing.assert_close(targets.dense()[plain], said[plain], atol=2e-3, rtol=2e-2)
    dense = targets.dense()[plain]
    exact = (said[plain] * (said[plain] / dense).log()).sum(-1)
    torch.testing.assert_close(lost[plain], exact, atol=2e-4, rtol=0.05)


@pytest.mark.parametrize("style", ["causal", "whp"])
def test_who_shares_a_forward_changes_nothing(style: str) -> None:
    model = zoo.model("llama")
    plans = planned("llama", NAMES[:1] if style == "whp" else NAMES)
    together = ask(model, plans, style=style, pad_id=5)
    alone = [ask(model, [plan], style=style, batch_tokens=1)[0] for plan in plans]
    for (places, targets, _), (own_places, own, _) in zip(together, alone, strict=True):
        assert torch.equal(places, own_places)
        torch.testing.assert_close(targets.dense(), own.dense(), atol=1e-4, rtol=1e-2)


def test_a_few_places_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plans = zoo.model("llama"), planned("llama")
    whole = ask(model, plans)
    monkeypatch.setattr("expunge.teachers.asking._LOGIT_BYTES", {"cpu": 1, "cuda": 1})  # one place
    for (_, targets, lost), (_, cut, less) in zip(whole, ask(model, plans), strict=True):
        torch.testing.assert_close(cut.dense(), targets.dense(), atol=1e-4, rtol=1e-2)
        torch.testing.assert_close(less, lost, atol=1e-4, rtol=1e-2)


def test_whp_teaches_one_token_a_place() -> None:
    model = zoo.model("llama")
    (plan, *_) = planned("llama", NAMES[:1])
    ((_, targets, lost),) = ask(model, [plan], style="whp", lowered=0.0)
    chosen = heard(model, plan.asked[0])[plan.at[0]].argmax(-1)
    assert torch.equal(targets.token_ids[:, 0], chosen)
    assert (targets.k, float(targets.tail.max()), float(lost.max())) == (1, 0, 0)


def test_plans_that_fit_share_a_forward() -> None:
    plans = planned("llama")
    sizes = [3 * max(map(len, plan.asked)) for plan in plans]
    everything = 3 * 3 * max(max(map(len, plan.asked)) for plan in plans)
    assert len(_groups(plans, everything)) == 1
    assert sorted(len(group) for group in _groups(plans, max(sizes))) == [1, 1, 1]


def test_the_model_is_left_as_it_was() -> None:
    model = zoo.model("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ask(model, planned("llama"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
