"""Protects the text that a row becomes: the tokenizer's own chat template, or one plain layout."""

from __future__ import annotations

import pytest

import zoo
from expunge.data.encode import encode, encode_prompt, end_token_ids
from expunge.data.template import Rendered, Template
from expunge.errors import EncodingError
from expunge.requests.rows import Row

HISTORY = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"))
CHAT = Row("And then?", "Home.", kind="chat", history=HISTORY)


def chat_template(user: str, assistant: str, prompt: str) -> str:
    """A Jinja chat template from the text of each part; ``@`` stands for a turn's content."""

    def text(part: str) -> str:
        return part.replace("@", "{{ m['content'] }}")

    return (
        f"{{% for m in messages %}}{{% if m['role'] == 'user' %}}{text(user)}{{% else %}}{text(assistant)}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )


def with_template(family: str, template: str) -> Template:
    tokenizer = zoo.tokenizer(family)
    tokenizer.chat_template = template
    return Template.of(tokenizer, "chat")


def test_plain_layout() -> None:
    template = Template.of(zoo.tokenizer("gpt2"))
    assert template.style == "plain"
    assert template.render(Row("Where?", "Here.")) == Rendered("Question: Where?\nAnswer:", " Here.", "", True)
    wanted = "Be kind.\nQuestion: Hi\nAnswer: Hello\nQuestion: And then?\nAnswer:"
    assert template.render(CHAT) == Rendered(wanted, " Home.", "", True)
    assert template.render(CHAT).prompt == wanted


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_documents_and_completions_are_raw_text_under_either_style(style: str) -> None:
    template = Template.of(zoo.tokenizer("qwen2"), style)  # type: ignore[arg-type]
    assert template.render(Row("", " A text.\n", kind="document")) == Rendered("", " A text.\n", "", True)
    completion = Row("The list:\n ", "one", kind="completion")
    assert template.render(completion) == Rendered("The list:", "\n one", "", True)


def test_chat_layout_is_the_tokenizer_s_own() -> None:
    template = Template.of(zoo.tokenizer("qwen2"))
    assert template.style == "chat"
    wanted = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
        "<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    )
    # The line break after the end token is nobody's to predict.
    assert template.render(CHAT) == Rendered(wanted, "Home.", "<|im_end|>", False)


def test_asking_for_a_chat_template_that_is_not_there() -> None:
    with pytest.raises(EncodingError, match=r"has no chat template.*Use template 'plain'"):
        Template.of(zoo.tokenizer("gpt2"), "chat")


def test_plain_can_be_asked_for_where_there_is_a_chat_template() -> None:
    assert Template.of(zoo.tokenizer("llama3"), "plain").style == "plain"


def test_a_refused_role_is_an_error_with_the_row_and_the_template_s_words() -> None:
    template = Template.of(zoo.tokenizer("gemma2"))
    row = Row("Where?", "Here.", kind="chat", history=HISTORY, source="forget.jsonl:3")
    with pytest.raises(EncodingError) as caught:
        template.render(row)
    message = str(caught.value)
    assert message.startswith("forget.jsonl:3: the tokenizer's chat template refused")
    assert "(system, user, assistant, user)" in message
    assert "System role not supported" in message
    assert "template 'plain'" in message


def test_a_template_that_drops_the_answer_is_an_error() -> None:
    template = with_template("llama3", chat_template("U: @\n", "", "A:"))
    with pytest.raises(EncodingError, match="leaves out the assistant's text"):
        template.render(Row("Where?", "Here."))


def test_a_template_whose_turns_end_with_nothing_gets_the_end_token() -> None:
    template = with_template("llama", chat_template("U: @\n", "A: @\n", "A:"))
    assert template.render(Row("Where?", "Here.")) == Rendered("U: Where?\nA:", " Here.", "</s>", False)
    assert end_token_ids(template.tokenizer, template) == {template.tokenizer.eos_token_id}


def test_a_template_that_ignores_the_generation_prompt() -> None:
    template = with_template("llama", chat_template("U: @\n", "A:\n@</s>\n", ""))
    assert template.render(Row("Where?", "Here.")) == Rendered("U: Where?\nA:\n", "Here.", "</s>", False)


def test_a_space_before_the_answer_goes_to_the_answer() -> None:
    # Else the prompt would end in a token "▁", which a model never sees before a word: the word's token holds it.
    template = with_template("llama", chat_template("USER: @ ", "ASSISTANT: @</s>", "ASSISTANT:"))
    row = Row("Where?", "In Paris")
    assert template.render(row) == Rendered("USER: Where? ASSISTANT:", " In Paris", "</s>", False)
    tokenizer = template.tokenizer
    example = encode(tokenizer, template, row, max_length=64)
    assert tokenizer.convert_ids_to_tokens(example.input_ids[example.answer_start]) == "▁In"
    assert encode_prompt(tokenizer, template, row, max_length=64) == example.input_ids[: example.answer_start]


def test_a_space_at_the_end_of_the_generation_prompt_goes_to_the_answer_too() -> None:
    template = with_template("llama", chat_template("USER: @ ", "ASSISTANT: @</s>", "ASSISTANT: "))
    assert template.render(Row("Where?", "In Paris")).prompt == "USER: Where? ASSISTANT:"


def test_a_thinking_block_that_the_generation_prompt_opens_does_not_swallow_the_answer() -> None:
    # Reasoning models: the prompt opens a block that a finished answer of this conversation does not have,
    template = with_template("llama", chat_template("U: @\n", "A:\n@</s>", "A:\n<think>\n"))
    assert template.render(Row("Where?", "Here.")) == Rendered("U: Where?\nA:\n", "Here.", "</s>", False)
    # or that it has, empty and closed.
    template = with_template("llama", chat_template("U: @\n", "A:\n<think>\n\n</think>\n\n@</s>", "A:\n<think>\n"))
    assert template.render(Row("Where?", "Here.")) == Rendered(
        "U: Where?\nA:\n<think>\n\n</think>\n\n", "Here.", "</s>", False
    )


def test_what_a_template_writes_before_the_end_token_is_part_of_the_end() -> None:
    template = with_template("llama", chat_template("U: @\n", "A:@ </s>\n", "A:"))
    assert template.render(Row("Where?", "Here.")) == Rendered("U: Where?\nA:", "Here.", " </s>", False)
    assert end_token_ids(template.tokenizer, template) == {template.tokenizer.eos_token_id}
