"""Do weights of fewer bits bring the forgotten answers back?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.attack import answer_room, asked_rows
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from expunge.audits.parts.rounding import Rounded, Undone

Scheme = Literal["int8", "int4", "nf4"]
_WORDS = {"int8": "8-bit weights", "int4": "4-bit weights", "nf4": "4-bit NormalFloat weights"}


@method_fields
class Quantization(Audit):
    """The layers' matrices in 8 and 4 bits: do the forgotten answers come back?"""

    name: ClassVar[str] = "quantization"
    paper: ClassVar[Paper] = Paper("Catastrophic Failure of LLM Unlearning via Quantization", "arXiv:2410.16454")
    needs_retrained: ClassVar[bool] = True
    control: ClassVar[str] = "the retrained model in the same bits"
    order: ClassVar[int] = 20

    schemes: tuple[Scheme, ...] = Field(
        default=("int8", "int4"), min_length=1, description="int8 and int4 round to nearest; nf4 needs bitsandbytes"
    )
    group: int = Field(default=64, ge=2, description="weights that share a scale in 4 bits")
    through: Literal["auto", "own", "torchao"] = Field(
        default="auto", description="whose int8 and int4; auto: torchao where it is installed, else our own"
    )
    limit: int = Field(default=20, gt=0, description="forget rows that are asked, evenly spread")
    retain_rows: int = Field(default=40, ge=0, description="retain rows that tell a ruined model, evenly spread")

    def check(self, audited: Audited) -> None:
        from expunge.audits.parts.plain_weights import matrices

        asked_rows(audited, self.limit)
        self._rounders()
        for model in (audited.target, audited.erased, audited.retrained):
            if model is not None:
                matrices(model)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import Course, Level, coming_back_result
        from expunge.audits.parts.treated import treated

        self.check(audited)
        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        rounders = self._rounders()
        levels = {Level(name, name, f"With {_WORDS[name]}"): [_all_rounded(one)] for name, (_, one) in rounders.items()}
        seen = treated(audited, rows, levels, utility=self.retain_rows, progress=progress)
        undone = {} if audited.at_inference else self._undone(audited, rounders)
        course = Course(
            "",
            "Weights in fewer bits",
            "weights",
            [Level("as they are", "", "With the weights as they are"), *levels],
            seen,
            f"with {' or '.join(_WORDS[name] for name in rounders)}",
            tuple(rounders),
        )
        return coming_back_result(
            self.name,
            self.version,
            audited,
            rows,
            [course],
            details={
                "through": {name: through for name, (through, _) in rounders.items()},
                "group": self.group,
                "of_changed_weights": {name: one.as_dict() for name, one in undone.items()},
            },
            more=_rounded_back(undone),
        )

    def _rounders(self) -> dict[Scheme, tuple[str, Callable[[Tensor], Rounded]]]:
        from expunge.audits.parts.rounding import rounder, usual_backend

        found: dict[Scheme, tuple[str, Callable[[Tensor], Rounded]]] = {}
        for name in dict.fromkeys(self.schemes):
            through: Any = usual_backend(name) if self.through == "auto" or name == "nf4" else self.through
            found[name] = (through, rounder(name, self.group, through))
        return found

    def _undone(
        self, audited: Audited, rounders: dict[Scheme, tuple[str, Callable[[Tensor], Rounded]]]
    ) -> dict[Scheme, Undone]:
        """What rounding makes of the weights that the erasure changed."""
        from expunge.audits.parts.plain_weights import inputs_first, matrices, with_plain_weights
        from expunge.audits.parts.rounding import Undone

        with audited.model("target") as model:
            shared = audited.erasure is None
            target = {name: one.detach() if shared else one.detach().clone() for name, one in matrices(model).items()}
        found = {name: Undone() for name in rounders}
        with with_plain_weights(audited, "erased") as model:
            for name, parameter in matrices(model).items():
                if name not in target or target[name].shape != parameter.shape:
                    return {}  # another architecture
                turn = inputs_first(model, name)
                ours, theirs = (one.detach().mT if turn else one.detach() for one in (parameter, target[name]))
                for scheme, (_, rounded) in rounders.items():
                    found[scheme].add(ours, theirs, rounded)
        return found


def _all_rounded(rounded: Callable[[Tensor], Rounded]) -> Callable[[PreTrainedModel], dict[str, Tensor]]:
    def treatment(model: PreTrainedModel) -> dict[str, Tensor]:
        from expunge.audits.parts.plain_weights import inputs_first, matrices

        return {
            name: rounded(one.detach().mT).values.mT.contiguous() if inputs_first(model, name) else rounded(one).values
            for name, one in matrices(model).items()
        }

    return treatment


def _rounded_back(undone: dict[Scheme, Undone]) -> str:
    """The share of changed weights that rounding takes back, in a sentence."""
    parts = []
    for name, one in undone.items():
        facts = one.as_dict()
        by_code = facts["share_of_same_code"]
        share = facts["share_of_same_value"] if by_code is None else by_code
        if share is not None:
            parts.append(f"{100 * share:.0f}% have the target's {'value' if by_code is None else 'code'} in {name}")
    return f"Of the weights that erasing changed, {', '.join(parts)}." if parts else ""
