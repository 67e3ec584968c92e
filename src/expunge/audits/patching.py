"""Does the knowledge come back when the target's activations stand in for the erased model's?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge.audits.interface import Audited, AuditResult, method_fields
from expunge.audits.parts.window_audit import WindowAudit
from expunge.errors import InputError
from expunge.training.run import Progress, silent

_WHAT = {
    "mlp": "MLP keys of {layers}",
    "attention": "attention outputs of {layers}",
    "both": "MLP keys and attention outputs of {layers}",
    "residual": "hidden states after {layers}",
}


@method_fields
class Patching(WindowAudit):
    """The target's activations patched into the erased model over windows of layers: how much of its logits returns."""

    name: ClassVar[str] = "patching"
    version: ClassVar[int] = 2
    control: ClassVar[str] = "the retrained model, patched in the same way"
    order: ClassVar[int] = 19

    components: tuple[Literal["mlp", "attention", "both", "residual"], ...] = Field(
        default=("mlp", "attention", "both"), min_length=1, description="what is patched"
    )

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
            self.name, self.version, "Patching the target's {what} into the erased model", _WHAT, self.least, skipped
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
