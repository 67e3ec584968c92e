"""A tokenizer whose tokens can be counted by eye: words and signs, one each."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import TokenizersBackend


def tokenizer(text: str) -> TokenizersBackend:
    """One that knows the words and signs of ``text``, an end token, and an unknown one for all others."""
    split = pre_tokenizers.Whitespace()
    words = ["<unk>", "</s>", *dict.fromkeys(word for word, _ in split.pre_tokenize_str(text))]
    raw = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = split
    return TokenizersBackend(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")
