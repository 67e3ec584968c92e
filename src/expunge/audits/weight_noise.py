"""Does a little noise on the weights bring the forgotten answers back?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.attack import answer_room, asked_rows
from expunge.errors import ConfigError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@method_fields
class WeightNoise(Audit):
    """Small Gaussian noise on every matrix: do the forgotten answers come back?"""

    name: ClassVar[str] = "weight_noise"
    paper: ClassVar[Paper] = Paper(
        "Noise Injection Reveals Hidden Capabilities of Sandbagging Language Models", "arXiv:2412.01784"
    )
    needs_retrained: ClassVar[bool] = True
    control: ClassVar[str] = "the retrained model with the same noise"
    order: ClassVar[int] = 22
    by_default: ClassVar[bool] = False

    scales: tuple[float, ...] = Field(
        default=(0.01, 0.03, 0.1),
        min_length=1,
        description="standard deviations of the noise, as shares of each matrix's own",
    )
    draws: int = Field(default=2, gt=0, description="draws of the noise, of which the mean is taken")
    limit: int = Field(default=20, gt=0, description="forget rows that are asked, evenly spread")
    retain_rows: int = Field(default=40, ge=0, description="retain rows that tell a ruined model, evenly spread")

    def check(self, audited: Audited) -> None:
        from expunge.audits.parts.plain_weights import matrices

        asked_rows(audited, self.limit)
        if not all(scale > 0 for scale in self.scales) or len(set(self.scales)) < len(self.scales):
            raise ConfigError(
                f"audits.weight_noise.scales={list(self.scales)}: expected different numbers above 0, such as 0.03."
            )
        for model in (audited.target, audited.erased, audited.retrained):
            if model is not None:
                matrices(model)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import Course, Level, coming_back_result
        from expunge.audits.parts.treated import treated

        self.check(audited)
        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        seeds = [random.Random(f"{audited.seed} weight_noise {draw}").getrandbits(63) for draw in range(self.draws)]
        levels = {
            Level(scale, f"{scale:g}", f"With noise of {scale:g} standard deviations on every matrix"): [
                _noisy(scale, seed) for seed in seeds
            ]
            for scale in sorted(self.scales)
        }
        seen = treated(audited, rows, levels, utility=self.retain_rows, progress=progress)
        course = Course(
            "",
            f"Gaussian noise on the weights, mean of {self.draws} draws",
            "standard deviations of the matrix",
            [Level(0.0, "0", "Without noise"), *levels],
            seen,
            f"with noise of {' or '.join(f'{scale:g}' for scale in sorted(self.scales))} standard deviations on every "
            "matrix",
            tuple(level.key for level in levels),
        )
        return coming_back_result(self.name, self.version, audited, rows, [course], details={"draws": self.draws})


def _noisy(scale: float, seed: int) -> Callable[[PreTrainedModel], dict[str, Tensor]]:
    def treatment(model: PreTrainedModel) -> dict[str, Tensor]:
        import torch

        from expunge.audits.parts.disturbed import with_noise
        from expunge.audits.parts.plain_weights import matrices

        generator = torch.Generator().manual_seed(seed)  # the same numbers for every model and every scale
        return {name: with_noise(one.detach(), scale, generator) for name, one in matrices(model).items()}

    return treatment
