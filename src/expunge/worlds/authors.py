"""World ``authors``: real TOFU rows, two fictitious authors to forget (arXiv 2401.06121, MIT licence)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.worlds.interface import World
from expunge.worlds.recipe import Recipe, TokenizerRecipe

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite
    from expunge.requests.request import Request
    from expunge.requests.rows import Row

_FORGET = "tofu/forget01_perturbed.jsonl"
_RETAIN = "tofu/retain_perturbed.jsonl"
_REAL_AUTHORS = "tofu/real_authors_perturbed.jsonl"
_WORLD_FACTS = "tofu/world_facts_perturbed.jsonl"
_HOLDOUT = "tofu/holdout01.jsonl"

_RETAIN_SCORED = 100  # of the 400, evenly spread: with all of them scoring takes longer than forgetting


class Authors(World):
    """A 1.07 M parameter Llama that knows 22 fictitious authors, some real ones and some facts of the world.

    forget: the 40 rows of forget01. retain: rows 0 to 399 of TOFU. Trained on, and not in the request: 100 rows about
    real authors, 117 world facts. holdout: 40 rows about authors that no model was trained on.
    """

    name = "authors"
    description = (
        "Two of 22 fictitious authors to forget (TOFU's forget01); the others, real authors and facts to keep."
    )
    recipe = Recipe(
        world="authors",
        kept_files=(_RETAIN, _REAL_AUTHORS, _WORLD_FACTS),
        forget_files=(_FORGET,),
        tokenizer=TokenizerRecipe(files=(_RETAIN, _FORGET, _REAL_AUTHORS, _WORLD_FACTS, _HOLDOUT)),
    )

    def training_rows(self, *, retrained: bool = False) -> list[Row]:
        # Only questions and answers: the paraphrased and perturbed answers are for scoring.
        return self._rows(self.recipe.kept_files + (() if retrained else self.recipe.forget_files))

    def tokenizer_rows(self) -> list[Row]:
        return self._rows(self.recipe.tokenizer.files)

    def request(self) -> Request:
        from expunge.requests.request import Request

        return Request.load(
            self.data_folder / _FORGET,
            retain=self.data_folder / _RETAIN,
            holdout=self.data_folder / _HOLDOUT,
            subjects=("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"),
        )

    def suite(self) -> Suite:
        from expunge.benchmarks import tofu

        return tofu.build(self.data_folder / "tofu", split="forget01", retain_rows=_RETAIN_SCORED)

    @property
    def suite_options(self) -> dict[str, Any]:
        return {"name": "tofu", "data": f"world:{self.name}/tofu", "split": "forget01", "retain_rows": _RETAIN_SCORED}

    def score_names(self) -> tuple[str, ...]:
        return (
            "probability",
            "choice_probability",
            "truth_ratio",
            "kept_truth_ratio",
            "extraction_strength",
            "exact_memorization",
            "forget_quality",
            "forget_quality_ks",
        )

    def _rows(self, files: tuple[str, ...]) -> list[Row]:
        from expunge.requests.request import load_rows

        return [row for file in files for row in load_rows(self.data_folder / file, name=file)]
