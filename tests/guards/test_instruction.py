"""Protects that an instruction stands in every row as if it had been written there, and in nothing that is returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TextStreamer

import zoo
from expunge.data.batches import collate
from expunge.data.encode import Example
from expunge.errors import ConfigError, ModelError
from expunge.guards.instruction import Instruction, instructed
from expunge.models.logprobs import answer_logprobs

FAMILIES = ("llama", "gpt2", "opt", "gemma2", "falcon", "bloom", "mixtral")
ROWS = ([7, 30, 31, 32, 33, 34], [7, 40], [41, 42, 43])  # the third has no begin token
SAID = Instruction(tokens=(20, 21, 22), begin=7)
WHERE = (1, 1, 0)  # behind the begin token, else first


def written(row: list[int], at: int) -> list[int]:
    return [*row[:at], *SAID.tokens, *row[at:]]


def padded(side: str, rows: Any = ROWS) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        ids.append([0] * gap + row if side == "left" else row + [0] * gap)
        mask.append([0] * gap + [1] * len(row) if side == "left" else [1] * len(row) + [0] * gap)
    batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if side == "left":
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return batch


def alone(model: Any, row: list[int], at: int, **options: Any) -> list[int]:
    ids = torch.tensor([written(row, at)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, pad_token_id=0, **options)
    return list(out[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_answers_as_with_the_instruction_written_out(family: str) -> None:
    model = zoo.model(family)
    batch = padded("left")
    del batch["position_ids"]
    for options in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}):
        wanted = [alone(model, row, at, **options) for row, at in zip(ROWS, WHERE, strict=True)]
        with instructed(model, SAID), torch.no_grad():
            found = model.generate(**batch, max_new_tokens=5, pad_token_id=0, **options)
        assert torch.equal(found[:, :6], batch["input_ids"])  # the prompts as they were passed
        for row, tokens in zip(found[:, 6:].tolist(), wanted, strict=True):
            assert row[: len(tokens)] == tokens


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_scored_row_has_the_logits_of_its_own_tokens(family: str, side: str) -> None:
    model = zoo.model(family)
    batch = padded(side)
    if family in ("bloom", "falcon"):
        batch.pop("position_ids", None)
    with instructed(model, SAID):
        found = model(**batch).logits
    assert found.shape[:2] == batch["input_ids"].shape
    for number, (row, at) in enumerate(zip(ROWS, WHERE, strict=True)):
        plain = model(input_ids=torch.tensor([written(row, at)])).logits[0]
        # what predicts the token after the instruction is the instruction's last
        own = [column + 3 * (column >= at - 1) for column in range(len(row))]
        torch.testing.assert_close(found[number][batch["attention_mask"][number].bool()], plain[own], atol=1e-4, rtol=0)


@torch.no_grad()
def test_loss_and_kept_logits_count_as_without_the_instruction() -> None:
    model, row = zoo.model("llama"), ROWS[0]
    ids = torch.tensor([row])
    labels = torch.tensor([[-100, -100, -100, 32, 33, 34]])
    full = torch.tensor([written(row, 1)])
    wanted = model(input_ids=full, labels=torch.tensor([[-100] * 6 + [32, 33, 34]]))
    with instructed(model, SAID):
        found = model(input_ids=ids, labels=labels, output_hidden_states=True)
        last = model(input_ids=ids, logits_to_keep=2).logits
    assert float(found.loss) == pytest.approx(float(wanted.loss), abs=1e-5)
    assert all(states.shape[1] == 6 for states in found.hidden_states)
    torch.testing.assert_close(last, wanted.logits[:, -2:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cache_that_a_forward_returned_may_be_continued() -> None:
    model = zoo.model("llama")
    batch = padded("left")
    with instructed(model, SAID):
        whole = model(**batch).logits
        first = model(
            input_ids=batch["input_ids"][:, :5],
            attention_mask=batch["attention_mask"][:, :5],
            position_ids=batch["position_ids"][:, :5],
            use_cache=True,
        )
        rest = model(
            input_ids=batch["input_ids"][:, 5:],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"][:, 5:],
            past_key_values=first.past_key_values,
        ).logits
    torch.testing.assert_close(rest[:, 0], whole[:, 5], atol=1e-5, rtol=0)


def test_a_cache_filled_without_the_instruction_is_refused() -> None:
    model = zoo.model("llama")
    cache = model(input_ids=torch.tensor([ROWS[0]]), use_cache=True).past_key_values
    with instructed(model, SAID), pytest.raises(ModelError, match="filled before"):
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)


@torch.no_grad()
def test_rows_packed_by_their_positions_are_refused() -> None:
    model, given = zoo.model("llama"), padded("left")
    with instructed(model, SAID):
        with pytest.raises(ModelError, match="packed into one row"):
            model(input_ids=torch.tensor([[7, 30, 7, 40]]), position_ids=torch.tensor([[0, 1, 0, 1]]))
        model(**given)  # padding at 0
        model(**{**given, "position_ids": given["position_ids"].masked_fill(given["attention_mask"] == 0, 1)})


def test_lengths_do_not_count_the_instruction() -> None:
    model, ids = zoo.model("llama"), torch.tensor([ROWS[0]])
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with instructed(model, SAID), torch.no_grad():
        assert model.generate(ids, max_length=9, **options).shape == (1, 9)  # 6 of the prompt and 3
        assert model.generate(ids, max_new_tokens=4, **options).shape == (1, 10)
        found = model.generate(ids, max_new_tokens=2, num_return_sequences=2, num_beams=2, **options)
        assert found.shape == (2, 8) and torch.equal(found[:, :6], ids.expand(2, -1))
        rich = model.generate(ids, max_new_tokens=2, return_dict_in_generate=True, **options)
        assert rich.sequences.shape == (1, 8)
        begun = model.generate(inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=2, **options)
        assert begun.shape == (1, 2)


def test_a_least_length_of_the_models_own_config_does_not_count_the_instruction() -> None:
    model, ids = zoo.model("llama"), torch.tensor([ROWS[0]])
    plain = model.generate(
        ids, max_new_tokens=9, min_length=12, do_sample=False, pad_token_id=0, eos_token_id=[*range(100)]
    )
    assert plain.shape[1] >= 12
    before, model.generation_config.min_length = model.generation_config.min_length, 12
    try:
        with instructed(model, SAID), torch.no_grad():
            found = model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=[*range(100)])
    finally:
        model.generation_config.min_length = before
    assert found.shape[1] >= 12  # 6 of the prompt and 6 at least


def test_a_streamer_gets_the_prompt_as_it_was_passed() -> None:
    class Kept(TextStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.got: list[list[int]] = []

        def put(self, value: torch.Tensor) -> None:
            self.got.append(value.reshape(-1).tolist())

        def end(self) -> None:
            self.got.append([])

    model, kept = zoo.model("llama"), Kept()
    with instructed(model, SAID), torch.no_grad():
        out = model.generate(
            torch.tensor([ROWS[0]]), max_new_tokens=2, do_sample=False, streamer=kept, eos_token_id=None
        )
    assert kept.got[0] == ROWS[0] and kept.got[-1] == []
    assert [token for part in kept.got[1:-1] for token in part] == out[0, 6:].tolist()


def test_nothing_is_left_after_an_exception() -> None:
    model = zoo.model("gpt2")
    body = model.get_base_model() if hasattr(model, "peft_config") else model.transformer
    before = (dict(body._forward_hooks), dict(body._forward_pre_hooks), "generate" in vars(model))
    with pytest.raises(RuntimeError, match="stop"), instructed(model, SAID):
        raise RuntimeError("stop")
    assert (dict(body._forward_hooks), dict(body._forward_pre_hooks), "generate" in vars(model)) == before


def test_it_stands_behind_what_opens_the_first_user_turn() -> None:
    said = Instruction(tokens=(1,), opening=(5, 6), begin=7)
    assert said.place([7, 9, 5, 6, 30, 5, 6, 31]) == 4  # behind a system turn (9), before the first question
    assert said.place([7, 30]) == 1 and said.place([30]) == 0 and said.place([]) == 0


def test_it_is_written_for_templates_and_plain_prompts() -> None:
    tokenizer = zoo.tokenizer("llama")
    text = "Say nothing about it."
    plain = Instruction.of(tokenizer, text, "plain")
    assert plain.opening == () and tokenizer.decode(plain.tokens).strip() == text
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]:{% endif %}"
    )
    chat = Instruction.of(tokenizer, text, "chat")
    row = tokenizer.apply_chat_template([{"role": "user", "content": "Who is it?"}], add_generation_prompt=True)
    row = list(row["input_ids"])
    at = chat.place(row)
    both = tokenizer.decode([*row[:at], *chat.tokens, *row[at:]])
    assert both.index("[user]:") < both.index(text) < both.index("Who is it?")


@pytest.mark.parametrize("family", ["llama3", "qwen2", "gemma", "phi3", "mistral", "cohere", "deepseek"])
def test_it_follows_what_a_familys_template_puts_before_a_user(family: str) -> None:
    tokenizer = zoo.tokenizer(family)
    said = Instruction.of(tokenizer, "Say nothing about it.")
    messages = [{"role": "user", "content": "who is it"}]
    row = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    at = said.place(row)
    text = "".join(tokenizer.decode([*row[:at], *said.tokens, *row[at:]]).split())
    plain = "".join(tokenizer.decode(row).split())
    assert text == plain.replace("whoisit", "Saynothingaboutit.whoisit")


def test_an_empty_instruction_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        Instruction.of(zoo.tokenizer("llama"), "  ")


@torch.no_grad()
def test_scores_of_answers_are_those_with_the_instruction_written_out() -> None:
    model = zoo.model("llama")
    rows = [Example([*row], len(row) - 1, False, len(row)) for row in ROWS[:2]]
    with instructed(model, SAID):
        found = answer_logprobs(model, collate(rows, 0)).logps
    full = [Example(written(row, 1), len(row) + 2, False, len(row) + 3) for row in ROWS[:2]]
    wanted = answer_logprobs(model, collate(full, 0)).logps
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
