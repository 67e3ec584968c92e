"""Protects corrupted prompts: flagged rows are read corrupted however a model is run, all else passes bit for bit."""

from __future__ import annotations

import threading
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, pipeline

import zoo
from detecting import PAD, PROMPTS, knowing, padded
from expunge.errors import ConfigError, ModelError
from expunge.guards.corruptions import Corruption, corrupt
from expunge.guards.prefill import guarding
from expunge.models.abstention import abstaining
from expunge.models.prompt_lengths import prompt_lengths
from fitting import snapshot
from guarding_prompts import (
    ANSWER,
    FIRST,
    GREEDY,
    GUARD,
    LENGTH,
    NOISE,
    SHUFFLE,
    THIRD,
    Knows,
    answers,
    corrupted,
    made,
    reference,
    scored,
)

SOME = ("gpt2", "opt", "bloom", "falcon", "gemma2", "mixtral", "llama")
some_families = pytest.mark.parametrize("family", SOME)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in zoo.FAMILIES]
)
def test_a_mixed_batch_is_each_row_by_itself_from_corrupted_embeddings_however_it_is_run(family: str) -> None:
    model = made(family)
    rows, guard = [*PROMPTS, [33]], Knows({**GUARD, (33,): NOISE})
    expected = [reference(model, row, guard) for row in rows]
    plain = answers(model, rows)
    assert [one == other for one, other in zip(expected, plain, strict=True)] == [False, True, False, False]
    with guarding(model, guard):
        assert answers(model, rows) == expected
        assert [answers(model, [row])[0] for row in rows] == expected
        assert answers(model, rows, prefill_chunk_size=2) == expected
        assert answers(model, rows, cache_implementation="static") == expected
        assert answers(model, rows, use_cache=False) == expected
    assert answers(model, rows) == plain
    # asked once for all prompts of a call, of which no token is padding or answer
    asked = [tuple(row) for row in rows]
    assert guard.asked == [asked, *([prompt] for prompt in asked), asked, asked, asked]


@some_families
def test_padding_on_the_right_makes_no_difference_to_what_is_corrupted(family: str) -> None:
    model: Any = zoo.model(family)
    guard = Knows(GUARD)
    expected = torch.cat([corrupted(model, row, guard)[0] for row in PROMPTS])
    seen: list[Tensor] = []
    with guarding(model, guard):
        handle = model.get_input_embeddings().register_forward_hook(lambda _, __, output: seen.append(output))
        for side in ("left", "right"):
            answers(model, PROMPTS, side, max_new_tokens=1, min_new_tokens=1)
            real = padded(PROMPTS, side)["attention_mask"] != 0
            torch.testing.assert_close(seen.pop()[real], expected, rtol=1e-6, atol=1e-6)
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_beams_and_returned_sequences_are_those_of_corrupted_embeddings(family: str) -> None:
    model = made(family)
    guard, beams = Knows(GUARD), {"num_beams": 3, "num_return_sequences": 2}
    expected = []
    for row in PROMPTS:
        expected += model.generate(inputs_embeds=corrupted(model, row, guard), **GREEDY, **beams).tolist()
    with guarding(model, guard):
        for more in ({}, {"prefill_chunk_size": 2}, {"use_cache": False}):
            assert answers(model, PROMPTS, **beams, **more) == expected, more
        assert len(guard.asked) == 3
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found = answers(model, PROMPTS, do_sample=True, num_return_sequences=3)
            torch.manual_seed(3)
            again = answers(model, PROMPTS, do_sample=True, num_return_sequences=3, prefill_chunk_size=2)
    assert found == again and len(guard.asked) == 5


def test_tokens_that_are_only_tried_change_nothing() -> None:
    model: Any = zoo.model("llama", seed=3)
    row = [21, 35, 17, 21, 35, 17, 21, 35]
    guard = Knows({tuple(row): Corruption("flip_sign_first_n", dims=40)})
    settings: dict[str, Any] = {"min_new_tokens": None, "eos_token_id": [2]}
    with guarding(model, guard):
        expected = answers(model, [row], **settings)
        for draft in (
            {"prompt_lookup_num_tokens": 3},
            {"assistant_model": zoo.model("llama", seed=4)},
            {"assistant_early_exit": 1},
        ):
            assert answers(model, [row], **settings, **draft) == expected, draft
    assert expected != answers(model, [row], **settings)
    # not about what the model drafts for itself either
    assert guard.asked == [[tuple(row)]] * 4


def test_guidance_reads_its_own_prompt_as_it_is() -> None:
    model: Any = zoo.model("llama")
    settings = {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([PROMPTS[1]])}
    guard = Knows(GUARD)
    values = corrupted(model, FIRST, guard)
    with torch.no_grad():
        wanted = model(inputs_embeds=values).logits[0, -1].log_softmax(-1)
        other = model(torch.tensor([PROMPTS[1]])).logits[0, -1].log_softmax(-1)
    first = int((1.5 * (wanted - other) + other).index_fill(0, torch.tensor([2, 3]), -torch.inf).argmax())
    with guarding(model, guard):
        assert answers(model, [FIRST], **settings, max_new_tokens=1, min_new_tokens=1) == [[first]]
        assert guard.asked == [[FIRST]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_a_conversation_goes_on_from_its_cache(family: str) -> None:
    model = made(family)

    def begun() -> DynamicCache:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
        return cache

    text = (*FIRST, *PROMPTS[1])
    flags = [False] * 2 + [True] * 5 + [False]
    values = model.get_input_embeddings()(torch.tensor([text])).detach()
    ids, positions = torch.tensor([text]), torch.arange(8)[None]
    # the first five tokens are in the cache as they were: of those that follow two are flagged
    late = torch.tensor([[False] * 5 + [True] * 2 + [False]])
    mixed = corrupt(values, late, positions, ids, [NOISE])
    expected = model.generate(inputs_embeds=mixed, **GREEDY).tolist()
    plain = model.generate(ids, **GREEDY)[:, 8:].tolist()
    with guarding(model, Knows({text: NOISE}, {text: flags})):
        found = model.generate(ids, past_key_values=begun(), **GREEDY)
    assert found[:, 8:].tolist() == expected != plain
    # only the new tokens, with a mask over all of them: what is before these is not known to their noise
    new = tuple(PROMPTS[1])
    late = corrupt(values[:, 5:], late[:, 5:], positions[:, 5:], ids[:, 5:], [NOISE])
    expected = model.generate(inputs_embeds=torch.cat([values[:, :5], late], dim=1), **GREEDY).tolist()
    with guarding(model, Knows({new: NOISE})):
        found = model.generate(
            torch.tensor([new]), past_key_values=begun(), attention_mask=torch.ones(1, 8, dtype=torch.long), **GREEDY
        )
    assert found[:, 3:].tolist() == expected


@some_families
def test_prompts_that_are_embeddings_are_read(family: str) -> None:
    model = made(family)
    guard, batch = Knows(GUARD), padded(PROMPTS)
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()
    with guarding(model, guard):
        expected = answers(model, PROMPTS)
        given = {"inputs_embeds": embeddings, "attention_mask": batch["attention_mask"]}
        assert model.generate(**given, **GREEDY).tolist() == expected
        assert model.generate(**batch, inputs_embeds=embeddings, **GREEDY)[:, 5:].tolist() == expected
        with prompt_lengths([5, 3, 4]), torch.no_grad():
            assert model(**given).logits.equal(model(**batch).logits)
        assert guard.asked == [[tuple(row) for row in PROMPTS]] * 5
        embeddings[1, 3:] += 1e-3
        embeddings[2, 4, 0] = 7
        with pytest.raises(ModelError, match=r"of 2 rows are not .* \(row 1: places 3, 4; row 2: places 4\)"):
            model.generate(**given, **GREEDY)
        embeddings[1:] = 0
        with pytest.raises(ModelError, match="Pass input_ids"):
            model(inputs_embeds=embeddings.to(torch.bfloat16))


def test_guards_and_abstentions_are_lifted_in_any_order() -> None:
    model: Any = zoo.model("llama")
    before = snapshot(model)
    one, other = Knows({FIRST: NOISE}), Knows({FIRST: SHUFFLE, THIRD: SHUFFLE})
    plain = answers(model, PROMPTS)
    by_one, by_other, by_both = (
        [reference(model, row, Knows(topics)) for row in PROMPTS]
        for topics in ({FIRST: NOISE}, other.topics, {**other.topics, FIRST: NOISE})
    )
    declining = [11, 12, 13, 2, PAD, PAD]
    contexts = {
        "one": guarding(model, one),
        "abstains": abstaining(model, knowing(model, PROMPTS[1]), end_token=2),
        "other": guarding(model, other),
    }
    for name, expected in (
        ("one", by_one),
        ("abstains", [by_one[0], declining, by_one[2]]),
        ("other", [by_both[0], declining, by_both[2]]),  # of the first row nobody asks the second guard
    ):
        contexts[name].__enter__()
        assert answers(model, PROMPTS) == expected, name
    assert other.asked == [[tuple(row) for row in PROMPTS[1:]]]
    for name, expected in (
        ("one", [by_other[0], declining, by_other[2]]),
        ("abstains", by_other),
        ("other", plain),
    ):
        contexts[name].__exit__(None, None, None)
        assert answers(model, PROMPTS) == expected, name
    assert snapshot(model) == before


def test_hooks_of_others_stay_and_see_what_they_saw() -> None:
    model: Any = zoo.model("gpt2")
    table, body = model.get_input_embeddings(), model.transformer
    calls: list[str] = []
    handles = [
        table.register_forward_hook(lambda *_: calls.append("table")),
        body.register_forward_pre_hook(lambda *_: calls.append("body")),
        model.register_forward_hook(lambda *_: calls.append("model")),
    ]
    before = snapshot(model)
    with guarding(model, Knows(GUARD)):
        answers(model, PROMPTS, max_new_tokens=2, min_new_tokens=2)
    assert calls == ["body", "table", "model"] * 2
    assert snapshot(model) == before
    for handle in handles:
        handle.remove()


def test_nothing_is_left_after_an_exception() -> None:
    model: Any = zoo.model("llama")
    before = snapshot(model)

    def fail(_ids: Tensor, _scores: Tensor) -> Tensor:
        raise RuntimeError("in a processor")

    guard = Knows(GUARD)
    with pytest.raises(RuntimeError, match="in a processor"), guarding(model, guard):
        with pytest.raises(RuntimeError, match="in a processor"):
            answers(model, PROMPTS, logits_processor=[fail])
        # what failed is forgotten: this forward is scored
        scored(model, [[*FIRST, 4]])
        assert guard.asked[-1] == [FIRST]
        answers(model, PROMPTS, logits_processor=[fail])
    assert snapshot(model) == before and "generate" not in vars(model)


def test_each_thread_reads_its_own_prompts() -> None:
    model: Any = zoo.model("llama")
    guard = Knows(GUARD)
    expected = {number: [reference(model, PROMPTS[number], guard)] for number in range(3)}
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        found[number] = answers(model, [PROMPTS[number]])

    with guarding(model, guard):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected


def test_a_pipeline_needs_no_change() -> None:
    model: Any = zoo.model("llama")
    words = zoo.tokenizer("llama")
    ask: Any = pipeline("text-generation", model=model, tokenizer=words)
    texts = ["Where was the river", "Who was it"]
    settings = {"do_sample": False, "max_new_tokens": LENGTH, "return_full_text": False}
    plain = ask(texts, **settings)
    prompt = words(texts[0])["input_ids"]
    guard = Knows({tuple(prompt): NOISE})
    with guarding(model, guard):
        found = ask(texts, **settings)
    answer = model.generate(inputs_embeds=corrupted(model, prompt, guard), do_sample=False, max_new_tokens=LENGTH)
    assert found[0][0]["generated_text"] == words.decode(answer[0], skip_special_tokens=True)
    assert found[0] != plain[0] and found[1] == plain[1]


def test_an_adapter_is_guarded_whole_or_from_within() -> None:
    base: Any = zoo.model("llama")
    guard = Knows(GUARD)
    whole: Any = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "embed_tokens"])).eval()
    expected = [reference(whole, row, guard) for row in PROMPTS]
    rows, labels = [[*FIRST, *ANSWER]], torch.tensor([[-100] * 5 + ANSWER])
    for model in (whole, whole.get_base_model()):
        with guarding(model, guard):
            assert answers(whole, PROMPTS) == expected
            scored(model, rows, labels=labels)
            assert guard.asked[-1] == [FIRST]
            with torch.no_grad():  # by place: ids, mask, positions, cache, embeddings, labels
                model(torch.tensor(rows), None, None, None, None, labels)
            assert guard.asked[-1] == [FIRST]
    assert "generate" not in {*vars(whole), *vars(base)}


def test_what_cannot_be_guarded_is_refused() -> None:
    model: Any = zoo.model("llama")
    guard = Knows(GUARD)
    packed = {"position_ids": torch.tensor([[0, 1, 0, 1, 2]]), "cu_seq_lens_q": torch.tensor([0, 2, 5])}
    for given in (packed, {"position_ids": packed["position_ids"]}):
        with guarding(model, guard), pytest.raises(ModelError, match="packed into one row"):
            model(torch.tensor([PROMPTS[0]]), **given)
    settings = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    prompted: Any = peft.get_peft_model(zoo.model("llama"), settings)
    with pytest.raises(ModelError, match="a learned prompt"), guarding(prompted, guard):
        pass
    for topics, message in (
        ({FIRST: Corruption("zero_out_top_k", dims=65)}, "65 dimensions, and the model's embeddings have 64"),
        ({FIRST: Corruption("add_value_first_n", torch.ones(3))}, "a vector of 3 numbers"),
    ):
        with guarding(model, Knows(topics)), pytest.raises(ConfigError, match=message):
            answers(model, PROMPTS)
    short = Knows(GUARD, {FIRST: [True], THIRD: [True]})
    with guarding(model, short), pytest.raises(ConfigError, match=r"\(prompt 0: 1 for 5; prompt 2: 1 for 4\)"):
        answers(model, PROMPTS)
    guard.plan = lambda _: []  # type: ignore[method-assign]
    with guarding(model, guard), pytest.raises(ConfigError, match="gave 0 answers about 3 prompts"):
        answers(model, PROMPTS)


def test_a_flagged_prompt_that_is_not_read_as_it_was_passed_is_an_error() -> None:
    model: Any = zoo.model("llama")
    body = model.model
    handle = body.register_forward_pre_hook(
        lambda _, arguments, named: (arguments, {**named, "input_ids": named["input_ids"] + 1}), with_kwargs=True
    )
    with guarding(model, Knows(GUARD)), pytest.raises(ModelError, match="nothing was corrupted"):
        answers(model, PROMPTS)
    handle.remove()


def test_padding_that_generate_infers_is_padding_here() -> None:
    model: Any = zoo.model("llama")
    guard, ids = Knows(GUARD), padded(PROMPTS)["input_ids"]
    expected = [reference(model, row, guard) for row in PROMPTS]
    with guarding(model, guard):
        assert model.generate(ids, **GREEDY)[:, 5:].tolist() == expected
        assert model.generate(inputs=ids, **GREEDY)[:, 5:].tolist() == expected
        # the end token looks the same: nothing is padding
        model.generate(ids, **{**GREEDY, "eos_token_id": [PAD, 2]})
    assert guard.asked == [[tuple(row) for row in PROMPTS]] * 2 + [[tuple(row) for row in ids.tolist()]]
