"""Does the knowledge come back when some of the target's parameters are put back?"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from expunge.audits.interface import Audited, AuditResult, method_fields
from expunge.audits.parts.window_audit import WindowAudit
from expunge.errors import InputError
from expunge.training.run import Progress, silent

_WHAT = {
    "values": "value vectors (MLP down projections) of {layers}",
    "keys": "MLP gates and first projections of {layers}",
    "attention": "attention parameters of {layers}",
    "norms": "norms of {layers}",
    "outside": "embeddings, last norm and head",
    "all": "parameters, all of them,",
}


@method_fields
class Restoration(WindowAudit):
    """The target's parameters put back into the erased model over windows of layers: how much of its logits returns."""

    name: ClassVar[str] = "restoration"
    version: ClassVar[int] = 2
    control: ClassVar[str] = "the retrained model, with the same parameters put in"
    order: ClassVar[int] = 18

    components: tuple[Literal["values", "keys", "attention", "norms", "outside", "all"], ...] = Field(
        default=("values", "keys", "attention"), min_length=1, description="which parameters are put back"
    )

    def check(self, audited: Audited) -> None:
        if audited.at_inference:
            raise InputError(
                "this erasure leaves the weights as they were, so there are none to put back. Restoration takes a "
                "weight erasure, or an erased model."
            )
        super().check(audited)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.recovered import Meaning
        from expunge.audits.parts.recovering import asked, recover
        from expunge.audits.parts.restoring import Restoring, originals, restorations

        self.check(audited)
        with audited.model("target") as model:
            changes = restorations(model, self.components, self.width, self.windows)
            shared, copied = originals(model), originals(model, audited.erasure)

        def made(*arguments: Any, **settings: Any) -> Restoring:
            settings["originals"] = copied if settings["same_model"] else shared
            return Restoring(*arguments, **settings)

        meaning = Meaning(
            self.name, self.version, "Putting the target's {what} back into the erased model", _WHAT, self.least
        )
        return recover(
            audited, meaning, asked(audited, self.limit, self.tokens), changes, made, details={}, progress=progress
        )
