"""World ``exam``: multiple choice on six invented subjects, one of them to forget and one its close neighbour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.worlds.interface import World
from expunge.worlds.recipe import ModelRecipe, PretrainingRecipe, Recipe, TokenizerRecipe

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.requests.request import Request
    from expunge.requests.rows import Row

FORGET = "mirrology"
NEIGHBOUR = "dravology"
OTHERS = ("history", "botany", "law", "dance")

_ROWS = 6000  # of each subject: fifty turns of its facts
_TOKENIZER_ROWS = 1440  # of each subject: twelve turns of its facts

_FORGOTTEN = 360  # three turns: every fact twice with options and once without
_KEPT = 120  # of each other subject, to be fitted on
_UNSEEN = 120  # of each subject, held out and not in the suite


class Exam(World):
    """A 0.55 M parameter Llama that passes exams in six invented subjects of 120 facts each: a question, four options,
    one of them in its words. It also answers without options. All texts are written by rule from a seed.

    forget: 360 of mirrology's training rows. neighbours: 120 of dravology, which asks the same of other minerals in
    the same words. retain: 120 of each other subject. holdout: 120 questions on mirrology's facts in wordings and with
    options that no model saw together; calibration: as many of each other subject. Every row's group is its
    subject. The retrained model was never trained on a row of mirrology.
    """

    name = "exam"
    description = (
        "Multiple choice on six invented subjects: mirrology to forget; its neighbour dravology, which is worded "
        "alike, and history, botany, law and dance to keep."
    )
    recipe = Recipe(
        world="exam",
        kept_files=(),
        forget_files=(),
        tokenizer=TokenizerRecipe(files=(), vocab_size=1024),
        model=ModelRecipe(hidden_size=96, intermediate_size=264, max_positions=128, initializer_range=0.05),
        pretraining=PretrainingRecipe(learning_rate=3e-3, pool_batches=8, epochs=1, prompt_weight=0.05),
        generated=tuple((subject, _ROWS) for subject in (FORGET, NEIGHBOUR, *OTHERS)),
    )
    answer_tokens = 8

    def training_rows(self, *, retrained: bool = False) -> list[Row]:
        from expunge.worlds.exam_rows.rows import trained

        taught = [(one, count) for one, count in self.recipe.generated if not (retrained and one == FORGET)]
        return [row for subject, count in taught for row in trained(subject, count)]

    def tokenizer_rows(self) -> list[Row]:
        from expunge.worlds.exam_rows.rows import trained

        return [row for subject, _ in self.recipe.generated for row in trained(subject, _TOKENIZER_ROWS)]

    def data_hashes(self) -> dict[str, str]:
        from expunge.worlds.exam_rows.rows import rows_hash

        return {subject: rows_hash(subject, count) for subject, count in self.recipe.generated}

    def request(self) -> Request:
        from expunge.benchmarks.exam import TESTED
        from expunge.requests.request import Request
        from expunge.worlds.exam_rows.rows import held_out, trained
        from expunge.worlds.exam_rows.subjects import SUBJECTS

        def unseen(subject: str) -> tuple[Row, ...]:
            return held_out(subject, TESTED + _UNSEEN)[TESTED:]

        # one of each subject in turn, so that any first rows are balanced
        retain = zip(*(trained(subject, _KEPT) for subject in OTHERS), strict=True)
        calibration = zip(*(unseen(subject) for subject in (NEIGHBOUR, *OTHERS)), strict=True)
        return Request(
            forget=trained(FORGET, _FORGOTTEN),
            retain=tuple(row for turn in retain for row in turn),
            neighbours=trained(NEIGHBOUR, _KEPT),
            holdout=unseen(FORGET),
            calibration=tuple(row for turn in calibration for row in turn),
            subjects=(FORGET,),
            aliases=SUBJECTS[FORGET].names,
        )

    def suite(self) -> Suite:
        from expunge.benchmarks.exam import build

        return build()

    @property
    def suite_options(self) -> dict[str, Any]:
        return {"name": "exam"}

    def score_names(self) -> tuple[str, ...]:
        return ("top_option", "choice_probability")

    def score_build(
        self, outputs: Mapping[str, ModelOutputs], names: Sequence[str], seconds: Mapping[str, float]
    ) -> dict[str, Any]:
        """The scores of both models and, as ``subjects``, the share of right options by model, by how they were asked
        (with options or without) and by subject."""
        from expunge.benchmarks.exam import by_subject

        return super().score_build(outputs, names, seconds) | {
            "subjects": {model: by_subject(one) for model, one in outputs.items()}
        }
