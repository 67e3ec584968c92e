"""Do weights of fewer bits bring the forgotten answers back?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.audits.interface import Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.treating import TreatingAudit
from expunge.errors import ConfigError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from expunge.audits.parts.rounding import Rounded, Undone

    Rounders = dict["Scheme", tuple[str, Callable[[Tensor], Rounded]]]

Scheme = Literal["int8", "int4", "nf4"]
_WORDS = {"int8": "8-bit weights", "int4": "4-bit weights", "nf4": "4-bit NormalFloat weights"}


@method_fields
class Quantization(TreatingAudit):
    """The layers' matrices in 8 and 4 bits: do the forgotten answers come back?"""

    name: ClassVar[str] = "quantization"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper("Catastrophic Failure of LLM Unlearning via Quantization", "arXiv:2410.16454")
    control: ClassVar[str] = "the retrained model in the same bits"
    order: ClassVar[int] = 14

    schemes: tuple[Scheme, ...] = Field(
        default=("int8", "int4"), min_length=1, description="int8 and int4 round to nearest; nf4 needs bitsandbytes"
    )
    group: int = Field(default=64, ge=2, description="weights that share a scale in 4 bits")
    through: Literal["auto", "own", "torchao"] = Field(
        default="auto",
        description="whose int8 and int4; auto: torchao where it is installed and takes all matrices, else our own",
    )

    def check_options(self) -> None:
        named: dict[Scheme, Any] = {
            name: "bitsandbytes" if name == "nf4" else self.through
            for name in self.schemes
            if name == "nf4" or self.through != "auto"
        }
        if named:
            self._through(named)  # which refuses packages that are not there

    def check(self, audited: Audited) -> None:
        super().check(audited)
        self._rounders(audited)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import Level

        self.check(audited)
        rounders, why_own = self._rounders(audited)
        undone = {} if audited.at_inference else self._undone(audited, rounders)
        return self.after(
            audited,
            {Level(name, name, f"With {_WORDS[name]}"): [_all_rounded(one)] for name, (_, one) in rounders.items()},
            untouched=Level("as they are", "", "With the weights as they are"),
            title="Weights in fewer bits",
            axis="weights",
            never=f"with {' or '.join(_WORDS[name] for name in rounders)}",
            progress=progress,
            more=_rounded_back(undone),
            details={
                "through": {name: through for name, (through, _) in rounders.items()},
                **({"not_through_torchao": why_own} if why_own else {}),
                "group": self.group,
                "of_changed_weights": {name: one.as_dict() for name, one in undone.items()},
            },
        )

    def _rounders(self, audited: Audited) -> tuple[Rounders, str]:
        """How each scheme is rounded, and why torchao was not asked where ``auto`` would have asked it.

        Raises:
            ConfigError: a package that was named is missing, or takes not all of the matrices.
        """
        from expunge.audits.parts.rounding import refused, usual_backend

        auto = self.through == "auto"
        schemes = list(dict.fromkeys(self.schemes))
        chosen: dict[Scheme, Any] = {
            name: usual_backend(name) if auto or name == "nf4" else self.through for name in schemes
        }
        found = self._through(chosen)
        sizes = _sizes(audited)
        reasons = {name: reason for name in schemes if (reason := refused(found[name][1], sizes))}
        by_torchao = [reason for name, reason in reasons.items() if chosen[name] == "torchao"]
        if reasons and (not auto or len(by_torchao) < len(reasons)):
            raise ConfigError("\n".join(dict.fromkeys(reasons.values())))
        if by_torchao:  # our own for the whole audit: one arithmetic for all schemes
            own: dict[Scheme, Any] = {name: "own" if one == "torchao" else one for name, one in chosen.items()}
            return self._through(own), by_torchao[0]
        return found, ""

    def _through(self, chosen: dict[Scheme, Any]) -> Rounders:
        from expunge.audits.parts.rounding import rounder

        return {name: (through, rounder(name, self.group, through)) for name, through in chosen.items()}

    def _undone(self, audited: Audited, rounders: Rounders) -> dict[Scheme, Undone]:
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


def _sizes(audited: Audited) -> set[tuple[int, torch.dtype, torch.device]]:
    """Inputs, precision and device of every matrix of every model."""
    from expunge.audits.parts.plain_weights import inputs_first, matrices

    return {
        (one.shape[-2 if inputs_first(model, name) else -1], one.dtype, one.device)
        for model in (audited.target, audited.erased, audited.retrained)
        if model is not None
        for name, one in matrices(model).items()
    }


def _rounded_back(undone: dict[Scheme, Undone]) -> str:
    """The share of changed weights that rounding takes back, in a sentence."""
    parts = []
    for name, one in undone.items():
        facts = one.as_dict()
        by_value, by_code = facts["share_of_same_value"], facts["share_of_same_code"]
        if by_value is not None:
            code = "" if by_code is None else f" ({100 * by_code:.0f}% its code)"
            parts.append(f"{100 * by_value:.0f}% have the target's rounded value in {name}{code}")
    return f"Of the weights that erasing changed, {', '.join(parts)}." if parts else ""
