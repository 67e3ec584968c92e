"""Does the knowledge come back when the target's activations stand in for the erased model's?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Paper, method_fields
from expunge.errors import InputError
from expunge.training.run import Progress, silent

_WHAT = {
    "mlp": "MLP keys of {layers}",
    "attention": "attention outputs of {layers}",
    "both": "MLP keys and attention outputs of {layers}",
    "residual": "hidden states after {layers}",
}


@method_fields
class Patching(Audit):
    """The target's activations patched into the erased model over windows of layers: how much of its logits returns."""

    name: ClassVar[str] = "patching"
    paper: ClassVar[Paper] = Paper("Dissecting Fine-Tuning Unlearning in Large Language Models", "arXiv:2410.06606")
    control: ClassVar[str] = "the retrained model, patched in the same way"
    needs_retrained: ClassVar[bool] = True
    order: ClassVar[int] = 12

    components: tuple[Literal["mlp", "attention", "both", "residual"], ...] = Field(
        default=("mlp", "attention", "both"), min_length=1, description="what is patched"
    )
    width: int | None = Field(
        default=None, ge=1, description="layers of a window; null: 5, and 1 in models of fewer than 16 layers"
    )
    windows: int | None = Field(
        default=24, ge=1, description="windows of a component at most, evenly spread; null: one around every layer"
    )
    limit: int = Field(default=40, ge=1, description="forget rows that are looked at, evenly spread")
    tokens: int = Field(default=30, ge=1, description="tokens of the target's own greedy answer, at most")
    least: float = Field(
        default=0.1, ge=0, description="recovery beyond the retrained model's from which on knowledge counts as hidden"
    )

    def check(self, audited: Audited) -> None:
        if not audited.request.forget:
            raise InputError("there are no forget rows, and patching looks at the target's answers to them.")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts import activation_patching
        from expunge.audits.parts.recovered import Meaning
        from expunge.audits.parts.recovering import asked, recover

        self.check(audited)
        with audited.model("target") as model:
            changes, skipped = activation_patching.patches_of(model, self.components, self.width, self.windows)
        if not changes:
            raise InputError(
                "no window of this model can be patched: "
                f"{'; '.join(dict.fromkeys(skipped.values()))}. Choose other components (residual works everywhere)."
            )
        meaning = Meaning(
            self.name, self.version, "Patching the target's {what} into the erased model", _WHAT, self.least
        )
        return recover(
            audited,
            meaning,
            asked(audited, self.limit, self.tokens),
            changes,
            activation_patching.Patching,
            details={"skipped": skipped},
            progress=progress,
        )
