"""What patching and restoration ask for alike. Importing this loads no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, Paper, method_fields
from expunge.errors import InputError


@method_fields
class WindowAudit(Audit):
    """An audit that puts something of the target into windows of the erased model's layers."""

    paper: ClassVar[Paper] = Paper("Dissecting Fine-Tuning Unlearning in Large Language Models", "arXiv:2410.06606")
    needs_retrained: ClassVar[bool] = True

    width: int | None = Field(
        default=None, ge=1, description="layers of a window; null: 5, and 1 in models of fewer than 16 layers"
    )
    windows: int | None = Field(
        default=24,
        ge=1,
        description="windows of a component at most, evenly spread, and more where so few would leave layers out; "
        "null: one around every layer",
    )
    limit: int = Field(default=40, ge=1, description="forget rows that are looked at, evenly spread")
    tokens: int = Field(default=30, ge=1, description="tokens of the target's own greedy answer, at most")
    least: float = Field(
        default=0.1,
        ge=0,
        description="recovery beyond the retrained model's from which on knowledge counts as hidden; of what the "
        "target has beyond it in plain answers, the share from which on they leak",
    )

    def check(self, audited: Audited) -> None:
        if not audited.request.forget:
            raise InputError(f"there are no forget rows, and {self.name} looks at the target's answers to them.")
