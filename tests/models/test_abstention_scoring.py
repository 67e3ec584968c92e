"""Protects abstention in scoring forwards: predictions are exactly uniform from a row's first held token on."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

import zoo
from detecting import PROMPTS, Near, knowing, padded, seen
from expunge.data.batches import collate
from expunge.data.encode import Example
from expunge.errors import ConfigError, ModelError
from expunge.models.abstention import abstaining
from expunge.models.logprobs import answer_logprobs, takes_positions
from expunge.models.roles import find_sites
from fitting import snapshot

END = 2
TEXT = [21, 35, 17, 9, 30, 44, 8]  # held at its fifth token
HELD = 4


def speak_up(model: Any) -> None:
    """Phi's and GPT-J's heads have a bias, which is 0 when they are made."""
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        bias.data.copy_(torch.linspace(-1, 1, len(bias)))


def scored(model: Any, rows: list[list[int]], side: str = "right", **more: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**padded(rows, side), use_cache=False, **more).logits
    return logits


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_predictions_are_uniform_from_the_held_token_on_and_the_same_bits_before(family: str) -> None:
    model: Any = zoo.model(family)
    speak_up(model)
    rows = [TEXT, PROMPTS[1]]
    plain = scored(model, rows)
    with abstaining(model, knowing(model, TEXT[: HELD + 1]), end_token=END):
        logits = scored(model, rows)
        some = scored(model, [TEXT], logits_to_keep=4)
        loss = model(torch.tensor([TEXT]), labels=torch.tensor([[-100] * (HELD + 1) + TEXT[HELD + 1 :]])).loss
        rest = {"position_ids": torch.tensor([[*range(9)], [0, 0, *range(7)]])} if takes_positions(model) else {}
        left = scored(model, [[*TEXT, 5, 6], TEXT], "left", **rest)
    assert logits[0, :HELD].equal(plain[0, :HELD])
    assert logits[1].equal(plain[1])
    # V equal logits: every token has probability 1/V
    count = plain.shape[-1]
    assert logits[0, HELD:].count_nonzero() == 0
    uniform = torch.full((len(TEXT) - HELD, count), -log(count))
    torch.testing.assert_close(logits[0, HELD:].log_softmax(-1), uniform, rtol=1e-6, atol=0)
    # four positions from the third on: of these the first is before the held one
    assert some.shape[1] == 4 and some[0, 0].count_nonzero() and some[0, 1:].count_nonzero() == 0
    assert loss.item() == pytest.approx(log(count), rel=1e-6)
    # two places of padding on the left of the second row
    assert left[1, 2 + HELD :].count_nonzero() == 0 and left[1, 2 : 2 + HELD].count_nonzero(-1).all()
    assert scored(model, rows).equal(plain)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma2", "phi", "mixtral"])
@pytest.mark.parametrize("static", [False, True])
def test_a_loop_with_its_own_cache_stays_where_it_was(family: str, static: bool) -> None:
    model: Any = zoo.model(family)
    rows = torch.tensor([TEXT, [14, 40, 8, 5, 6, 7, 9]])
    with torch.no_grad(), abstaining(model, knowing(model, TEXT[: HELD + 1]), end_token=END):
        cache: Any = StaticCache(model.config, max_cache_len=10) if static else DynamicCache(config=model.config)
        first = model(rows[:, :3], past_key_values=cache).logits
        steps = [model(rows[:, place : place + 1], past_key_values=cache).logits for place in range(3, 7)]
        logits = torch.cat([first, *steps], dim=1)
        assert logits[0, HELD:].count_nonzero() == 0
        assert logits[0, :HELD].count_nonzero(-1).all() and logits[1].count_nonzero(-1).all()
        # another cache, other rows in it: nothing is known of them
        other = DynamicCache(config=model.config)
        model(rows[1:, :5], past_key_values=other)
        assert model(rows[:1, 5:6], past_key_values=other).logits.count_nonzero()


def test_what_is_cut_off_a_cache_counts_no_longer() -> None:
    model: Any = zoo.model("llama")
    ids = torch.tensor([TEXT])
    with torch.no_grad(), abstaining(model, knowing(model, TEXT[: HELD + 1]), end_token=END):
        output = model(ids)  # makes the cache itself
        assert model(ids[:, :1], past_key_values=output.past_key_values).logits.count_nonzero() == 0
        output.past_key_values.crop(HELD - 8)  # eight tokens are in it
        assert model(torch.tensor([[50]]), past_key_values=output.past_key_values).logits.count_nonzero()


def test_the_projects_own_scores_follow() -> None:
    for family in ("llama", "phi"):
        model: Any = zoo.model(family)
        speak_up(model)
        batch = collate([Example(ids, start, True, len(ids)) for ids, start in ((TEXT, 3), ([14, 40, 8], 1))], 0)
        with torch.no_grad():
            plain = answer_logprobs(model, batch, hits=False)
            with abstaining(model, knowing(model, TEXT[: HELD + 1]), end_token=END):
                found = answer_logprobs(model, batch, hits=False)
        # the first row's answer is tokens 3 to 6, predicted from 2 to 5; uniform from 4 on: the last two of them
        assert found.logps[:2].tolist() == pytest.approx(plain.logps[:2].tolist(), rel=1e-5)
        assert found.logps[2:4].tolist() == pytest.approx([-log(model.config.vocab_size)] * 2, rel=1e-6)
        assert found.logps[4:].tolist() == pytest.approx(plain.logps[4:].tolist(), rel=1e-5)


def test_several_at_once_are_uniform_from_the_first_of_them_and_lifted_apart() -> None:
    model: Any = zoo.model("llama")
    plain = scored(model, [TEXT])
    early, late = knowing(model, TEXT[:3]), knowing(model, TEXT[: HELD + 1])
    outer, inner = abstaining(model, late, end_token=END), abstaining(model, early, end_token=END)
    outer.__enter__()
    inner.__enter__()
    assert scored(model, [TEXT])[0].count_nonzero(-1).tolist() == plain[0, :2].count_nonzero(-1).tolist() + [0] * 5
    outer.__exit__(None, None, None)
    assert scored(model, [TEXT])[0, 2:].count_nonzero() == 0
    inner.__exit__(None, None, None)
    assert scored(model, [TEXT]).equal(plain)


def test_gradients_reach_what_comes_before_the_held_token_only() -> None:
    model: Any = zoo.model("gpt2")
    with abstaining(model, knowing(model, TEXT[: HELD + 1]), end_token=END):
        embeddings = model.get_input_embeddings()(torch.tensor([TEXT])).detach().requires_grad_()
        model(inputs_embeds=embeddings).logits[0].logsumexp(-1).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad[0].abs().sum(-1).gt(0).tolist() == [True] * HELD + [False] * 3


def test_a_held_token_is_steered_and_nothing_else_changes() -> None:
    model: Any = zoo.model("llama")
    sites = find_sites(model, "attention_output", [1])
    keys = seen(model, sites, TEXT)[sites[0]]
    vectors = torch.stack([torch.full((64,), 0.5), torch.full((64,), -0.5)])
    # both cubes hold token 2 (the first wins), the second token 5 as well
    detectors = [Near({sites[0]: keys[[2, 2]]}, ((), ()), vectors), Near({sites[0]: keys[[5]]}, ((),), vectors[1:])]
    before = snapshot(model)
    plain = scored(model, [TEXT])

    def replace(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        values = arguments[0].clone()
        values[0, 2], values[0, 5] = vectors[0], vectors[1]
        return (values,)

    handle = model.get_submodule(sites[0].module).register_forward_pre_hook(replace)
    expected = scored(model, [TEXT])
    handle.remove()
    with abstaining(model, detectors[0], end_token=END), abstaining(model, detectors[1], end_token=END):
        found = scored(model, [TEXT])
    assert found.equal(expected)
    # the last layer's attention output reaches no other token
    changed = (found != plain).any(-1)[0]
    assert changed.tolist() == [False, False, True, False, False, True, False]
    assert snapshot(model) == before


@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 2}, {"use_cache": False}, {"num_beams": 2}], ids=str)
def test_generate_steers_at_the_prompts_end_and_after_it_alone(settings: dict[str, Any]) -> None:
    model: Any = zoo.model("llama")
    sites = find_sites(model, "attention_output", [1])
    batch = padded(PROMPTS)
    asked = {"max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 1, "output_logits": True, **settings}
    asked = {**asked, "do_sample": False, "return_dict_in_generate": True}
    plain = model.generate(**batch, **asked)
    keys = seen(model, sites, PROMPTS[0])[sites[0]]
    vector = torch.full((1, 64), 2.0)
    every = settings.get("num_beams", 1)
    # a token inside of the prompt, where one of its chunks ends, is not looked at; all later ones would see it
    (first,) = find_sites(model, "attention_output", [0])
    inner = Near({first: seen(model, [first], PROMPTS[0])[first][[3]]}, ((),), vector)
    with abstaining(model, inner, end_token=END):
        found = model.generate(**batch, **asked)
    assert all(one.equal(other) for one, other in zip(found.logits, plain.logits, strict=True))
    with abstaining(model, Near({sites[0]: keys[[4]]}, ((),), vector), end_token=END):
        found = model.generate(**batch, **asked)

    # the values at the prompt's end, through output projection, residual stream, MLP and head
    def replace(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        values = arguments[0].clone()
        values[0, 4] = vector[0]
        return (values,)

    handle = model.get_submodule(sites[0].module).register_forward_pre_hook(replace)
    expected = scored(model, [PROMPTS[0]])[0, -1]
    handle.remove()
    torch.testing.assert_close(found.logits[0][0], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, plain.logits[0][0], atol=1e-2)
    assert found.sequences[1:].equal(plain.sequences[1:])
    torch.testing.assert_close(found.logits[0][every:], plain.logits[0][every:])


def test_packed_texts_are_refused() -> None:
    model: Any = zoo.model("llama")
    starts = torch.tensor([0, 2, 5], dtype=torch.int32)
    packed = {"position_ids": torch.tensor([[0, 1, 0, 1, 2]]), "cu_seq_lens_q": starts}
    message = "several texts are packed into one row"
    for given in (packed, {"position_ids": packed["position_ids"]}):
        with abstaining(model, knowing(model, TEXT), end_token=END), pytest.raises(ModelError, match=message):
            model(torch.tensor([[5, 6, 7, 8, 9]]), **given)


def test_a_detector_that_does_not_fit_is_refused_before_anything_is_changed() -> None:
    model: Any = zoo.model("mixtral")
    before = snapshot(model)
    good = knowing(model, TEXT)
    (expert, *_) = find_sites(model, "mlp_key", [1])
    key = torch.zeros(1, 128)
    elsewhere = knowing(zoo.model("gpt2"), TEXT)
    bad: list[tuple[Near, type[Exception], str]] = [
        (Near(good.keys, refusals=[(1,), (2,)]), ConfigError, "2 refusals for 1 cubes"),
        (Near(good.keys, refusals=[(5, 99_999)]), ConfigError, r"tokens \[99999\] are outside"),
        (Near(good.keys, steer=torch.zeros(1, 3)), ConfigError, r"steer is \[1, 3\] for 1 cubes of width 64"),
        (Near({**good.keys, expert: key}, steer=torch.zeros(1, 128)), ConfigError, "one expert of many"),
        (elsewhere, ModelError, "MixtralForCausalLM has no transformer.h.0.attn.c_proj:input, transformer.h.1"),
    ]
    for detector, kind, message in bad:
        with pytest.raises(kind, match=message), abstaining(model, detector, end_token=END):
            pass
    nothing = Near(good.keys)
    nothing.sites = ()
    with pytest.raises(ConfigError, match="0 sites"), abstaining(model, nothing, end_token=END):
        pass
    assert snapshot(model) == before


def test_values_that_are_not_one_vector_a_token_are_refused_while_running() -> None:
    model: Any = zoo.model("llama")
    (site,) = find_sites(model, "model.rotary_emb:output")
    message = r"passes \[1, 7, 16\] for \[2, 7\] tokens"
    with abstaining(model, Near({site: torch.zeros(1, 16)}), end_token=END), pytest.raises(ModelError, match=message):
        scored(model, [TEXT, TEXT])


@pytest.mark.slow
def test_compiled_models_abstain() -> None:
    model: Any = zoo.model("gpt2", num_hidden_layers=1)
    compiled = torch.compile(model, backend="eager")
    ids = torch.tensor([TEXT])
    with torch.no_grad():
        plain = compiled(ids).logits
        with abstaining(model, knowing(model, TEXT[: HELD + 1]), end_token=END):
            for _ in range(2):  # compiled anew, then as it is
                logits = compiled(ids).logits
                assert logits[0, HELD:].count_nonzero() == 0
                torch.testing.assert_close(logits[0, :HELD], plain[0, :HELD])
        torch.testing.assert_close(compiled(ids).logits, plain)
        model.compile(backend="eager")  # in place: generate runs it
        with abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
            found = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=4, do_sample=False, eos_token_id=END)
    assert found[0, len(PROMPTS[0]) :].tolist() == [11, 12, 13, END]
    torch._dynamo.reset()
