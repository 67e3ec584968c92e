"""What audits that change all matrices of a model have in common. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, method_fields
from expunge.audits.parts.attack import answer_room, asked_rows
from expunge.training.run import Progress

if TYPE_CHECKING:
    from expunge.audits.parts.coming_back import Level
    from expunge.audits.parts.treated import Treatment


@method_fields
class TreatingAudit(Audit):
    """Changes the weights of the erased and of the retrained model in the same ways, and asks forget rows after each.
    Subclasses say how they are changed."""

    needs_retrained: ClassVar[bool] = True

    limit: int = Field(default=20, gt=0, description="forget rows that are asked, evenly spread")
    retain_rows: int = Field(default=40, ge=0, description="retain rows that tell a ruined model, evenly spread")

    def check(self, audited: Audited) -> None:
        from expunge.audits.parts.plain_weights import matrices

        asked_rows(audited, self.limit)
        for model in (audited.target, audited.erased, audited.retrained):
            if model is not None:
                matrices(model)

    def after(
        self,
        audited: Audited,
        levels: Mapping[Level, Sequence[Treatment]],
        *,
        untouched: Level,
        title: str,
        axis: str,
        never: str,
        progress: Progress,
        more: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> AuditResult:
        """What comes back at each of ``levels``, beside ``untouched`` weights.

        Args:
            title, axis, never: see :class:`~expunge.audits.parts.coming_back.Course`.
            more: a sentence to end with.
            details: of the audit's own.
        """
        from expunge.audits.parts.coming_back import Course, coming_back_result
        from expunge.audits.parts.treated import treated

        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        seen = treated(audited, rows, levels, utility=self.retain_rows, progress=progress)
        scored = tuple(level.key for level in levels)
        course = Course("", title, axis, [untouched, *levels], seen, never, scored)
        return coming_back_result(self.name, self.version, audited, rows, [course], details=details or {}, more=more)
