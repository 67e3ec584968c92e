"""Tokenizers that cut words unlike each other: byte-level BPE, unigram with a metaspace, wordpiece."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import TokenizersBackend

import zoo
from zoo_text import corpus


def _unigram() -> TokenizersBackend:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    raw.train_from_iterator(corpus(), trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return TokenizersBackend(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _wordpiece() -> TokenizersBackend:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    raw.train_from_iterator(corpus(), trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return TokenizersBackend(tokenizer_object=raw, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


@cache
def tokenizer(kind: str) -> Any:
    """``unigram``, ``wordpiece``, or a family of the zoo."""
    return {"unigram": _unigram, "wordpiece": _wordpiece}.get(kind, lambda: zoo.tokenizer(kind))()


KINDS = ("gpt2", "unigram", "wordpiece", "llama", "stablelm")
"""Byte-level BPE, with a metaspace, wordpiece; byte fallback; byte-level BPE whose offsets leave spaces out."""
