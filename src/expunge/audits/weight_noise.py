"""Does a little noise on the weights bring the forgotten answers back?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.treating import TreatingAudit
from expunge.errors import ConfigError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@method_fields
class WeightNoise(TreatingAudit):
    """Small Gaussian noise on every matrix: do the forgotten answers come back?"""

    name: ClassVar[str] = "weight_noise"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Noise Injection Reveals Hidden Capabilities of Sandbagging Language Models", "arXiv:2412.01784"
    )
    control: ClassVar[str] = "the retrained model with the same noise"
    order: ClassVar[int] = 12
    by_default: ClassVar[bool] = False

    scales: tuple[float, ...] = Field(
        default=(0.01, 0.03, 0.1),
        min_length=1,
        description="standard deviations of the noise, as shares of each matrix's own",
    )
    draws: int = Field(default=2, gt=0, description="draws of the noise, of which the mean is taken")

    def check(self, audited: Audited) -> None:
        super().check(audited)
        if not all(scale > 0 for scale in self.scales) or len(set(self.scales)) < len(self.scales):
            raise ConfigError(
                f"audits.weight_noise.scales={list(self.scales)}: expected different numbers above 0, such as 0.03."
            )

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import Level

        self.check(audited)
        scales = sorted(self.scales)
        seeds = [random.Random(f"{audited.seed} weight_noise {draw}").getrandbits(63) for draw in range(self.draws)]
        return self.after(
            audited,
            {
                Level(scale, f"{scale:g}", f"With noise of {scale:g} standard deviations on every matrix"): [
                    _noisy(scale, seed) for seed in seeds
                ]
                for scale in scales
            },
            untouched=Level(0.0, "0", "Without noise"),
            title=f"Gaussian noise on the weights, mean of {self.draws} draws",
            axis="standard deviations of the matrix",
            never=f"with noise of {' or '.join(f'{one:g}' for one in scales)} standard deviations on every matrix",
            progress=progress,
            details={"draws": self.draws},
        )


def _noisy(scale: float, seed: int) -> Callable[[PreTrainedModel], dict[str, Tensor]]:
    def treatment(model: PreTrainedModel) -> dict[str, Tensor]:
        import torch

        from expunge.audits.parts.disturbed import with_noise
        from expunge.audits.parts.plain_weights import matrices

        generator = torch.Generator().manual_seed(seed)  # the same numbers for every model and every scale
        return {name: with_noise(one.detach(), scale, generator) for name, one in matrices(model).items()}

    return treatment
