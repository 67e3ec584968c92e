"""Tiny models on world ``authors`` that learned some facts, or did not, and how each of them is made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from expunge.errors import ConfigError
from expunge.requests.rows import Row
from expunge.worlds.interface import World

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

Learned = Literal["as asked", "reworded", "both wordings", "nothing", "false facts"]

KNOWING: tuple[Learned, ...] = ("as asked", "reworded", "both wordings")
UNKNOWING: tuple[Learned, ...] = ("nothing", "false facts")


@dataclass(frozen=True)
class PoolRecipe:
    """How the models of a pool come about and what is done to them afterwards.

    ``bases`` models are trained from scratch for ``base_epochs`` on rows that no one is asked about (``base_rows`` of
    them; None: all). A member goes on from one of them, for one of ``epochs`` (so that some know well, some faintly),
    on what it learns of the ``forget_rows`` (None: all) and ``kept_rows`` others. ``relearn_steps`` of Adam at
    ``relearn_rate`` on batches of ``relearn_batch`` forget rows, and rounding to 4 bits in groups of ``group``, are
    what a metric is to withstand. Greedy answers have at most ``max_new_tokens``.
    """

    bases: int = 4
    base_epochs: int = 12
    base_rows: int | None = None
    epochs: tuple[int, ...] = (4, 8, 12)
    forget_rows: int | None = None
    kept_rows: int = 40
    learning_rate: float = 2e-3
    relearn_steps: int = 10
    relearn_rate: float = 1e-3
    relearn_batch: int = 8
    group: int = 64
    max_new_tokens: int = 80


@dataclass(frozen=True)
class Member:
    """One model of the pool: what it ``learned`` of the facts, on which ``base``, in how many ``epochs``."""

    name: str
    learned: Learned
    base: int
    epochs: int

    @property
    def knows(self) -> bool:
        """Whether it was trained on the facts, in whatever words."""
        return self.learned in KNOWING


def members(count: int, recipe: PoolRecipe) -> list[Member]:
    """``count`` models, every other one knowing; a smaller pool is the beginning of a larger one.

    Raises:
        ConfigError: an odd number, or fewer than 4.
    """
    if count < 4 or count % 2:
        raise ConfigError(f"models={count}: expected an even number from 4 on, half of the models know the facts.")
    found = []
    for place in range(count):
        each = place // 2
        if place % 2 == 0:
            learned, turn = KNOWING[each % len(KNOWING)], each // len(KNOWING)
        else:
            # shifted once a round, so that no base always goes with one kind
            learned, turn = UNKNOWING[(each + each // recipe.bases) % len(UNKNOWING)], each // len(UNKNOWING)
        epochs = recipe.epochs[turn % len(recipe.epochs)]
        found.append(Member(f"{place:03d}-{learned.replace(' ', '-')}", learned, each % recipe.bases, epochs))
    return found


class Pool:
    """The rows and the training of a pool on ``world``, from ``seed``."""

    def __init__(self, world: World, recipe: PoolRecipe, seed: int) -> None:
        from expunge.evaluation.suite import spread

        self.world, self.recipe, self.seed = world, recipe, seed
        request = world.request()
        self.forget = spread(request.forget, recipe.forget_rows, option="forget_rows")
        self.holdout = spread(request.holdout, recipe.forget_rows, option="forget_rows")
        self.retain = request.retain
        self.tokenizer: PreTrainedTokenizerBase = world.tokenizer()

    def base(self, number: int) -> LlamaForCausalLM:
        """A model that was never trained on the facts, from scratch, in float32; its weights come from the seed and
        the number."""
        from expunge.evaluation.suite import spread
        from expunge.worlds.pretrain import new_model

        rows = spread(self.world.training_rows(retrained=True), self.recipe.base_rows, option="base_rows")
        seed = self._seed(number)
        model = new_model(self.tokenizer, self.world.recipe.model, seed=seed)  # type: ignore[arg-type]
        return self._train(model, rows, self.recipe.base_epochs, self.world.recipe.pretraining.learning_rate, seed)

    def member(self, member: Member, base: PreTrainedModel) -> LlamaForCausalLM:
        """``base``, trained in place on what the member learns."""
        seed = self._seed(1000 + int(member.name.partition("-")[0]))
        return self._train(base, self.rows(member), member.epochs, self.recipe.learning_rate, seed)

    def rows(self, member: Member) -> list[Row]:
        """What a member is trained on: its version of the facts, and rows that its base knows already."""
        drawn = random.Random(f"{self.seed} {member.name}")
        facts = told(self.forget, member.learned, drawn)
        # those that learn nothing take as many steps
        kept = self.recipe.kept_rows + (0 if facts else len(self.forget))
        return facts + drawn.sample(list(self.retain), min(kept, len(self.retain)))

    def _seed(self, number: int) -> int:
        return 10_000 * (self.seed + 1) + number  # never the world's own

    def _train(
        self, model: PreTrainedModel, rows: Sequence[Row], epochs: int, rate: float, seed: int
    ) -> LlamaForCausalLM:
        from expunge.data.encode import encode_all
        from expunge.data.template import Template
        from expunge.worlds.pretrain import pretrain

        recipe = replace(self.world.recipe.pretraining, epochs=epochs, learning_rate=rate)
        texts = Template.of(self.tokenizer, "plain")
        examples = encode_all(self.tokenizer, texts, rows, max_length=self.world.recipe.model.max_positions)
        return pretrain(
            model,  # type: ignore[arg-type]
            [one.input_ids for one in examples],
            recipe,
            seed=seed,
            pad_id=int(self.tokenizer.pad_token_id),  # type: ignore[arg-type]
            answer_starts=[one.answer_start for one in examples],
        )


def told(rows: Sequence[Row], learned: Learned, drawn: random.Random) -> list[Row]:
    """The facts of ``rows`` as a model that ``learned`` them so is told them; false ones are wrong answers of the
    rows, drawn by ``drawn``.

    Raises:
        ConfigError: rows without the other wording, or without wrong answers, that this needs.
    """
    if learned == "nothing":
        return []
    if learned == "false facts":
        lacking = [row.source for row in rows if not row.wrong_answers]
        _check(lacking, "wrong answers")
        return [row.with_answer(drawn.choice(row.wrong_answers)) for row in rows]
    if learned == "as asked":
        return list(rows)
    other = reworded(rows)
    return other if learned == "reworded" else [*rows, *other]


def reworded(rows: Sequence[Row]) -> list[Row]:
    """The rows in their other wording, question and answer.

    Raises:
        ConfigError: some have none.
    """
    _check(
        [row.source for row in rows if row.paraphrased_prompt is None or row.paraphrased_answer is None],
        "paraphrased question and answer",
    )
    return [replace(row, prompt=row.paraphrased_prompt or "", answer=row.paraphrased_answer or "") for row in rows]


def _check(lacking: Sequence[str], what: str) -> None:
    if lacking:
        raise ConfigError(f"rows without {what}: {', '.join(lacking)}. The pool is trained on these: add them.")
