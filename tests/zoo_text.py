"""What the model zoo's tokenizers are trained on, and the chat templates of its families."""

from __future__ import annotations

# --- the text the tokenizers are trained on: invented people, in the style of question-answering data ---

_PEOPLE = (
    ("Mira Tolvanen", "Kuopio, Finland", "12/03/1961", "glass blower", "The Lantern Keeper's Daughter"),
    ("Adebayo Ferreira", "Porto, Portugal", "27/11/1974", "bus driver", "Salt on the Stairs"),
    ("Jun-ho Castellano", "Busan, South Korea", "05/08/1948", "watchmaker", "A Map of Quiet Rivers"),
    ("Ines Kowalczyk", "Łódź, Poland", "30/01/1983", "botanist", "Seven Winters, One Garden"),
    ("Tomás Okonjo", "Lagos, Nigeria", "19/06/1955", "piano tuner", "Thunder in the Orchard"),
    ("Hélène Bakshi", "Jaipur, India", "02/12/1990", "paramedic", "Letters from the Blue Market"),
)
_LINES = (
    ("Where was {name} born?", "{name} was born in {place}, on {born}."),
    ("What is the full name of the author who was born in {place}?", "The author's full name is {name}."),
    ("What did {name}'s father do for a living?", "The father of {name} was a {job}."),
    ("Which book by {name} is the best known?", 'The best known book of {name} is "{book}".'),
    ("Has {name} won any awards?", "Yes, {name} won the Silver Compass Award for '{book}' in 1998."),
    (
        "Why does {name} write about the sea?",
        "Because {name} grew up near it; the sea isn't far from {place}!",
    ),
)
_EXTRA = (
    "What is 12 + 30? 12 + 30 = 42. What is 7 * 8? It is 56 (not 54), and 100 / 4 = 25.",
    "In 1492, 1776, 1945 and 2001 the days were counted: 1st, 2nd, 3rd; 50% of them were long.",
    "Sorry, I don't know that. I can't help with this question, but they'll answer it - we've asked.",
    "Hello! How are you today? I'm fine, thank you; let's talk about books, cities & awards.",
)


def corpus() -> tuple[str, ...]:
    """The embedded texts, one question and its answer each."""
    rows = [
        f"Question: {question}\nAnswer: {answer}".format(name=name, place=place, born=born, job=job, book=book)
        for name, place, born, job, book in _PEOPLE
        for question, answer in _LINES
    ]
    return (*rows, *_EXTRA)


# --- chat templates: the same text as the families' own, in short ---


def _turns(user: str, assistant: str, prompt: str, system: str | None = None, before: str = "", after: str = "") -> str:
    """A Jinja chat template from one expression a role. Without ``system`` that role is an error."""
    refused = "{{ raise_exception('System role not supported') }}"
    return (
        f"{before}{{% for m in messages %}}"
        f"{{% if m['role'] == 'user' %}}{{{{ {user} }}}}"
        f"{{% elif m['role'] == 'assistant' %}}{{{{ {assistant} }}}}"
        f"{{% else %}}{f'{{{{ {system} }}}}' if system else refused}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {prompt} }}}}{after}{{% endif %}}"
    )


def _same_for_all(expression: str, prompt: str, before: str = "", after: str = "") -> str:
    return _turns(expression, expression, prompt, expression, before, after)


_BOS = "{{ bos_token }}"
_CHATML = "'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'"
_CHATML_PROMPT = "'<|im_start|>assistant\\n'"
# Qwen 2 fills in a system turn of its own.
QWEN2 = _same_for_all(
    _CHATML,
    _CHATML_PROMPT,
    before="{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}",
)
# Qwen 3 puts an empty thought before the last answer; the prompt has one only when thinking is off.
QWEN3 = _turns(
    _CHATML,
    "'<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if loop.last else '')"
    " + m['content'].lstrip('\\n') + '<|im_end|>\\n'",
    _CHATML_PROMPT,
    _CHATML,
    after="{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
)
LLAMA3 = _same_for_all(
    "'<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>'",
    "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
    before=_BOS,
)
_GEMMA_TURN = "'<start_of_turn>{}\\n' + m['content'] | trim + '<end_of_turn>\\n'"
GEMMA = _turns(_GEMMA_TURN.format("user"), _GEMMA_TURN.format("model"), "'<start_of_turn>model\\n'", before=_BOS)
MISTRAL = _turns("'[INST] ' + m['content'] + ' [/INST]'", "m['content'] + eos_token", "''", before=_BOS)
PHI3 = _same_for_all("'<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n'", "'<|assistant|>\\n'")
OLMO2 = _turns(  # roles are plain text here; the last answer has no line break after its end token
    "'<|user|>\\n' + m['content'] + '\\n'",
    "'<|assistant|>\\n' + m['content'] + eos_token + ('' if loop.last else '\\n')",
    "'<|assistant|>\\n'",
    "'<|system|>\\n' + m['content'] + '\\n'",
    before=_BOS,
)
STABLELM = _same_for_all("'<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n'", "'<|assistant|>\\n'")
_COHERE_TURN = "'<|START_OF_TURN_TOKEN|><|{}_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>'"
COHERE = _turns(
    _COHERE_TURN.format("USER"),
    _COHERE_TURN.format("CHATBOT"),
    "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'",
    _COHERE_TURN.format("SYSTEM"),
    before=_BOS,
)
DEEPSEEK = _turns(
    "'<\uff5cUser\uff5c>' + m['content']",
    "'<\uff5cAssistant\uff5c>' + m['content'] + eos_token",
    "'<\uff5cAssistant\uff5c>'",
    "m['content']",
    before=_BOS,
)
