"""Protects abstention in generate: a row that a detector finds declines and ends, all others go on untouched."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

import zoo
from detecting import PAD, PROMPTS, knowing, padded
from expunge.errors import ModelError
from expunge.models.abstention import abstaining
from fitting import snapshot

REFUSAL, END = [11, 12, 13], 2
LENGTH = 8
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "max_new_tokens": LENGTH,
    "min_new_tokens": LENGTH,
    "pad_token_id": PAD,
    "eos_token_id": [END, 3],
}
SOME = ("gpt2", "opt", "bloom", "falcon", "gemma2", "phi", "mixtral", "qwen2_moe", "deepseek", "mpt", "llama")
every_family = pytest.mark.parametrize("family", zoo.FAMILIES)
some_families = pytest.mark.parametrize("family", SOME)


def answers(model: Any, rows: Sequence[Sequence[int]], side: str = "left", **settings: Any) -> list[list[int]]:
    """What is generated after each of the rows, as one batch."""
    batch = padded(rows, side)
    found: Tensor = model.generate(**batch, **{**GREEDY, **settings})
    return found[:, batch["input_ids"].shape[1] :].tolist()


def declined(after: Sequence[int] = (), refusal: Sequence[int] = REFUSAL) -> list[int]:
    """The answer of a row that goes on as before for some tokens, then declines, then is padded."""
    answer = [*after, *refusal, END]
    return answer + [PAD] * (LENGTH - len(answer))


def cut(rows: list[list[int]]) -> list[list[int]]:
    """Without the padding at the end: a batch is as long as its longest row."""
    return [row[: len(row) - next((i for i, t in enumerate(reversed(row)) if t != PAD), 0)] for row in rows]


@every_family
def test_a_mixed_batch_is_each_row_by_itself_however_it_is_run(family: str) -> None:
    model: Any = zoo.model(family)
    plain = [answers(model, [row])[0] for row in PROMPTS]
    # the first row is found at its prompt's end, the third at the second token that it generates
    detector = knowing(model, PROMPTS[0], [*PROMPTS[2], *plain[2][:2]], refusals=[(11, 12, 13), (15,)])
    expected = [declined(), plain[1], declined(plain[2][:2], [15])]
    with abstaining(model, detector, end_token=END):
        assert answers(model, PROMPTS) == expected
        assert cut([answers(model, [row])[0] for row in PROMPTS]) == cut(expected)
        assert answers(model, PROMPTS, cache_implementation="static") == expected
        assert answers(model, PROMPTS, prefill_chunk_size=2) == expected
        assert answers(model, PROMPTS, use_cache=False) == expected
    assert answers(model, PROMPTS) == plain


@some_families
def test_the_end_of_a_prompt_is_found_when_it_is_padded_on_the_right(family: str) -> None:
    model: Any = zoo.model(family)
    plain = answers(model, PROMPTS, "right")
    # the second row's last real token is at place 2 of 5: with chunks of 2 it is in the second chunk of three
    detector = knowing(model, PROMPTS[1])
    expected = [plain[0], declined(), plain[2]]
    with abstaining(model, detector, end_token=END):
        assert answers(model, PROMPTS, "right") == expected
        assert answers(model, PROMPTS, "right", prefill_chunk_size=2)[1] == declined()


@some_families
def test_beams_of_a_row_that_is_found_decline_and_those_of_other_rows_do_not(family: str) -> None:
    model: Any = zoo.model(family)
    beams: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 2}
    plain = answers(model, PROMPTS, **beams)
    with abstaining(model, knowing(model, PROMPTS[1]), end_token=END):
        found = answers(model, PROMPTS, **beams)
    assert found == [*plain[:2], declined(), declined(), *plain[4:]]
    # found at the second token of the third row's best answer: that beam declines at no cost, and wins
    with abstaining(model, knowing(model, [*PROMPTS[2], *plain[4][:2]]), end_token=END):
        found = answers(model, PROMPTS, **beams)
    assert found[:4] == plain[:4]
    assert found[4] == declined(plain[4][:2])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 5, "temperature": 0.7},
        {"top_p": 0.9, "repetition_penalty": 1.3},
        {"typical_p": 0.9, "renormalize_logits": True},
        {"min_p": 0.05, "no_repeat_ngram_size": 2},
        {"num_return_sequences": 3},
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_samples_of_other_rows_are_the_same_draws(settings: dict[str, Any]) -> None:
    model: Any = zoo.model("llama")
    settings = {"do_sample": True, **settings}
    each = settings.get("num_return_sequences", 1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plain = answers(model, PROMPTS, **settings)
        torch.manual_seed(5)
        with abstaining(model, knowing(model, PROMPTS[1]), end_token=END):
            found = answers(model, PROMPTS, **settings)
    assert found == [*plain[:each], *[declined()] * each, *plain[2 * each :]]


def test_beams_that_are_sampled_decline() -> None:
    model: Any = zoo.model("gpt2")
    with torch.random.fork_rng(), abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
        torch.manual_seed(5)
        found = answers(model, PROMPTS, do_sample=True, num_beams=3)
    assert found[0] == declined()
    assert REFUSAL[0] not in (found[1][0], found[2][0])


def test_prompts_that_are_embeddings_are_told_apart() -> None:
    model: Any = zoo.model("llama")
    batch = padded(PROMPTS)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    plain = answers(model, PROMPTS)
    detector = knowing(model, PROMPTS[0], [*PROMPTS[2], *plain[2][:2]])
    with abstaining(model, detector, end_token=END):
        found = model.generate(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], **GREEDY)
        both = model.generate(**batch, inputs_embeds=embeddings, **GREEDY)[:, batch["input_ids"].shape[1] :]
    assert found.tolist() == both.tolist() == [declined(), plain[1], declined(plain[2][:2])]


class Collected(BaseStreamer):
    """The tokens that a streamer is given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.tokens += value.reshape(-1).tolist()

    def end(self) -> None:
        self.ended = True


def test_a_streamer_gets_the_refusal_and_its_end() -> None:
    model: Any = zoo.model("llama")
    streamer = Collected()
    with abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
        answers(model, [PROMPTS[0]], streamer=streamer)
    assert streamer.tokens == [*PROMPTS[0], *REFUSAL, END]
    assert streamer.ended


# the answer of a greedy model begins to repeat itself, which prompt lookup finds
LOOKED_UP = [21, 35, 17, 21, 35, 17, 21, 35]


@pytest.mark.parametrize("place", range(5))
def test_tokens_that_are_only_tried_change_nothing(place: int) -> None:
    model: Any = zoo.model("llama", seed=3)
    drafts: list[dict[str, Any]] = [
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": zoo.model("llama", seed=3)},  # drafts what the model will say
        {"assistant_model": zoo.model("llama", seed=4)},  # and what it will not
        {"assistant_early_exit": 1},
    ]
    # without a least length, for which drafts make no allowance; nothing ends these answers either
    settings = {"min_new_tokens": None, "eos_token_id": [END]}
    plain = answers(model, [LOOKED_UP], **settings)[0]
    assert END not in plain
    detector = knowing(model, [*LOOKED_UP, *plain[:place]])
    with abstaining(model, detector, end_token=END):
        one_by_one = answers(model, [LOOKED_UP], **settings)[0]
        assert one_by_one == [*plain[:place], *REFUSAL, END][:LENGTH]
        for draft in drafts:
            assert answers(model, [LOOKED_UP], **settings, **draft)[0] == one_by_one, draft


def test_guidance_runs_forwards_of_its_own_that_are_not_looked_at() -> None:
    model: Any = zoo.model("llama")
    settings = {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([PROMPTS[1]])}
    row = [PROMPTS[2]]
    plain = answers(model, row, **settings)
    for cached in (True, False):
        # the prompt that is held is the negative one
        with abstaining(model, knowing(model, PROMPTS[1]), end_token=END):
            assert answers(model, row, **settings, use_cache=cached) == plain
        with abstaining(model, knowing(model, PROMPTS[2]), end_token=END):
            assert answers(model, row, **settings, use_cache=cached) == cut([declined()])


def test_a_conversation_goes_on_from_its_cache() -> None:
    model: Any = zoo.model("llama")
    first = model.generate(torch.tensor([PROMPTS[0]]), **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([PROMPTS[1]])], dim=1)
    plain = model.generate(ids, **GREEDY)[0, ids.shape[1] :].tolist()
    for place in (0, 2):
        text = ids[0].tolist() + plain[:place]
        first = model.generate(torch.tensor([PROMPTS[0]]), **GREEDY, return_dict_in_generate=True)
        with abstaining(model, knowing(model, text), end_token=END):
            found = model.generate(ids, past_key_values=first.past_key_values, **GREEDY)
        assert found[0, ids.shape[1] :].tolist() == [*plain[:place], *REFUSAL, END]


def test_the_first_detector_of_a_row_wins_in_any_order_of_lifting() -> None:
    model: Any = zoo.model("llama")
    before = snapshot(model)
    plain = answers(model, PROMPTS)
    one = knowing(model, PROMPTS[0], PROMPTS[1], refusals=[(11,), (12,)])
    other = knowing(model, PROMPTS[1], PROMPTS[2], refusals=[(14,), (15, 16)])
    first, second = (abstaining(model, detector, end_token=END) for detector in (one, other))
    first.__enter__()
    assert answers(model, PROMPTS) == [declined(refusal=[11]), declined(refusal=[12]), plain[2]]
    wrapper = model.generate
    second.__enter__()
    assert model.generate is wrapper
    # all three decline now, and the batch is as long as the longest refusal
    assert answers(model, PROMPTS) == [[11, END, PAD], [12, END, PAD], [15, 16, END]]
    first.__exit__(None, None, None)
    assert answers(model, PROMPTS) == [plain[0], declined(refusal=[14]), declined(refusal=[15, 16])]
    second.__exit__(None, None, None)
    assert snapshot(model) == before


@pytest.mark.parametrize("family", ["gpt2", "phi", "mixtral"])
def test_nothing_is_left_after_an_exception(family: str) -> None:
    model: Any = zoo.model(family)
    before = snapshot(model)

    def fail(_ids: Tensor, _scores: Tensor) -> Tensor:
        raise RuntimeError("in a processor")

    with (
        pytest.raises(RuntimeError, match="in a processor"),
        abstaining(model, knowing(model, PROMPTS[0]), end_token=END),
    ):
        with pytest.raises(RuntimeError, match="in a processor"):
            answers(model, PROMPTS, logits_processor=[fail])
        # what failed is forgotten: this forward is scored, and the next generate is a new one
        assert model(torch.tensor([PROMPTS[0]])).logits[0, -1].count_nonzero() == 0
        assert answers(model, PROMPTS[:1]) == [[*REFUSAL, END]]
        answers(model, PROMPTS, logits_processor=[fail])
    assert snapshot(model) == before
    assert "generate" not in vars(model)


def test_a_generate_of_the_callers_own_is_put_back_as_it_was() -> None:
    model: Any = zoo.model("llama")
    asked: list[str] = []

    def own(*arguments: Any, **named: Any) -> Any:
        """Notes that it was asked."""
        asked.append("own")
        return type(model).generate(model, *arguments, **named)

    model.generate = own
    with abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
        assert model.generate.__doc__ == own.__doc__
        assert answers(model, PROMPTS[:1]) == [[*REFUSAL, END]]
    assert model.generate is own
    assert asked == ["own"]


def test_processors_of_the_callers_own_run_before_by_name_and_by_place() -> None:
    model: Any = zoo.model("llama")
    ids = torch.tensor([PROMPTS[0]])
    lengths: list[int] = []

    def watch(given: Tensor, scores: Tensor) -> Tensor:
        lengths.append(given.shape[1])
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([77]), 0)

    own = LogitsProcessorList([watch])
    with abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
        by_name = model.generate(ids, logits_processor=own, **GREEDY)
        by_place = model.generate(ids, None, own, **GREEDY)
    assert by_name[0, 5:].tolist() == by_place[0, 5:].tolist() == [*REFUSAL, END]
    assert lengths == [5, 6, 7, 8] * 2
    assert len(own) == 1


@pytest.mark.parametrize(
    ("ends", "end"), [({}, 2), ({"eos_token_id": 3}, 3), ({"eos_token_id": torch.tensor([3, 4])}, 3)], ids=str
)
def test_the_end_token_is_one_that_generate_stops_at(ends: dict[str, Any], end: int) -> None:
    model: Any = zoo.model("llama")
    model.generation_config.eos_token_id = [3, 2]  # the token given is among them, though not the first
    with abstaining(model, knowing(model, PROMPTS[0]), end_token=2):
        found = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=LENGTH, pad_token_id=PAD, **ends)
    assert found[0, 5:].tolist() == [*REFUSAL, end]


def test_where_generate_knows_no_end_token_the_row_repeats_the_given_one() -> None:
    model: Any = zoo.model("llama")
    model.generation_config.eos_token_id = None
    with abstaining(model, knowing(model, PROMPTS[0]), end_token=2):
        found = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=6, do_sample=False)
    assert found[0, 5:].tolist() == [*REFUSAL, 2, 2, 2]


def test_steps_cost_nothing_where_nothing_is_found() -> None:
    model: Any = zoo.model("llama")
    detector = knowing(model, [99])
    plain = model.generate(**padded(PROMPTS), **GREEDY, output_scores=True, return_dict_in_generate=True)
    detector.calls.clear()
    with abstaining(model, detector, end_token=END):
        found = model.generate(**padded(PROMPTS), **GREEDY, output_scores=True, return_dict_in_generate=True)
    assert found.sequences.equal(plain.sequences)
    assert all(one.equal(other) for one, other in zip(found.scores, plain.scores, strict=True))
    # each site is asked once a step, about the three prompts' ends and then about three tokens
    assert detector.calls == [(site, 3, False) for _ in range(LENGTH) for site in detector.sites]


def test_threads_generate_and_score_side_by_side() -> None:
    model: Any = zoo.model("llama")
    plain = answers(model, [PROMPTS[1]])
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        with torch.no_grad():
            if number == 2:
                found[number] = model(torch.tensor([PROMPTS[0]])).logits[0, -1].count_nonzero().item()
            else:
                found[number] = answers(model, [PROMPTS[number]])

    with abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {0: [[*REFUSAL, END]], 1: plain, 2: 0}


def test_generate_of_the_class_is_not_replaced_and_gets_uniform_scores() -> None:
    model: Any = zoo.model("llama")
    ids = torch.tensor([PROMPTS[0]])
    settings = {**GREEDY, "min_new_tokens": None, "output_logits": True, "return_dict_in_generate": True}
    with abstaining(model, knowing(model, PROMPTS[0]), end_token=END):
        found = type(model).generate(model, ids, **settings)
    # and goes on so with its cache
    assert all(logits.count_nonzero() == 0 for logits in found.logits)


def test_an_adapter_is_abstained_on_whole_or_from_within_and_a_learned_prompt_is_refused() -> None:
    base: Any = zoo.model("llama")
    whole: Any = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "lm_head"])).eval()
    plain = answers(whole, PROMPTS)
    for model in (whole, whole.get_base_model()):
        with abstaining(model, knowing(model, PROMPTS[1]), end_token=END):
            assert answers(whole, PROMPTS) == [plain[0], declined(), plain[2]]
    assert "generate" not in {*vars(whole), *vars(base)}
    settings = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    prompted: Any = peft.get_peft_model(zoo.model("llama"), settings)
    detector = knowing(zoo.model("llama"), PROMPTS[1])
    with pytest.raises(ModelError, match="a learned prompt"), abstaining(prompted, detector, end_token=END):
        pass
