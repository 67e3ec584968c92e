"""What every metric says of a model that is asked about the facts: as it is, trained on half of them, and in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from expunge.audits.parts.membership_attacks import separation
from expunge.audits.parts.membership_scores import membership_scores
from expunge.audits.parts.plain_weights import exchanged, matrices
from expunge.audits.parts.relearned import halves, train_again
from expunge.audits.parts.rounding import rounder
from expunge.audits.parts.token_statistics import TokenStatistics, token_statistics
from expunge.data.batches import pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import ModelOutputs
from expunge.meta.pool import Pool, reworded
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MEMORY = ("extraction_strength", "exact_memorization")
_SAID = ("probability", "rouge", "leakage", "truth_ratio", "truth_probability", *_MEMORY)
_METRICS = {
    "forget": _SAID,
    "forget_paraphrased": _SAID,  # the other question, the same answer
    "forget_reworded": ("probability", *_MEMORY),  # the other question, the answer in other words
}

Values = Mapping[str, float]


@dataclass(frozen=True)
class Reading:
    """What a model says: ``outputs`` on the suite's sets, ``tokens`` of the answers to the n forget rows and then to
    the holdout rows."""

    outputs: ModelOutputs
    tokens: Sequence[TokenStatistics]


class Reader:
    """Asks models about the facts of ``pool``; ``control`` is a model outside it that was never trained on them, which
    metrics that compare compare with, as it is."""

    def __init__(self, pool: Pool, control: PreTrainedModel) -> None:
        self.pool = pool
        self.texts = Template.of(pool.tokenizer, "plain")
        self.examples = self._encoded([*pool.forget, *pool.holdout])
        self.answers = [
            str(pool.tokenizer.decode(one.input_ids[one.answer_start :], skip_special_tokens=True))
            for one in self.examples
        ]
        fitted, held_out = halves(pool.forget, pool.seed)
        self.fitted = self._encoded(fitted)
        self.all = range(len(pool.forget))
        self.held_out = [place for place, row in enumerate(pool.forget) if any(row is one for one in held_out)]
        self.control = self.read(control, self.all)

    def values(self, model: PreTrainedModel) -> dict[str, Values]:
        """Every metric of ``model`` on all facts, ``plain`` and ``rounded`` to 4 bits, and on the half that it is not
        trained on, ``held_out`` before and ``relearned`` after training on the other. The model's bits are kept."""
        plain = self.read(model, self.all)
        found = {
            "plain": self.metrics(plain, self.all, self.all),
            "held_out": self.metrics(plain, self.all, self.held_out),
        }
        recipe = self.pool.recipe

        def look(_: int) -> None:
            found["relearned"] = self.metrics(self.read(model, self.held_out), self.held_out, self.held_out)

        train_again(
            model,
            self.fitted,
            look,
            padding=pad_id(self.pool.tokenizer),
            steps=[recipe.relearn_steps],
            trained="full",
            learning_rate=recipe.relearn_rate,
            batch=recipe.relearn_batch,
            rank=1,
            seed=self.pool.seed,
        )
        # our own arithmetic everywhere: a table must not depend on which packages are installed
        rounded = rounder("int4", recipe.group, "own")
        with exchanged(model, {name: rounded(one).values for name, one in matrices(model).items()}):
            found["rounded"] = self.metrics(self.read(model, self.all), self.all, self.all)
        return found

    def read(self, model: PreTrainedModel, places: Sequence[int]) -> Reading:
        """Ask about the forget rows at ``places``."""
        outputs = run_model(
            model,
            self.pool.tokenizer,
            self._suite(places),
            max_new_tokens=self.pool.recipe.max_new_tokens,
            template="plain",
        )
        border = len(self.pool.forget)
        examples = [self.examples[place] for place in places] + self.examples[border:]
        return Reading(outputs, token_statistics(model, examples, pad_id(self.pool.tokenizer)))

    def metrics(self, reading: Reading, asked: Sequence[int], places: Sequence[int]) -> Values:
        """The metrics over the forget rows at ``places``, of a reading of the rows that were ``asked``."""
        own, control = _part(reading, asked, places), _part(self.control, self.all, places)
        rows = score(self._suite(places), erased=own.outputs, retrained=control.outputs).rows["erased"]
        return {**{key: one.value for key, one in rows.items()}, **self._membership(own, control, places)}

    def _membership(self, own: Reading, control: Reading, places: Sequence[int]) -> dict[str, float]:
        """AUCs of the attacks of the audit ``membership``, forget against holdout rows."""
        answers = [self.answers[place] for place in places] + self.answers[len(self.pool.forget) :]
        scores = membership_scores(own.tokens, answers, control.tokens)
        border = len(places)
        return {f"membership_{name}": separation(one[:border], one[border:]).auc for name, one in scores.items()}

    def _encoded(self, rows: Sequence[Row]) -> list[Example]:
        most = self.pool.world.recipe.model.max_positions
        return encode_all(self.pool.tokenizer, self.texts, rows, max_length=most)

    def _suite(self, places: Sequence[int]) -> Suite:
        rows = [self.pool.forget[place] for place in places]
        other = reworded(rows)
        sets = {
            "forget": tuple(rows),
            "forget_paraphrased": tuple(row.with_prompt(one.prompt) for row, one in zip(rows, other, strict=True)),
            "forget_reworded": tuple(other),
        }
        return Suite("meta", sets, _METRICS, ("forget_quality", "forget_quality_ks"))


def _part(reading: Reading, asked: Sequence[int], places: Sequence[int]) -> Reading:
    """What was said about the forget rows at ``places``, of those that were ``asked``, and about all holdout rows."""
    where = [list(asked).index(place) for place in places]
    sets = {
        name: replace(one, rows=tuple(one.rows[place] for place in where)) for name, one in reading.outputs.sets.items()
    }
    tokens = [reading.tokens[place] for place in where] + list(reading.tokens[len(asked) :])
    return Reading(replace(reading.outputs, sets=sets), tokens)
