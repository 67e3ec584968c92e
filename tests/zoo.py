"""Tiny causal language models of many families, each with its own kind of tokenizer. Nothing is downloaded.

The models are randomly initialised from a seed; the tokenizers (``zoo_tokenizers``) are trained on the spot.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, TokenizersBackend

import zoo_tokenizers

FAMILIES = tuple(zoo_tokenizers.BUILDERS)
ISSUE_FAMILIES = ("llama", "qwen2", "gemma2", "gpt2", "opt", "phi3", "olmo2", "gpt_neox", "mixtral")


@functools.cache
def _trained(family: str) -> TokenizersBackend:
    return zoo_tokenizers.BUILDERS[family]()


def tokenizer(family: str) -> TokenizersBackend:
    """The family's kind of tokenizer. Trained once a process; every call gives a copy that may be changed."""
    return copy.deepcopy(_trained(family))


_GROUPED = {"num_key_value_heads": 2}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

# Family: transformers model type and what its configuration needs beside the common sizes.
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "llama3": ("llama", {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 64}),
    "qwen2": ("qwen2", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 16}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("gemma2", {**_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gemma3": (
        "gemma3_text",
        {**_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    ),
    "phi": ("phi", {}),
    "phi3": ("phi3", _GROUPED),
    "gpt2": ("gpt2", {"n_inner": 128}),
    "gptj": ("gptj", {"n_inner": 128, "rotary_dim": 8}),
    "gpt_neox": ("gpt_neox", {}),
    "opt": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "mpt": ("mpt", {"max_seq_len": 512, "expansion_ratio": 2, "use_cache": True}),
    "falcon": ("falcon", {"ffn_hidden_size": 128}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "bloom": ("bloom", {}),
    "cohere": ("cohere", {"logit_scale": 0.5}),  # the default, 1/16, learns too slowly at this width
    "stablelm": ("stablelm", _GROUPED),
    "starcoder2": ("starcoder2", _GROUPED),
    "deepseek": (
        "deepseek_v3",
        {
            **_EXPERTS,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "num_mtp_layers": 0,
        },
    ),
    # The router's logits stay off: with them on, transformers cannot generate padded cached batches.
    "mixtral": (
        "mixtral",
        {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False},
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {**_GROUPED, **_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 64},
    ),
}
_COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
}
# What ends an answer in chats, where that is not the tokenizer's own end token.
_END_OF_TURN = {
    "gemma": "<end_of_turn>",
    "gemma2": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "llama3": "<|end_of_text|>",
}


def model(family: str, vocab_size: int | None = None, *, seed: int = 0, **shape: Any) -> PreTrainedModel:
    """A tiny, randomly initialised model in evaluation mode.

    Args:
        vocab_size: by default the length of the family's tokenizer. Special ids that do not fit are unset.
        seed: of the weights; the global generator is left as it was.
        shape: fields of the family's configuration, such as ``hidden_size`` or ``tie_word_embeddings``.
    """
    words = _trained(family)
    vocab_size = len(words) if vocab_size is None else vocab_size
    kind, own = _CONFIGS[family]
    ids = {
        name: None if (token := getattr(words, name)) is None or token >= vocab_size else token
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = AutoConfig.for_model(kind, **{**_COMMON, **own, **ids, "vocab_size": vocab_size, **shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if family in _END_OF_TURN:
        end_of_turn = words.get_vocab()[_END_OF_TURN[family]]
        if end_of_turn < vocab_size:
            made.generation_config.eos_token_id = [ids["eos_token_id"], end_of_turn]
    return made.eval()


def save(family: str, folder: str | Path, **shape: Any) -> Path:
    """Write the family's model and tokenizer to ``folder`` as transformers does; returns the folder."""
    model(family, **shape).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return Path(folder)
