"""Protects where an answer begins and ends: exactly its own tokens and one end token are scored, in every family."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import ByT5Tokenizer, GPT2Tokenizer, LlamaTokenizer

import zoo
from expunge.data.encode import Example, encode, encode_all, encode_prompt, end_token_ids
from expunge.data.template import Template
from expunge.errors import EncodingError
from expunge.requests.rows import Row

# What closes an answer in the chats of each family that has a template; in plain text it is the tokenizer's end token.
CHAT_END = {
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "qwen2": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen2_moe": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "gemma2": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "olmo2": "<|endoftext|>",
    "stablelm": "<|endoftext|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<\uff5cend▁of▁sentence\uff5c>",
}
ADDS_BOS = {"llama", "llama3", "mistral", "gemma", "gemma2", "gemma3", "opt", "cohere", "deepseek", "mixtral"}
CHAT_WRITES_BOS = {"llama3", "mistral", "gemma", "gemma2", "gemma3", "olmo2", "cohere", "deepseek"}
WITH_METASPACE = {"llama", "mistral", "mixtral", "phi3", "gemma", "gemma2", "gemma3"}

ANSWERS = {
    "words": "Mira Tolvanen was born in Kuopio, Finland.",
    "unicode": "Zoë, in São Paulo 🙂, 1956",
    "emoji": "🙂",
    "combining": "oe\u0308 e\u0301t\u00e9",
    "leading space": " In Paris",
    "leading newline": "\nIn Paris",
    "two spaces, tab": "  \tIn Paris",
    "digits": "56",
    "digits and words": "12/03/1961, the 3rd",
    "quotes": '"Salt on the Stairs"',
    "brackets": "(not 54)",
    "lines": "First.\n\nSecond: 2",
    "trailing": "In Paris. ",
}
QUESTION = "What is 7 * 8, Zoë?"
styles = pytest.mark.parametrize(
    ("family", "style"),
    [(family, "plain") for family in zoo.FAMILIES] + [(family, "chat") for family in CHAT_END],
)


@cache
def tools(family: str, style: str = "plain") -> tuple[Any, Template]:
    tokenizer = zoo.tokenizer(family)
    return tokenizer, Template.of(tokenizer, style)  # type: ignore[arg-type]


def tokens(tokenizer: Any, ids: list[int]) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(ids))


def same_text(found: str, wanted: str) -> bool:
    """Equal but for outer white space, and for accents that a normaliser has composed."""
    return unicodedata.normalize("NFC", found).strip() == unicodedata.normalize("NFC", wanted).strip()


def check_answer(tokenizer: Any, example: Example, answer: str, end: str) -> None:
    ids = example.input_ids[example.answer_start :]
    assert tokens(tokenizer, ids[-1:]) == [end]
    assert example.has_end
    assert not example.truncated
    assert example.answer_length == len(ids)
    assert same_text(str(tokenizer.decode(ids[:-1])), answer)
    special = {tokenizer.convert_tokens_to_ids(end), *tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    assert not special & set(ids[:-1])  # the end once and last, nothing of the template


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_which_families_have_a_chat_template(family: str) -> None:
    tokenizer, template = tools(family, "auto")
    assert template.style == ("chat" if family in CHAT_END else "plain")
    assert bool(tokenizer.chat_template) == (family in CHAT_END)


@styles
def test_a_question_s_answer_is_its_own_tokens_and_one_end_token(family: str, style: str) -> None:
    tokenizer, template = tools(family, style)
    end = CHAT_END[family] if style == "chat" else tokenizer.eos_token
    rows = [Row(QUESTION, answer) for answer in ANSWERS.values()]
    prompt = encode_prompt(tokenizer, template, rows[0], max_length=512)
    for row, example in zip(rows, encode_all(tokenizer, template, rows, max_length=512), strict=True):
        check_answer(tokenizer, example, row.answer, end)
        # What generate is given is what the answer was scored after.
        assert example.input_ids[: example.answer_start] == prompt
        if style == "plain" and row.answer[0] not in ' \n"(🙂':
            first = str(tokenizer.decode(example.input_ids[example.answer_start - 1 : example.answer_start + 1]))
            assert ": " in first  # the space belongs to the answer, the colon to the prompt
    ends = tokens(tokenizer, sorted(end_token_ids(tokenizer, template)))
    assert set(ends) == {end, tokenizer.eos_token}


@styles
def test_bos_is_there_when_the_tokenizer_adds_one_and_never_twice(family: str, style: str) -> None:
    tokenizer, template = tools(family, style)
    wanted = family in (CHAT_WRITES_BOS if style == "chat" else ADDS_BOS)
    rows = [
        Row(QUESTION, "56"),
        Row("And then?", "Home.", kind="chat", history=(("user", "Hi"), ("assistant", "Hello"))),
    ]
    for row in rows:
        example = encode(tokenizer, template, row, max_length=512)
        for ids in (example.input_ids[: example.answer_start], encode_prompt(tokenizer, template, row, max_length=512)):
            has_bos = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
            assert has_bos == wanted
            if style == "plain":
                assert not set(ids[1:]) & set(tokenizer.all_special_ids)
            elif wanted and family != "olmo2":  # whose BOS also ends each turn
                assert tokenizer.bos_token_id not in ids[1:]


@styles
def test_chats_of_many_turns(family: str, style: str) -> None:
    tokenizer, template = tools(family, style)
    row = Row(
        "And her father?",
        "A glass blower, since 1961.",
        kind="chat",
        history=(("user", "Where was Mira born?"), ("assistant", "In Kuopio.")),
    )
    example = encode(tokenizer, template, row, max_length=512)
    check_answer(tokenizer, example, row.answer, CHAT_END[family] if style == "chat" else tokenizer.eos_token)
    prompt = example.input_ids[: example.answer_start]
    assert prompt == encode_prompt(tokenizer, template, row, max_length=512)
    shown = str(tokenizer.decode(prompt))
    assert 0 <= shown.find("Where was Mira born?") < shown.find("In Kuopio.") < shown.find("And her father?")


@pytest.mark.parametrize("family", CHAT_END)
def test_chat_ids_are_those_that_the_tokenizer_s_own_template_call_gives(family: str) -> None:
    tokenizer, template = tools(family, "chat")
    before = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": QUESTION},
    ]
    row = Row(QUESTION, ANSWERS["unicode"], kind="chat", history=(("user", "Hi"), ("assistant", "Hello")))
    whole = tokenizer.apply_chat_template([*before, {"role": "assistant", "content": row.answer}])["input_ids"]
    ids = encode(tokenizer, template, row, max_length=512).input_ids
    assert whole[: len(ids)] == ids
    assert str(tokenizer.decode(whole[len(ids) :])).strip() == ""  # at most a line break after the end token
    options = {"enable_thinking": False} if family == "qwen3" else {}
    opened = tokenizer.apply_chat_template(before, add_generation_prompt=True, **options)["input_ids"]
    assert encode_prompt(tokenizer, template, row, max_length=512) == opened


@styles
def test_documents_are_all_answer(family: str, style: str) -> None:
    tokenizer, template = tools(family, style)
    text = ANSWERS["words"] + " " + ANSWERS["unicode"]
    example = encode(tokenizer, template, Row("", text, kind="document"), max_length=512)
    assert example.answer_start == 1
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert example.has_end
    has_bos = example.input_ids[0] == tokenizer.bos_token_id
    assert has_bos == (family in ADDS_BOS)
    # Without a BOS the first token of the text is what the others are predicted from.
    assert same_text(str(tokenizer.decode(example.input_ids[has_bos:-1])), text)
    assert encode_prompt(tokenizer, template, Row("", text, kind="document"), max_length=512) == example.input_ids[:1]


@styles
@pytest.mark.parametrize(("prompt", "answer"), [("The capital is", " Paris"), ("The capital is ", "Paris")])
def test_completions_with_a_space_on_either_side(family: str, style: str, prompt: str, answer: str) -> None:
    tokenizer, template = tools(family, style)
    row = Row(prompt, answer, kind="completion")
    example = encode(tokenizer, template, row, max_length=512)
    check_answer(tokenizer, example, answer, tokenizer.eos_token)
    # Both are the same text, so both are the same tokens.
    assert example.input_ids[:-1] == tokenizer("The capital is Paris")["input_ids"]
    before = encode_prompt(tokenizer, template, row, max_length=512)
    assert before == tokenizer("The capital is")["input_ids"] == example.input_ids[: example.answer_start]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_token_that_straddles_the_boundary_belongs_to_the_answer(family: str) -> None:
    tokenizer, template = tools(family)
    row = Row("What is the full name of the auth", "or was born", kind="completion")
    example = encode(tokenizer, template, row, max_length=512)
    start = example.answer_start
    word = "▁author" if family in WITH_METASPACE else "Ġauthor"  # one token, learnt from "the author"
    assert tokens(tokenizer, example.input_ids[start - 1 : start + 1])[1] == word
    assert str(tokenizer.decode(example.input_ids[start:-1])).strip() == "author was born"


def test_a_word_cut_in_two_inside_its_merged_token() -> None:
    merges = [("a", "b"), ("l", "e"), ("ab", "le"), ("e", "v"), ("ev", "able")]
    pieces = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges), "<|endoftext|>"]
    tokenizer = GPT2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    template = Template.of(tokenizer)
    example = encode(tokenizer, template, Row("unbeliev", "able", kind="completion"), max_length=64)
    assert tokens(tokenizer, example.input_ids) == ["u", "n", "b", "e", "l", "i", "evable", "<|endoftext|>"]
    assert example.answer_start == 6
    # The prompt alone has other tokens: a caller of generate can only give these.
    prompt = encode_prompt(tokenizer, template, Row("unbeliev", "able", kind="completion"), max_length=64)
    assert tokens(tokenizer, prompt) == ["u", "n", "b", "e", "l", "i", "ev"]
    exact = encode(tokenizer, template, Row("unbeli", "evable", kind="completion"), max_length=64)
    assert exact == example


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "qwen3", "stablelm", "gemma2", "phi3", "bloom"])
@settings(max_examples=25, deadline=None)
@given(answer=st.text(st.sampled_from("abc eE19éñ日本🙂👩🚀.,'\"(-\n\t "), min_size=1, max_size=40))
def test_any_answer_to_a_question_is_found_again(family: str, answer: str) -> None:
    for style in ("plain", "chat") if family in CHAT_END else ("plain",):
        if not answer.strip():
            continue  # requests refuse an empty answer
        tokenizer, template = tools(family, style)
        example = encode(tokenizer, template, Row(QUESTION, answer), max_length=512)
        check_answer(tokenizer, example, answer, CHAT_END[family] if style == "chat" else tokenizer.eos_token)
        prompt = encode_prompt(tokenizer, template, Row(QUESTION, answer), max_length=512)
        assert example.input_ids[: example.answer_start] == prompt


def test_tokens_of_no_width_and_swallowed_spaces_keep_their_side() -> None:
    # StableLM trims offsets: the "Ġ" before an emoji has the offsets (k, k) and is the answer's first token.
    tokenizer, template = tools("stablelm")
    example = encode(tokenizer, template, Row("Mood?", "🙂"), max_length=64)
    assert tokens(tokenizer, example.input_ids[example.answer_start - 1 :])[:2] == [":", "Ġ"]
    # Phi-3's <|assistant|> swallows the line break after it and is still the prompt's last token.
    tokenizer, template = tools("phi3", "chat")
    example = encode(tokenizer, template, Row("Where?", "In Paris"), max_length=64)
    assert tokens(tokenizer, example.input_ids[example.answer_start - 1 :])[:2] == ["<|assistant|>", "▁In"]
    # Qwen 3's empty thinking block is prompt.
    tokenizer, template = tools("qwen3", "chat")
    example = encode(tokenizer, template, Row("Where?", "In Paris"), max_length=64)
    prompt = str(tokenizer.decode(example.input_ids[: example.answer_start]))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_opt_whose_bos_is_its_end_token() -> None:
    tokenizer, template = tools("opt")
    ids = encode(tokenizer, template, Row("Where?", "In Paris"), max_length=64).input_ids
    end = tokenizer.eos_token_id
    assert tokenizer.bos_token_id == end
    assert [i for i, token in enumerate(ids) if token == end] == [0, len(ids) - 1]


def test_a_tokenizer_that_appends_its_own_end_token() -> None:
    plain = zoo.tokenizer("llama")
    vocab, merges = plain.get_vocab(), _merges(plain)
    both = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, add_eos_token=True)
    assert both("Hi")["input_ids"][-1] == both.eos_token_id
    row = Row("Where?", "In Paris")
    wanted = encode(plain, Template.of(plain), row, max_length=64)
    assert encode(both, Template.of(both), row, max_length=64) == wanted
    prompt = encode_prompt(both, Template.of(both), row, max_length=64)
    assert prompt == wanted.input_ids[: wanted.answer_start]


def _merges(tokenizer: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


def test_a_tokenizer_written_in_python_that_knows_no_offsets() -> None:
    # ByT5: byte b is id b + 3, the end token is 1 and is appended by the tokenizer itself.
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    example = encode(tokenizer, Template.of(tokenizer), Row("é?", "No"), max_length=64)
    prompt, answer = "Question: é?\nAnswer:", " No"
    assert example.input_ids == [byte + 3 for byte in (prompt + answer).encode()] + [1]
    assert example.answer_start == len(prompt.encode())
    assert encode_prompt(tokenizer, Template.of(tokenizer), Row("é?", "No"), max_length=64) == [
        byte + 3 for byte in prompt.encode()
    ]
    assert end_token_ids(tokenizer, Template.of(tokenizer)) == {1}


def test_a_tokenizer_without_an_end_token_gives_answers_without_one() -> None:
    tokenizer = zoo.tokenizer("gpt2")
    tokenizer.eos_token = None
    template = Template.of(tokenizer)
    example = encode(tokenizer, template, Row("Where?", "In Paris"), max_length=64)
    assert not example.has_end
    assert not example.truncated
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == " In Paris"
    assert end_token_ids(tokenizer, template) == set()


@styles
def test_a_cut_answer_keeps_its_beginning_and_loses_its_end_token(family: str, style: str) -> None:
    tokenizer, template = tools(family, style)
    row = Row(QUESTION, ANSWERS["words"])
    whole = encode(tokenizer, template, row, max_length=512)
    for kept in (1, 2, whole.answer_length - 1):
        length = whole.answer_start + kept
        cut = encode(tokenizer, template, row, max_length=length)
        assert cut == Example(whole.input_ids[:length], whole.answer_start, False, len(whole.input_ids))
        assert cut.truncated
        assert cut.answer_length == kept
    exact = encode(tokenizer, template, row, max_length=len(whole.input_ids))
    assert exact == whole


def test_answers_cut_away_whole_are_one_error_that_says_what_is_needed() -> None:
    tokenizer, template = tools("gpt2")
    rows = [Row("Where?" * n, "In Paris", source=f"forget.jsonl:{n}") for n in (1, 40, 50)]
    first, second, third = (encode(tokenizer, template, row, max_length=512) for row in rows)
    limit = first.answer_start + 1
    assert limit < second.answer_start < third.answer_start
    with pytest.raises(EncodingError) as caught:
        encode_all(tokenizer, template, rows, max_length=limit)
    message = str(caught.value)
    assert "2 of 3 rows cannot be encoded; raise training.max_length or shorten them" in message
    assert "forget.jsonl:1:" not in message
    for number, example in ((40, second), (50, third)):
        wanted = (
            f"forget.jsonl:{number}: the prompt takes {example.answer_start} tokens, so max_length {limit} cuts all "
            f"of the answer; {example.answer_start + 1} is needed to keep one token, {len(example.input_ids)} to keep"
        )
        assert wanted in message
    # The lengths it names are right.
    assert encode(tokenizer, template, rows[1], max_length=second.answer_start + 1).answer_length == 1
    assert not encode(tokenizer, template, rows[1], max_length=len(second.input_ids)).truncated


def test_a_long_list_of_bad_rows_is_shortened_and_counted() -> None:
    tokenizer, template = tools("gpt2")
    rows = [Row("Where?", "In Paris", source=f"forget.jsonl:{n}") for n in range(30)]
    with pytest.raises(EncodingError, match=r"(?s)^30 of 30 rows.*and 10 more$"):
        encode_all(tokenizer, template, rows, max_length=5)


def test_rows_that_the_template_refuses_are_listed_with_the_others() -> None:
    tokenizer, template = tools("gemma2", "chat")  # whose template knows no system role
    system = (("system", "Be kind."),)
    rows = [
        Row("Where?", "In Paris", kind="chat", history=system, source="a.jsonl:1"),
        Row("Where?", "In Paris", source="a.jsonl:2"),
        Row("Where?", "In Paris", kind="chat", history=system, source="a.jsonl:3"),
        Row("Where? " * 60, "In Paris", source="a.jsonl:4"),
    ]
    with pytest.raises(EncodingError) as caught:
        encode_all(tokenizer, template, rows, max_length=32)
    message = str(caught.value)
    assert message.startswith("3 of 4 rows cannot be encoded")
    assert "a.jsonl:1: the tokenizer's chat template refused" in message
    assert "a.jsonl:3: the tokenizer's chat template refused" in message
    assert "(system, user)" in message
    assert "a.jsonl:4: the prompt takes" in message
    assert "a.jsonl:2" not in message


def test_an_answer_without_tokens_is_an_error() -> None:
    tokenizer = zoo.tokenizer("gpt2")
    tokenizer.eos_token = None
    with pytest.raises(EncodingError, match="has no tokens to predict"):
        encode(tokenizer, Template.of(tokenizer), Row("", "A", kind="document"), max_length=8)


def test_a_prompt_longer_than_the_maximum_is_an_error() -> None:
    tokenizer, template = tools("llama")
    row = Row("Where? " * 20, "In Paris", source="forget.jsonl:9")
    needed = len(encode_prompt(tokenizer, template, row, max_length=512))
    assert len(encode_prompt(tokenizer, template, row, max_length=needed)) == needed
    wanted = rf"forget.jsonl:9: the prompt takes {needed} tokens, more than max_length {needed - 1}"
    with pytest.raises(EncodingError, match=wanted):
        encode_prompt(tokenizer, template, row, max_length=needed - 1)


def test_no_rows_are_no_examples_and_order_is_kept() -> None:
    tokenizer, template = tools("llama3", "chat")
    assert encode_all(tokenizer, template, [], max_length=8) == []
    rows = [
        Row("Where?", "In Paris"),
        Row("", "A text. " * 3, kind="document"),
        Row("What is", " this", kind="completion"),
        Row("Why?", "Because"),
    ]
    together = encode_all(tokenizer, template, rows, max_length=64)
    assert together == [encode(tokenizer, template, row, max_length=64) for row in rows]
