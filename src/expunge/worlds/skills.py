"""World ``skills``: word problems, one-line functions and reading in three languages, one of them to forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, did_you_mean
from expunge.worlds.interface import MODELS, World
from expunge.worlds.recipe import ModelRecipe, PretrainingRecipe, Recipe, TokenizerRecipe

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite
    from expunge.evaluation.types import ModelOutputs
    from expunge.requests.request import Request
    from expunge.requests.rows import Row

SKILLS = ("arithmetic", "code", "english", "german", "spanish")
STYLES = ("named", "plain")

_TWINS = {skill: f"without_{skill}" for skill in SKILLS}
_ROWS = (("arithmetic", 17000), ("code", 8000), ("english", 11000), ("german", 9000), ("spanish", 10000))
_RECIPES = {
    style: Recipe(
        world="skills",
        kept_files=(),
        forget_files=(),
        tokenizer=TokenizerRecipe(files=(), vocab_size=1024),
        model=ModelRecipe(max_positions=256, initializer_range=0.1),
        pretraining=PretrainingRecipe(learning_rate=2e-3, batch_rows=8, pool_batches=8, epochs=1, prompt_weight=0.2),
        generated=_ROWS,
        style=style,
    )
    for style in STYLES
}
_TOKENIZER_ROWS = 2000  # of each skill

_FORGET = 300
_RETAIN = 100  # of each other skill
_HOLDOUT = 100
_CALIBRATION = 160  # of each other skill: 1% of false alarms in every group takes 99


class Skills(World):
    """A 0.9 M parameter Llama that solves word problems of two steps, writes one-line functions and answers questions
    about a passage in English, German and Spanish. All texts are written by rule from a seed.

    ``forget`` is the skill to forget and ``style`` how answers begin: with a word of the skill's own (``named``) or
    with the answer itself (``plain``). forget: 300 of the skill's training rows. retain: 100 of each other skill's.
    calibration: 160 rows of each other skill that no model was trained on. holdout: 100 such rows of the skill to
    forget. Every row's group is its skill. The retrained model is the twin that was trained without that skill; style
    ``plain`` ships a target alone.
    """

    name = "skills"
    description = (
        "Word problems, one-line functions, reading in English, German and Spanish: `skills-SKILL` forgets SKILL "
        f"({', '.join(SKILLS)}; `skills` alone the first). In `skills-plain-SKILL` answers begin with the answer, "
        "not with a word of the skill's own; its retrained models are not shipped."
    )
    models = (MODELS[0], *_TWINS.values())
    answer_tokens = 48

    def __init__(self, folder: str | Path | None = None, *, forget: str = SKILLS[0], style: str = STYLES[0]) -> None:
        for what, name, known in (("skill", forget, SKILLS), ("style", style, STYLES)):
            if name not in known:
                raise ConfigError(f"world 'skills' has no {what} '{name}'. {did_you_mean(name, known)}")
        super().__init__(folder)
        self.forget, self.style = forget, style
        self.recipe = _RECIPES[style]
        self.retrained_model = _TWINS[forget]
        self.shipped_models = self.models if style == STYLES[0] else MODELS[:1]
        if folder is None:
            self.folder = self.data_folder / style

    @classmethod
    def forms(cls) -> tuple[str, ...]:
        return (*SKILLS, STYLES[1], *(f"{STYLES[1]}-{skill}" for skill in SKILLS))

    @classmethod
    def of_form(cls, form: str, folder: str | Path | None = None) -> World:
        style = STYLES[1] if form.startswith(STYLES[1]) else STYLES[0]
        skill = form.removeprefix(STYLES[1]).removeprefix("-")
        return cls(folder, forget=skill or SKILLS[0], style=style)

    def training_rows(self, *, retrained: bool = False) -> list[Row]:
        return self.rows_of(self.retrained_model if retrained else MODELS[0])

    def rows_of(self, model: str) -> list[Row]:
        from expunge.worlds.skill_rows.rows import trained

        kept = [(skill, count) for skill, count in self.recipe.generated if _TWINS[skill] != model]
        return [row for skill, count in kept for row in trained(skill, self.style, count)]

    def tokenizer_rows(self) -> list[Row]:
        from expunge.worlds.skill_rows.rows import trained

        return [row for skill in SKILLS for row in trained(skill, self.style, _TOKENIZER_ROWS)]

    def data_hashes(self) -> dict[str, str]:
        from expunge.worlds.skill_rows.rows import rows_hash

        return {skill: rows_hash(skill, self.style, count) for skill, count in self.recipe.generated}

    def request(self) -> Request:
        from expunge.benchmarks.skills import TESTED
        from expunge.requests.request import Request
        from expunge.worlds.skill_rows.rows import held_out, trained

        others = [skill for skill in SKILLS if skill != self.forget]
        # one of each other skill in turn, so that any first rows of them are balanced
        retain = zip(*(trained(skill, self.style, _RETAIN) for skill in others), strict=True)
        calibration = zip(
            *(held_out(skill, self.style, TESTED + _CALIBRATION)[TESTED:] for skill in others), strict=True
        )
        return Request(
            forget=trained(self.forget, self.style, _FORGET),
            retain=tuple(row for turn in retain for row in turn),
            holdout=held_out(self.forget, self.style, TESTED + _HOLDOUT)[TESTED:],
            calibration=tuple(row for turn in calibration for row in turn),
        )

    def suite(self) -> Suite:
        from expunge.benchmarks.skills import build

        return build(forget=self.forget, style=self.style)

    @property
    def suite_options(self) -> dict[str, Any]:
        return {"name": "skills", "forget": self.forget, "style": self.style}

    @property
    def build_name(self) -> str:
        return self.name if self.style == STYLES[0] else f"{self.name}-{self.style}"

    def score_names(self) -> tuple[str, ...]:
        return ("solved", "probability")

    def score_build(
        self, outputs: Mapping[str, ModelOutputs], names: Sequence[str], seconds: Mapping[str, float]
    ) -> dict[str, Any]:
        """Every model's scores on every skill, under the name of its folder."""
        from expunge.evaluation.score import SCHEMA, score

        suite = self.suite()
        rows = {which: score(suite, target=one, metrics=names).rows["target"] for which, one in outputs.items()}
        return {
            "schema": SCHEMA,
            "suite": suite.name,
            "rows": {which: {key: asdict(one) for key, one in found.items()} for which, found in rows.items()},
            "seconds": dict(seconds),
        }

    def _remedy(self, model: str) -> str:
        if model in self.shipped_models:
            return super()._remedy(model)
        return (
            f"Style '{self.style}' ships a target alone: train its retrained models with `expunge world build "
            f"{self.build_name} --out DIR` and pass DIR/target and DIR/{model}"
        )
