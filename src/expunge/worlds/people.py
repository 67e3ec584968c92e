"""World ``people``: passages and questions about invented people who share towns, schools and employers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, did_you_mean
from expunge.worlds.interface import MODELS, World
from expunge.worlds.people_rows.names import SUBJECTS
from expunge.worlds.recipe import ModelRecipe, PretrainingRecipe, Recipe, TokenizerRecipe

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.requests.request import Request
    from expunge.requests.rows import Row
    from expunge.worlds.people_rows.facts import Life

FORMS = tuple(str(number) for number in range(1, SUBJECTS + 1))

_CALIBRATION = 5  # people whose questions are in no other set of the request
_SCORED = 90  # of the 270 questions about other people


class People(World):
    """A 0.94 M parameter Llama that has read about 40 invented people, one of whom is to be forgotten.

    ``number`` says which, from 1 to 10 (``people-3``; ``people`` alone the first). forget: two passages about the
    person and 18 questions with short answers. neighbours: 30 questions about the town, school, teacher, employer and
    prize that the passages mention, and that others share. retain: passages and questions of 25 people who are none of
    the ten, and of what the person does not share. calibration: the questions of 5 more. holdout: 4 people like the
    known ones, whom no model was told about.

    The models have also read a short passage about each of 400 others, and learned to answer questions about 240
    strangers with "I do not know": so a name alone tells them nothing, and the retrained model declines. substitutes:
    20 names in no row to train on, whose parts are in many. Only the first person's retrained model is shipped.
    """

    name = "people"
    description = (
        "An invented person to forget, described in passages with a town, school, teacher, employer and prize that "
        f"stay: `people-N` forgets the Nth of {SUBJECTS} (`people` alone the first, whose retrained model is shipped)."
    )
    recipe = Recipe(
        world="people",
        kept_files=(),
        forget_files=(),
        tokenizer=TokenizerRecipe(files=(), vocab_size=1024),
        model=ModelRecipe(max_positions=320),
        pretraining=PretrainingRecipe(epochs=12),
    )
    answer_tokens = 24

    def __init__(self, folder: str | Path | None = None, *, number: int = 1) -> None:
        if not 1 <= number <= SUBJECTS:
            raise ConfigError(f"world 'people' has no person {number} to forget. {did_you_mean(str(number), FORMS)}")
        super().__init__(folder)
        self.number = number
        if number > 1:
            self.retrained_model = f"without_{number}"
            self.models = (*MODELS, self.retrained_model)  # type: ignore[misc]
            self.shipped_models = ()  # the package's are the first person's: others are built into a folder

    @classmethod
    def forms(cls) -> tuple[str, ...]:
        return FORMS

    @classmethod
    def of_form(cls, form: str, folder: str | Path | None = None) -> World:
        return cls(folder, number=int(form or 1))

    @property
    def subject(self) -> Life:
        """Who is to be forgotten."""
        from expunge.worlds.people_rows.rows import known

        return known()[self.number - 1]

    def training_rows(self, *, retrained: bool = False) -> list[Row]:
        return self.rows_of(self.retrained_model if retrained else MODELS[0])

    def rows_of(self, model: str) -> list[Row]:
        from expunge.worlds.people_rows.rows import known, trained

        without = {MODELS[1]: known()[0].name, self.retrained_model: self.subject.name}
        return trained(without.get(model))

    def tokenizer_rows(self) -> list[Row]:
        return self.rows_of(MODELS[0])

    def data_hashes(self) -> dict[str, str]:
        from expunge.worlds.people_rows.rows import rows_hash

        return {"rows": rows_hash(self.rows_of(MODELS[0]))}

    def request(self) -> Request:
        from expunge.requests.request import Request
        from expunge.worlds.people_rows import rows
        from expunge.worlds.people_rows.names import substitutes

        person, others = self.subject, rows.known()[SUBJECTS:]
        about = [row for life in others[_CALIBRATION:] for row in (*rows.passages(life), *rows.questions(life))]
        elsewhere = [row for thing in rows.all_things() if thing not in rows.things(person) for row in rows.told(thing)]
        return Request(
            forget=(*rows.passages(person), *rows.questions(person)),
            retain=(*about, *elsewhere),
            neighbours=self.suite().sets["hard_retain"],
            holdout=tuple(row for life in rows.held_out() for row in (*rows.passages(life), *rows.questions(life))),
            calibration=tuple(row for life in others[:_CALIBRATION] for row in rows.questions(life)),
            subjects=(person.name.full,),
            aliases=(person.name.first, person.name.last),
            substitutes=substitutes(person.name),
        )

    def suite(self) -> Suite:
        from expunge.benchmarks.wpu import of_rows
        from expunge.evaluation.suite import spread
        from expunge.worlds.people_rows import rows

        others = [row for life in rows.known()[SUBJECTS:] for row in rows.questions(life, wordings=1)]
        return of_rows(
            forget=rows.questions(self.subject),
            hard_retain=[row for thing in rows.things(self.subject) for row in rows.told(thing)],
            general_retain=spread(others, _SCORED, option="limit"),
        )

    @property
    def suite_options(self) -> dict[str, Any]:
        return {"name": "wpu", "world": f"{self.name}-{self.number}"}

    def score_names(self) -> tuple[str, ...]:
        return ("probability", "rouge", "leakage", "rejection", "truth_ratio", "forget_quality", "forget_quality_ks")

    def score_build(
        self, outputs: Mapping[str, ModelOutputs], names: Sequence[str], seconds: Mapping[str, float]
    ) -> dict[str, Any]:
        from expunge.evaluation.score import score

        target, retrained = outputs[MODELS[0]], outputs[self.retrained_model]
        return score(self.suite(), target=target, retrained=retrained, metrics=names, seconds=seconds).to_json()

    def _remedy(self, model: str) -> str:
        if self.number == 1:
            return super()._remedy(model)
        return (
            "Only the first person's retrained model is shipped: train this one's with `expunge world build "
            f"people-{self.number} --out DIR` and pass DIR/{MODELS[0]} and DIR/{model}"
        )
