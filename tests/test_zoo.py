"""Protects the model zoo: every family runs, saves and loads, and its tokenizer keeps its own quirks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import zoo

TEXT = "Question: Where was Zoë born?\nAnswer: In São Paulo, 1956 🙂"
PROMPTS = ["Question: Where was Mira Tolvanen born?\nAnswer:", "Question: What is 7 * 8?\nAnswer:"]
every_family = pytest.mark.parametrize("family", zoo.FAMILIES)


@every_family
def test_forward_is_finite_and_left_padded_generation_equals_one_by_one(family: str) -> None:
    model: Any = zoo.model(family)
    tokenizer = zoo.tokenizer(family)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    rows = [tokenizer(text)["input_ids"] for text in PROMPTS]
    width = max(map(len, rows))
    assert len({len(row) for row in rows}) == 2  # else nothing is padded
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])

    with torch.no_grad():
        logits = model(input_ids=torch.tensor(rows[:1])).logits
    assert logits.shape == (1, len(rows[0]), len(tokenizer))
    assert torch.isfinite(logits).all()

    settings = {
        "max_new_tokens": 5,
        "min_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": pad,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    together = model.generate(ids, attention_mask=mask, **settings)
    assert together.sequences.shape == (2, width + 5)
    for place, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), attention_mask=torch.ones(1, len(row)).long(), **settings)
        for one, both in zip(alone.logits, together.logits, strict=True):
            torch.testing.assert_close(both[place], one[0], atol=1e-4, rtol=0)


@every_family
def test_tokenizer_round_trips_and_its_offsets_cover_the_text(family: str) -> None:
    tokenizer = zoo.tokenizer(family)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    assert str(tokenizer.decode(encoded["input_ids"], skip_special_tokens=True)).strip() == TEXT

    covered = {place for start, end in encoded["offset_mapping"] for place in range(start, end)}
    assert covered >= {place for place, letter in enumerate(TEXT) if not letter.isspace()}
    starts = [start for start, _ in encoded["offset_mapping"]]
    assert starts == sorted(starts)
    assert 400 <= len(tokenizer) <= 1000
    assert all(0 <= token < len(tokenizer) for token in encoded["input_ids"])


@every_family
def test_saved_folder_loads_to_the_same_model_and_tokenizer(family: str, tmp_path: Path) -> None:
    folder = zoo.save(family, tmp_path / family)
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    loaded = AutoTokenizer.from_pretrained(folder)
    texts = [TEXT]
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": " Yes, 12. "}]
        texts.append(str(tokenizer.apply_chat_template(turns, tokenize=False)))
        assert loaded.apply_chat_template(turns, tokenize=False) == texts[-1]
    for text in texts:
        wanted, got = (each(text, return_offsets_mapping=True) for each in (tokenizer, loaded))
        assert got == wanted
    for name in ("padding_side", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)

    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


# Family: what is put before the text, whether there is a pad token, whether there is a chat template.
QUIRKS = {
    "llama": ("<s>", False, False),
    "llama3": ("<|begin_of_text|>", True, True),
    "mistral": ("<s>", False, True),
    "qwen2": (None, True, True),
    "gemma2": ("<bos>", True, True),
    "phi3": (None, True, True),
    "gpt2": (None, False, False),
    "opt": ("</s>", True, False),
    "olmo2": (None, True, True),
    "gpt_neox": (None, True, False),
    "mixtral": ("<s>", False, False),
    "bloom": (None, True, False),
    "falcon": (None, False, False),
    "cohere": ("<BOS_TOKEN>", True, True),
    "deepseek": ("<\uff5cbegin▁of▁sentence\uff5c>", True, True),
}


@pytest.mark.parametrize("family", QUIRKS)
def test_tokenizer_keeps_the_quirks_of_its_family(family: str) -> None:
    tokenizer = zoo.tokenizer(family)
    bos, has_pad, has_template = QUIRKS[family]
    encoded = tokenizer("Hi", return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    if bos is None:
        assert not set(tokens) & set(tokenizer.all_special_tokens)
    else:
        assert tokens[0] == bos
        assert encoded["offset_mapping"][0] == (0, 0)
    assert (tokenizer.pad_token is not None) == has_pad
    assert bool(tokenizer.chat_template) == has_template


def spans(family: str, text: str) -> list[tuple[str, int, int]]:
    tokenizer = zoo.tokenizer(family)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    return [(token, *place) for token, place in zip(tokens, encoded["offset_mapping"], strict=True)]


def test_offset_traps_that_an_answer_mask_must_survive() -> None:
    # A leading space is inside the token's offsets, except where the offsets are trimmed.
    assert spans("gpt2", "A: In")[-1] == ("ĠIn", 2, 5)
    assert spans("stablelm", "A: In")[-1] == ("ĠIn", 3, 5)
    assert ("Ġ", 3, 3) in spans("stablelm", "A: 🙂")  # a token of no width that is not a special one
    # The bytes of one character share its offsets.
    assert [place for _, *place in spans("llama", "ã")] == [[0, 1], [0, 1], [0, 1]]  # prefix space, two bytes
    # Composing normalisers leave the combining mark (character 2) to no token.
    assert [place for _, *place in spans("qwen2", "oe\u0308.")] == [[0, 1], [1, 2], [1, 2], [3, 4]]
    # Phi-3's turn tokens swallow the white space after them, that of the answer's start included.
    assert spans("phi3", "<|assistant|>\n In")[0] == ("<|assistant|>", 0, 15)
    # A prefix space is put where the text begins; by the normaliser, after every special token as well.
    assert spans("llama", "</s>In")[1:] == [("I", 4, 5), ("n", 5, 6)]
    assert spans("mistral", "</s>In")[1:] == [("▁In", 4, 6)]
    assert spans("mistral", " In") == [("▁", 0, 1), ("▁In", 0, 3)]  # overlapping offsets
    assert spans("llama", "In") == [("▁In", 0, 2)]
    assert spans("gemma2", "In") == [("I", 0, 1), ("n", 1, 2)]


def test_chat_templates_that_change_the_answer_or_put_text_before_it() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Yes "}]

    def rendered(family: str) -> str:
        return str(zoo.tokenizer(family).apply_chat_template(turns, tokenize=False))

    for family in ("gemma2", "llama3", "cohere"):
        assert " Yes " not in rendered(family)  # trimmed
    for family in ("qwen2", "phi3", "olmo2", "mistral", "deepseek", "stablelm"):
        assert " Yes " in rendered(family)
    assert rendered("qwen3").endswith("<think>\n\n</think>\n\n Yes <|im_end|>\n")


def test_tied_and_untied_heads_and_shapes_are_as_asked() -> None:
    untied, tied = (
        zoo.model("llama", 300),
        zoo.model("llama", 300, tie_word_embeddings=True, num_hidden_layers=3),
    )
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert len(tied.model.layers) == 3
    assert tied.lm_head.weight.shape == (300, 64)


def test_models_are_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = zoo.model("gpt2"), zoo.model("gpt2"), zoo.model("gpt2", seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_tokenizer_is_a_copy_that_may_be_changed() -> None:
    changed = zoo.tokenizer("gpt2")
    changed.add_special_tokens({"pad_token": "<pad>"})
    changed.padding_side = "left"
    assert zoo.tokenizer("gpt2").pad_token is None
    assert zoo.tokenizer("gpt2").padding_side == "right"


def test_the_families_of_the_command_line_check_are_in_the_zoo() -> None:
    assert set(zoo.ISSUE_FAMILIES) < set(zoo.FAMILIES)
