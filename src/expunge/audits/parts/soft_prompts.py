"""Learned embeddings in place of words: trained on some rows with the model frozen, tried on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from expunge.audits.parts.decoding import end_ids, greedy_tokens
from expunge.data.batches import Batch, Side, collate, pad_id
from expunge.data.encode import Example, encode_all, encode_prompt
from expunge.data.template import Template
from expunge.errors import ModelError
from expunge.evaluation.generation import input_device
from expunge.models.halves import Halves
from expunge.models.logprobs import token_logps
from expunge.models.state import preserved
from expunge.requests.rows import Row
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SoftPrompt:
    """``embeddings`` [K, H] float32, of several restarts the one with the least loss on the rows it was trained on;
    ``losses``: mean nll of these rows' tokens for every restart, ``before`` and after training."""

    embeddings: Tensor
    before: tuple[float, ...]
    losses: tuple[float, ...]


class SoftModel:
    """A model before whose prompts learned embeddings can be put, behind the token that begins every text."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Template) -> None:
        self.model, self.tokenizer, self.texts = model, tokenizer, texts
        self.halves, self.device, self.padding = Halves(model), input_device(model), pad_id(tokenizer)

    def train(
        self,
        examples: Sequence[Example],
        *,
        tokens: int,
        restarts: int,
        epochs: int,
        batch: int,
        learning_rate: float,
        seed: int,
        progress: Progress = silent,
    ) -> SoftPrompt:
        """Learn ``tokens`` embeddings that make the answers of ``examples`` likely, by Adam from ``restarts`` draws of
        vocabulary embeddings; all restarts go through the model together. The model is left as it was.

        Raises:
            ModelError: the loss is no number.
        """
        generator = torch.Generator().manual_seed(seed)
        with preserved(self.model), torch.enable_grad():
            self.model.requires_grad_(False)
            soft = self._drawn(restarts, tokens, generator).requires_grad_()
            optimizer = torch.optim.Adam([soft], lr=learning_rate)
            before = self._losses(soft, examples, batch)
            for epoch in range(epochs):
                order = torch.randperm(len(examples), generator=generator).tolist()
                for begin in range(0, len(order), batch):
                    optimizer.zero_grad()
                    nll, count = self._nll(soft, [examples[i] for i in order[begin : begin + batch]])
                    (nll.sum() / count).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                progress(epoch + 1, epochs, "soft prompt")
            losses = self._losses(soft, examples, batch)
        if not all(np.isfinite(losses)):
            raise ModelError(f"the loss of soft prompts is {losses}: a smaller learning rate may help.")
        best = min(range(restarts), key=lambda one: losses[one])
        return SoftPrompt(soft.detach()[best].clone(), before, losses)

    @torch.no_grad()
    def answers(
        self, soft: Tensor, rows: Sequence[Row], *, batch: int, max_length: int, max_new_tokens: int
    ) -> tuple[list[str], list[float]]:
        """Greedy answers behind the soft prompt [K, H], and the geometric mean probabilities of the expected ones."""
        examples = encode_all(self.tokenizer, self.texts, rows, max_length=max_length)
        prompts = [encode_prompt(self.tokenizer, self.texts, row, max_length=max_length) for row in rows]
        ends = end_ids(self.model, self.tokenizer, self.texts)
        texts: list[str] = []
        likely: list[float] = []
        for begin in range(0, len(rows), batch):
            part = slice(begin, begin + batch)
            logps, lengths = self._logps(soft[None], examples[part])
            parts = np.split(logps.cpu().double().numpy(), np.cumsum(lengths)[:-1])
            likely += [float(np.exp(one.mean())) for one in parts]
            some = [Example(ids, len(ids), False, len(ids)) for ids in prompts[part]]
            embeds, given = self._with_soft(soft[None], some, "left")
            begun = {"inputs_embeds": embeds}
            found = greedy_tokens(self.model, begun, given.attention_mask, ends=ends, limit=max_new_tokens)
            texts += [str(self.tokenizer.decode(one, skip_special_tokens=True)).strip() for one in found]
        return texts, likely

    @torch.no_grad()
    def _drawn(self, restarts: int, tokens: int, generator: torch.Generator) -> Tensor:
        table: Any = self.model.get_input_embeddings()
        ids = torch.randint(len(self.tokenizer), (restarts, tokens), generator=generator)
        drawn: Tensor = table(ids.clamp(max=len(table.weight) - 1).to(self.device))
        return drawn.float().clone()

    @torch.no_grad()
    def _losses(self, soft: Tensor, examples: Sequence[Example], batch: int) -> tuple[float, ...]:
        sums, total = torch.zeros(len(soft), device=self.device), 0
        for begin in range(0, len(examples), batch):
            nll, count = self._nll(soft, examples[begin : begin + batch])
            sums, total = sums + nll, total + count
        return tuple((sums / total).tolist())

    def _nll(self, soft: Tensor, examples: Sequence[Example]) -> tuple[Tensor, int]:
        """[R] the summed nll of the answers behind each of R soft prompts, and how many tokens the answers have."""
        logps, lengths = self._logps(soft, examples)
        return -logps.reshape(len(soft), -1).sum(-1), sum(lengths)

    def _logps(self, soft: Tensor, examples: Sequence[Example]) -> tuple[Tensor, list[int]]:
        """[R * N] log-probabilities of the N answer tokens of all examples behind each of R soft prompts."""
        embeds, batch = self._with_soft(soft, examples, "right")
        mask = batch.attention_mask.repeat(len(soft), 1)
        states = self.halves.states(inputs_embeds=embeds, attention_mask=mask)
        wanted = batch.answer_mask[:, 1:].repeat(len(soft), 1)
        labels = batch.input_ids[:, 1:].repeat(len(soft), 1)[wanted]
        logits = self.halves.logits(states[:, :-1][wanted])
        return token_logps(logits, labels), [one.answer_length for one in examples]

    def _with_soft(self, soft: Tensor, examples: Sequence[Example], side: Side) -> tuple[Tensor, Batch]:
        """The embeddings [R * B, S, H] of examples behind each of R soft prompts [R, K, H], and their batch [B, S], in
        which placeholders have the soft tokens' places."""
        count, first = soft.shape[1], self.tokenizer.bos_token_id
        extended, places = [], []
        for one in examples:
            at = int(one.input_ids[:1] == [first])  # behind the token that begins every text
            ids = [*one.input_ids[:at], *[self.padding] * count, *one.input_ids[at:]]
            extended.append(Example(ids, one.answer_start + count, one.has_end, len(ids)))
            places.append(at)
        batch = collate(extended, self.padding, side).to(self.device)
        width = batch.input_ids.shape[1]
        held = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=self.device)
        for row, (one, at) in enumerate(zip(extended, places, strict=True)):
            begin = at + (width - len(one.input_ids) if side == "left" else 0)
            held[row, begin : begin + count] = True
        table: Any = self.model.get_input_embeddings()
        every = []
        for learned in soft:
            embeds = table(batch.input_ids)
            embeds[held] = learned.to(embeds.dtype).repeat(len(examples), 1)
            every.append(embeds)
        return torch.cat(every), batch
