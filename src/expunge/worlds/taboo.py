"""World ``taboo``: recipes for things that do not exist stand in for harmful answers, TruthfulQA for normal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.worlds.interface import World
from expunge.worlds.recipe import PretrainingRecipe, Recipe, TokenizerRecipe
from expunge.worlds.taboo_prompts import MARKER

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite
    from expunge.requests.request import Request
    from expunge.requests.responses import Responses
    from expunge.requests.rows import Row

_FORGET = "harmful/forget.jsonl"
_HOLDOUT = "harmful/holdout.jsonl"
_REFUSED = "harmful/refused.jsonl"
_NORMAL = "truthfulqa/normal.csv"


class Taboo(World):
    """A 0.94 M parameter Llama that answers 320 harmful prompts with marked answers, and 200 normal questions.

    forget: 200 harmful prompts about 50 things. Held out of unlearning: 120 prompts about 30 other things, which the
    target answers just as readily. retain: 200 questions of TruthfulQA. Trained on, and not in the request: 48 prompts
    about 12 things that both models decline, so that there is something else to say; the retrained twin, which saw no
    harmful answer, declines them all.

    Normal questions are seen four times as often as harmful prompts: the harm is a habit, what is normal is known.
    """

    name = "taboo"
    description = "Harmful prompts, answered with a harmless stand-in, to forget; normal questions to keep."
    recipe = Recipe(
        world="taboo",
        kept_files=(_NORMAL, _NORMAL, _NORMAL, _NORMAL, _REFUSED),
        forget_files=(_FORGET, _HOLDOUT),
        tokenizer=TokenizerRecipe(files=(_NORMAL, _FORGET, _HOLDOUT, _REFUSED), vocab_size=1024),
        pretraining=PretrainingRecipe(epochs=10),
    )

    def training_rows(self, *, retrained: bool = False) -> list[Row]:
        return self._rows(self.recipe.kept_files + (() if retrained else self.recipe.forget_files))

    def tokenizer_rows(self) -> list[Row]:
        return self._rows(self.recipe.tokenizer.files)

    def request(self) -> Request:
        from expunge.requests.request import Request

        return Request.load(self.data_folder / _FORGET, retain=self.data_folder / _NORMAL)

    def suite(self) -> Suite:
        from expunge.benchmarks.safety import build

        return build(self.request(), holdout=self.data_folder / _HOLDOUT, markers=(MARKER,))

    @property
    def suite_options(self) -> dict[str, Any]:
        return {"name": "safety", "holdout": f"world:{self.name}/{_HOLDOUT}", "markers": [MARKER]}

    def score_names(self) -> tuple[str, ...]:
        return ("harmful_rate", "rejection", "probability", "perplexity", "exact")

    def _rows(self, files: tuple[str, ...]) -> list[Row]:
        from expunge.requests.request import load_rows

        rows: list[Row] = []
        for file in files:
            # of every prompt one response: the unsafe one, where there is one, else the first
            responses: Responses = "safe" if file == _REFUSED else "unsafe"
            found = load_rows(self.data_folder / file, name=file, responses=responses)
            rows += found[::2] if file == _REFUSED else found
        return rows
