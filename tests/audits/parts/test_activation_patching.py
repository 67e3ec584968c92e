"""Protects patched runs: equal to plain hooks on whole forwards, alone or together, padded on either side."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.parts.activation_patching import ROLES_OF, Patching, patches_of, windows
from expunge.audits.parts.comparing import Change, Errors
from expunge.data.encode import Example
from expunge.errors import ConfigError, ModelError
from expunge.models.roles import Site, find_sites
from expunge.models.taps import tapped

EXAMPLES = [
    Example([5, 6, 7, 8, 9, 10], 3, False, 6),
    Example([9, 8, 7, 6], 2, False, 4),
    Example([4, 8, 15, 16, 23], 1, False, 5),
]
FAMILIES = (*zoo.ISSUE_FAMILIES, "falcon", "bloom", "gptj", "deepseek", "qwen2_moe")
EVERY = ("mlp", "attention", "both", "residual")


def patching(target: Any, erased: Any, changes: Sequence[Change], **settings: Any) -> Errors:
    settings = {"padding": 0, "same_model": False, **settings}
    return Patching(partial(nullcontext, target), partial(nullcontext, erased), EXAMPLES, changes, **settings).errors()


@torch.no_grad()
def by_hand(target: Any, erased: Any, change: Change) -> np.ndarray:
    """One example at a time, whole forwards, no cache: summed squared differences of logits."""
    found = []
    for example in EXAMPLES:
        ids = torch.tensor([example.input_ids])
        roles = ROLES_OF[change.component]
        theirs = [site for role in roles for site in find_sites(target, role, change.layers)]
        ours = [site for role in roles for site in find_sites(erased, role, change.layers)]
        values: dict[Site, torch.Tensor] = {}

        def keep(seen: torch.Tensor, _: Any, *, site: Site, into: dict[Site, torch.Tensor] = values) -> None:
            into[site] = seen.clone()

        with tapped(target, {site: partial(keep, site=site) for site in theirs}):
            wanted = target(input_ids=ids).logits[0].double()
        swap = {a: (lambda _, __, given=values[b]: given) for a, b in zip(ours, theirs, strict=True)}
        with tapped(erased, swap):
            got = erased(input_ids=ids).logits[0].double()
        answer = slice(example.answer_start - 1, len(example.input_ids) - 1)
        found.append(float((got - wanted)[answer].square().sum()))
    return np.array(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_patched_runs_equal_plain_hooks_on_whole_forwards(family: str) -> None:
    target, erased = zoo.model(family), zoo.model(family, seed=1)
    changes, skipped = patches_of(target, EVERY)
    # MLP keys of routed experts have no place in the other model; attention and residuals have.
    routed = {"mixtral": 2, "qwen2_moe": 2, "deepseek": 1}.get(family, 0)
    assert len(skipped) == 2 * routed
    assert len(changes) == 8 - 2 * routed
    errors = patching(target, erased, changes)
    assert errors.restarted
    for change in changes:
        np.testing.assert_allclose(errors.changed[change], by_hand(target, erased, change), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_padded_and_restarted_runs_agree(family: str) -> None:
    target, erased = zoo.model(family), zoo.model(family, seed=1)
    changes, _ = patches_of(target, EVERY)
    found = patching(target, erased, changes)
    others: dict[str, dict[str, Any]] = {
        "one by one": {"batch_tokens": 1, "merged_tokens": 0},
        "all in one": {"merged_tokens": 10**6},
        "left": {"side": "left"},
        "whole forwards": {"restart": False},
        "one model": {"same_model": True},
    }
    for what, settings in others.items():
        other = patching(target, erased, changes, **settings)
        np.testing.assert_allclose(other.erased, found.erased, rtol=1e-4, err_msg=what)
        for change in changes:
            np.testing.assert_allclose(other.changed[change], found.changed[change], rtol=1e-4, err_msg=what)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layers_output_brings_the_targets_logits_back_exactly(family: str) -> None:
    """The erased model shares the target's final norm and head."""
    target, erased = zoo.model(family), zoo.model(family)
    with torch.no_grad():
        for name, parameter in erased.named_parameters():
            if ".0." in name or ".1." in name:
                parameter.mul_(1.5)
    (last,) = [one for one in patches_of(target, ["residual"])[0] if one.centre == 1]
    errors = patching(target, erased, [last])
    assert errors.erased.min() > 0
    assert errors.changed[last].tolist() == [0.0, 0.0, 0.0]


def test_patching_what_is_there_already_changes_nothing() -> None:
    """Bit for bit: the erased model differs in its last layer, and what is patched lies below."""
    target = zoo.model("llama")
    erased = copy.deepcopy(target)
    with torch.no_grad():
        erased.model.layers[1].mlp.gate_proj.weight.mul_(2)
    (below,) = [one for one in patches_of(target, ["both"])[0] if one.centre == 0]
    errors = patching(target, erased, [below])
    assert errors.erased.min() > 0
    assert errors.changed[below].tolist() == errors.erased.tolist()
    # and the keys of the layer that differs are all that is wrong with it: its down projection is the target's
    (own,) = [one for one in patches_of(target, ["mlp"])[0] if one.centre == 1]
    assert patching(target, erased, [own]).changed[own].tolist() == [0.0, 0.0, 0.0]


def test_the_target_against_itself_has_no_error_at_all() -> None:
    target = zoo.model("gpt2")
    changes, _ = patches_of(target)
    errors = patching(target, target, changes)
    assert errors.erased.tolist() == [0.0, 0.0, 0.0]
    assert errors.distance == 0


def test_an_erasure_put_on_the_target_is_as_another_model() -> None:
    target, erased = zoo.model("llama"), zoo.model("llama", seed=1)
    ours, theirs = dict(target.named_parameters()), dict(erased.named_parameters())

    @contextmanager
    def applied() -> Iterator[Any]:
        with ExitStack() as stack:
            for name, parameter in ours.items():
                stack.callback(setattr, parameter, "data", parameter.data)
                parameter.data = theirs[name].data
            yield target

    changes, _ = patches_of(target)
    two = patching(target, erased, changes)
    settings: dict[str, Any] = {"padding": 0, "same_model": True, "batch_tokens": 8}
    one = Patching(partial(nullcontext, target), applied, EXAMPLES, changes, **settings).errors()
    for change in changes:
        np.testing.assert_allclose(one.changed[change], two.changed[change], rtol=1e-4)


def test_hooks_of_the_erased_model_act_once() -> None:
    target, erased = zoo.model("llama", num_hidden_layers=3), zoo.model("llama", num_hidden_layers=3, seed=1)
    layers: Any = erased.model.layers
    layers[0].register_forward_hook(lambda _, __, output: output * 0.3)
    changes, _ = patches_of(target, EVERY)
    errors = patching(target, erased, changes, merged_tokens=0)  # each from its own layer on, were it to restart
    assert not errors.restarted
    for change in changes:
        np.testing.assert_allclose(errors.changed[change], by_hand(target, erased, change), rtol=1e-4)


@pytest.mark.parametrize("coarse", ["target", "erased"])
def test_another_precision_is_no_erasure(coarse: str) -> None:
    """bfloat16 has 7 bits after the leading one: eps is 2**-7, and twice that is rounding, whichever model has it."""
    models: dict[str, Any] = {name: zoo.model("llama") for name in ("target", "erased")}
    models[coarse].to(torch.bfloat16)
    changes, _ = patches_of(models["target"])
    errors = patching(models["target"], models["erased"], changes)
    assert errors.rounding == 2 * 2**-7
    assert errors.erased.min() > 0
    assert (errors.erased < errors.least).all()


def test_padding_rows_of_the_vocabulary_are_passed_over() -> None:
    """The padded model's first 99 logits are those of the other one."""
    target, erased = zoo.model("llama", vocab_size=99), zoo.model("llama", seed=1, vocab_size=99)
    padded = zoo.model("llama", seed=2, vocab_size=102)
    with torch.no_grad():
        for name, parameter in erased.named_parameters():
            padded.get_parameter(name)[: len(parameter)].copy_(parameter)
    changes, _ = patches_of(target, EVERY)
    plain = patching(target, erased, changes)
    for found in (patching(target, padded, changes), patching(padded, erased, changes)):
        assert found.erased.shape == plain.erased.shape
        assert np.isfinite(found.erased).all()
    found = patching(target, padded, changes)
    np.testing.assert_allclose(found.erased, plain.erased, rtol=1e-5)
    np.testing.assert_allclose(found.scale, plain.scale, rtol=1e-5)
    for change in changes:
        np.testing.assert_allclose(found.changed[change], plain.changed[change], rtol=1e-4)
    # and the other way round it is the target that has more
    same = zoo.model("llama", seed=1, vocab_size=99)
    assert patching(padded, same, changes).erased.max() < 1e-6
    with pytest.raises(ModelError, match="vocabulary: 99 and 20"):
        patching(target, zoo.model("llama", vocab_size=20), changes)  # the examples have tokens up to 23


def test_windows_are_clipped_at_the_ends() -> None:
    assert windows(4) == {0: range(1), 1: range(1, 2), 2: range(2, 3), 3: range(3, 4)}
    # five layers from the sixteenth layer of a model on: two below and two above the one in the middle
    assert windows(16)[0] == range(3)
    assert windows(16)[7] == range(5, 10)
    assert windows(16)[15] == range(13, 16)
    assert windows(3, 2) == {0: range(2), 1: range(1, 3), 2: range(2, 3)}
    with pytest.raises(ConfigError, match="width=0"):
        windows(3, 0)


def test_deep_models_have_so_many_windows_evenly_spread() -> None:
    # centres at n 39 / 13: every third layer, and the last
    assert list(windows(40, 5, 14)) == list(range(0, 40, 3))
    assert list(windows(3, 1, 9)) == [0, 1, 2] and list(windows(1, 1, 4)) == [0]
    for count in range(25, 101):
        assert len(windows(count, most=24)) == 24
    with pytest.raises(ConfigError, match="windows=0"):
        windows(3, 1, 0)


def test_no_layer_is_left_out_however_few_windows_are_asked_for() -> None:
    # 40 / 5 = 8 windows side by side: 0-4, 5-9, ..
    assert list(windows(40, 5, 4).values()) == [range(n, n + 5) for n in range(0, 40, 5)]
    assert windows(5, 5, 1) == {2: range(5)}
    # ceil(7 / 3) = 3 reach over nine layers, so that each end is clipped by one
    assert list(windows(7, 3, 1).values()) == [range(2), range(2, 5), range(5, 7)]
    for count in range(1, 201):
        for width in range(1, 8):
            for most in range(1, 31):
                found = windows(count, width, most)
                assert len(found) == min(count, max(most, -(-count // width))), (count, width, most)
                assert set().union(*found.values()) == set(range(count)), (count, width, most)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_answers_mean_log_probability_is_that_of_plain_forwards(side: str) -> None:
    target, erased = zoo.model("llama"), zoo.model("llama", seed=1)
    errors = patching(target, erased, patches_of(target)[0], side=side)
    for model, found in ((target, errors.target_logps), (erased, errors.logps)):
        for example, value in zip(EXAMPLES, found, strict=True):
            ids, start = torch.tensor([example.input_ids]), example.answer_start
            with torch.no_grad():
                logps = model(input_ids=ids).logits[0].log_softmax(-1)
            each = [logps[place - 1, example.input_ids[place]].item() for place in range(start, ids.shape[1])]
            assert value == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_models_of_other_shapes_and_unknown_components_are_errors() -> None:
    target = zoo.model("llama")
    changes, _ = patches_of(target)
    with pytest.raises(ModelError, match=r"layers: 2 and 3"):
        patching(target, zoo.model("llama", num_hidden_layers=3), changes)
    with pytest.raises(ModelError, match=r"hidden size: 64 and 32"):
        patching(target, zoo.model("llama", hidden_size=32), changes)
    with pytest.raises(ModelError, match="mlp_key"):
        patching(target, zoo.model("llama", intermediate_size=96), changes)
    with pytest.raises(ModelError, match="architecture"):
        patching(target, zoo.model("gpt2", vocab_size=target.config.vocab_size), changes)
    with pytest.raises(ConfigError, match="mlps"):
        patches_of(target, ["mlps"])
