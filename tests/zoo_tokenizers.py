"""One tokenizer a family, of the family's own kind, trained on the embedded text in milliseconds.

They copy how each family's published tokenizer behaves where an answer mask can go wrong: added BOS, prefix
spaces, byte fallback, trimmed offsets, missing pad token, padding side, chat template, end-of-turn token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CohereTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    Qwen2Tokenizer,
    TokenizersBackend,
)

from zoo_text import (
    COHERE,
    DEEPSEEK,
    GEMMA,
    LLAMA3,
    MISTRAL,
    OLMO2,
    PHI3,
    QWEN2,
    QWEN3,
    STABLELM,
    corpus,
)

MERGES = 384  # merges learned by every tokenizer, beside its bytes, characters and special tokens

# --- byte-pair encoding, by bytes or with a metaspace ---

_GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _learn(raw: Tokenizer, texts: Iterable[str], reserved: list[str], alphabet: list[str]) -> tuple[Any, Any]:
    """Train ``raw`` on ``texts``: its vocabulary (``reserved``, then ``alphabet``, first) and merges."""
    trainer = BpeTrainer(
        vocab_size=len(reserved) + len(alphabet) + MERGES,
        special_tokens=reserved,
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    learnt = json.loads(raw.to_str())["model"]
    return learnt["vocab"], [tuple(pair) for pair in learnt["merges"]]


def _by_bytes(kind: type[TokenizersBackend], reserved: list[str] | None = None, **settings: Any) -> TokenizersBackend:
    """A byte-level tokenizer of a transformers class, which brings its own splitting rules."""
    blank = kind(**settings).backend_tokenizer
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = blank.pre_tokenizer
    if blank.normalizer is not None:
        raw.normalizer = blank.normalizer
    vocab, merges = _learn(raw, corpus(), reserved or [], sorted(pre_tokenizers.ByteLevel.alphabet()))
    return kind(vocab=vocab, merges=merges, **settings)


def _by_bytes_custom(
    splits: list[Any],
    reserved: list[str],
    normalizer: Any = None,
    post: Callable[[Tokenizer], Any] | None = None,
    ignore_merges: bool = False,
    **settings: Any,
) -> TokenizersBackend:
    """A byte-level tokenizer of the families that have no class of their own, only a ``tokenizer.json``."""
    raw = Tokenizer(BPE(ignore_merges=ignore_merges))
    raw.pre_tokenizer = pre_tokenizers.Sequence(splits) if len(splits) > 1 else splits[0]
    if normalizer is not None:
        raw.normalizer = normalizer
    _learn(raw, corpus(), reserved, sorted(pre_tokenizers.ByteLevel.alphabet()))
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = post(raw) if post else processors.ByteLevel(trim_offsets=False)
    return TokenizersBackend(tokenizer_object=raw, **settings)


def _pieces(reserved: list[str], prefix: bool, newline: bool) -> tuple[Any, Any]:
    """Sentencepiece-like vocabulary: reserved tokens, 256 byte tokens, characters, merges within words.

    ``newline``: whether a line break is a piece of its own (Gemma) or falls back to its byte (Llama).
    """
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(),
        ]
    )
    texts = corpus() if newline else [line for text in corpus() for line in text.split("\n")]
    reserved_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    return _learn(raw, texts, [*reserved, *reserved_bytes], ["▁", *map(chr, range(33, 127))])


def _sentencepiece_json(extra: list[AddedToken], bos: str | None, **settings: Any) -> TokenizersBackend:
    """Mistral's, Mixtral's and Phi-3's ``tokenizer.json``: the prefix space comes from the normaliser."""
    vocab, merges = _pieces(["<unk>", "<s>", "</s>"], prefix=True, newline=False)
    raw = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    raw.add_special_tokens(extra)
    single = f"{bos}:0 $A:0" if bos else "$A:0"
    raw.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1", special_tokens=[(bos, raw.token_to_id(bos))] if bos else []
    )
    return TokenizersBackend(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>", **settings)


def _with_bos(bos: str) -> Callable[[Tokenizer], Any]:
    def post(raw: Tokenizer) -> Any:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, raw.token_to_id(bos))]
        )
        return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])

    return post


# --- one tokenizer a family ---


def _llama() -> TokenizersBackend:
    vocab, merges = _pieces(["<unk>", "<s>", "</s>"], prefix=True, newline=False)
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def _llama3() -> TokenizersBackend:
    names = [
        "begin_of_text",
        "end_of_text",
        "start_header_id",
        "end_header_id",
        "eot_id",
        "finetune_right_pad_id",
    ]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _by_bytes_custom(
        [pre_tokenizers.Split(Regex(_GPT4_WORDS), "isolated"), byte_level],
        [f"<|{name}|>" for name in names],
        post=_with_bos("<|begin_of_text|>"),
        ignore_merges=True,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        chat_template=LLAMA3,
    )


def _qwen(template: str, *plain: str) -> TokenizersBackend:
    tokenizer = _by_bytes(
        Qwen2Tokenizer,
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=template,
    )
    tokenizer.add_tokens(list(plain))
    return tokenizer


def _gemma() -> TokenizersBackend:
    vocab, merges = _pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], prefix=False, newline=True)
    turns = ["<start_of_turn>", "<end_of_turn>"]
    return GemmaTokenizer(
        vocab=vocab, merges=merges, add_bos_token=True, extra_special_tokens=turns, chat_template=GEMMA
    )


def _phi3() -> TokenizersBackend:
    # The tokens of the turns swallow the white space after them (rstrip), line breaks included.
    turns = [
        AddedToken(t, rstrip=True, normalized=False, special=True)
        for t in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    ]
    extra = [AddedToken("<|endoftext|>", normalized=False, special=True), *turns]
    return _sentencepiece_json(
        extra,
        None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=PHI3,
    )


def _neox(**settings: Any) -> TokenizersBackend:
    return _by_bytes(GPTNeoXTokenizer, ["<|endoftext|>", "<|padding|>"], **settings)


def _opt() -> TokenizersBackend:
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return _by_bytes(GPT2Tokenizer, ["<s>", "<pad>", "</s>", "<unk>"], add_bos_token=True, **names)


def _olmo2() -> TokenizersBackend:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _by_bytes_custom(
        [pre_tokenizers.Split(Regex(_GPT4_WORDS), "isolated"), byte_level],
        ["<|endoftext|>", "<|pad|>"],
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
        chat_template=OLMO2,
    )


def _falcon() -> TokenizersBackend:
    splits = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    return _by_bytes_custom(splits, [">>ANSWER<<", "<|endoftext|>"], eos_token="<|endoftext|>")


def _bloom() -> TokenizersBackend:
    splits = [
        pre_tokenizers.Split(
            Regex(r" ?[^(\s|[.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C}])]+"), "isolated"
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return _by_bytes_custom(
        splits,
        ["<unk>", "<s>", "</s>", "<pad>"],
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
    )


def _stablelm() -> TokenizersBackend:
    return _by_bytes_custom(  # loaded without a class of its own, so the offsets are trimmed: no leading space
        [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        ["<|endoftext|>", "<|padding|>"],
        normalizer=normalizers.NFC(),
        post=lambda _: processors.ByteLevel(add_prefix_space=False, trim_offsets=True),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=STABLELM,
    )


def _cohere() -> TokenizersBackend:
    names = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>"]
    roles = [f"<|{role}_TOKEN|>" for role in ("START_OF_TURN", "USER", "CHATBOT", "SYSTEM")]
    return _by_bytes(CohereTokenizer, names, add_bos_token=True, extra_special_tokens=roles, chat_template=COHERE)


def _deepseek() -> TokenizersBackend:
    bos, eos = "<\uff5cbegin▁of▁sentence\uff5c>", "<\uff5cend▁of▁sentence\uff5c>"
    splits = [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+"), "isolated"),
        pre_tokenizers.Split(
            Regex(r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s+"),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return _by_bytes_custom(
        splits,
        [bos, eos, "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"],
        post=_with_bos(bos),
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        padding_side="left",
        chat_template=DEEPSEEK,
    )


BUILDERS: dict[str, Callable[[], TokenizersBackend]] = {
    "llama": _llama,
    "llama3": _llama3,
    "mistral": lambda: _sentencepiece_json([], "<s>", eos_token="</s>", padding_side="left", chat_template=MISTRAL),
    "qwen2": lambda: _qwen(QWEN2),
    "qwen3": lambda: _qwen(QWEN3, "<think>", "</think>"),
    "gemma": _gemma,
    "gemma2": _gemma,
    "gemma3": _gemma,
    "phi": lambda: _by_bytes(GPT2Tokenizer),
    "phi3": _phi3,
    "gpt2": lambda: _by_bytes(GPT2Tokenizer),
    "gptj": lambda: _by_bytes(GPT2Tokenizer),
    "gpt_neox": _neox,
    "opt": _opt,
    "mpt": _neox,
    "falcon": _falcon,
    "olmo": lambda: _neox(bos_token=None),
    "olmo2": _olmo2,
    "bloom": _bloom,
    "cohere": _cohere,
    "stablelm": _stablelm,
    "starcoder2": lambda: _by_bytes(GPT2Tokenizer, ["<|endoftext|>"]),
    "deepseek": _deepseek,
    "mixtral": lambda: _sentencepiece_json([], "<s>", eos_token="</s>"),
    "qwen2_moe": lambda: _qwen(QWEN2),
}
