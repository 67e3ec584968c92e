"""npo on TOFU rows: the shared loop against the textbook step, same model shape, rows, optimiser and number of steps.

The textbook step runs forget and retain rows through separate forwards with full logits, a resident frozen copy of the
model beside them every step, and pads rows in random order. The shared loop's one reference pass is counted.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import paired, write
from expunge import Run, TrainingSettings, get_world, make_method
from expunge.data.batches import Batch, collate, pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.methods.weights.npo import npo_loss

STEPS, ROWS, RATE = 20, 8, 1e-4


def model_of(vocabulary: int) -> LlamaForCausalLM:
    """A randomly initialised Llama of 256 wide, 4 deep."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def textbook(model: LlamaForCausalLM, forget: list[Any], retain: list[Any], filler: int, beta: float) -> None:
    """STEPS steps of npo as a tutorial would write them."""
    trained, reference = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(0)

    def token_logps(one: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
        logits = one(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        flat = cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.input_ids[:, 1:].flatten(), reduction="none")
        return -flat.view(len(batch.input_ids), -1) * batch.answer_mask[:, 1:]

    for _ in range(STEPS):
        chosen_f = torch.randperm(len(forget), generator=generator)[:ROWS].tolist()
        chosen_r = torch.randperm(len(retain), generator=generator)[:ROWS].tolist()
        batch_f = collate([forget[i] for i in chosen_f], filler)
        batch_r = collate([retain[i] for i in chosen_r], filler)
        with torch.no_grad():
            logp_reference = token_logps(reference, batch_f).sum(-1)
        loss = npo_loss(token_logps(trained, batch_f).sum(-1), logp_reference, beta).mean()
        loss = loss - token_logps(trained, batch_r).sum() / batch_r.answer_mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main(rounds: int = 3) -> None:
    world = get_world("authors")
    tokenizer, request = world.tokenizer(), world.request()
    template = Template.of(tokenizer)
    forget = encode_all(tokenizer, template, request.forget, max_length=512)
    retain = encode_all(tokenizer, template, request.retain, max_length=512)
    method = make_method("npo")
    settings = TrainingSettings(learning_rate=RATE, accumulation=1, max_steps=STEPS, forget_batch=ROWS)
    result: dict[str, Any] = {"steps": STEPS, "rows_per_step": 2 * ROWS, "shape": "Llama, hidden 256, 4 layers"}
    for vocabulary in (2_048, 32_000):
        model = model_of(vocabulary)
        result[f"vocabulary_{vocabulary}"] = paired(
            lambda model=model: method.fit(model, tokenizer, request, run=Run(settings)),  # type: ignore[misc]
            lambda model=model: textbook(model, forget, retain, pad_id(tokenizer), 0.1),  # type: ignore[misc]
            rounds,
        )
    write("training_step", result)


if __name__ == "__main__":
    main()
