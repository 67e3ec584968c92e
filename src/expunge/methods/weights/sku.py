"""SKU: train a copy of the target toward the harm, then subtract what it learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.errors import ConfigError, TrainingError
from expunge.methods.interface import Erasure, Paper, method_fields
from expunge.methods.weight_method import NO_SIDE, SideName, Sides, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.erasures.adapter import Adapter
    from expunge.erasures.weight_change import WeightChange
    from expunge.requests import Request, Row
    from expunge.training.alternatives import Context
    from expunge.training.run import Run
    from expunge.training.step import Step


def distortion_loss(logps: Tensor, e1: float) -> Tensor:
    """Guided distortion: e1 nll per token of the harmful answers, so that the copy learns the harm.

    Args:
        logps: [N] log-probabilities of the harmful answers' tokens.
        e1: weight.

    Returns:
        [N] one loss a token, at least 0.

    Source: Liu et al. 2024, arXiv 2402.10058.
    """
    return -e1 * logps


def disassociation_loss(logps: Tensor, e2: float) -> Tensor:
    """Random disassociation: e2 nll per token of other prompts' harmful answers.

    Args:
        logps: [N] log-probabilities of the tokens of all K random answers of each prompt; their mean over tokens is the
            mean over the K answers with one vote a token.
        e2: weight.

    Returns:
        [N] one loss a token, at least 0.

    Source: Liu et al. 2024, arXiv 2402.10058.
    """
    return -e2 * logps


def divergence_loss(kl: Tensor, e3: float, cap: float) -> Tensor:
    """Preservation divergence: -e3 min(KL(p_ref || p_theta), cap) per token of normal answers.

    The copy is pushed away from the target on normal text, so that subtracting it restores that text. The paper's term
    is unbounded below; here a token whose KL has passed ``cap`` has no gradient any more.

    Args:
        kl: [N] KL at each token, in nats.
        e3: weight.
        cap: where the push ends, in nats.

    Returns:
        [N] one loss a token, between -e3 cap and 0.

    Source: Liu et al. 2024, arXiv 2402.10058.
    """
    return -e3 * kl.clamp(max=cap)


@method_fields
class SKU(WeightMethod):
    """Stage 1 trains a harmful copy on the forget rows; stage 2 subtracts its weights or turns its adapter's sign."""

    name: ClassVar[str] = "sku"
    paper: ClassVar[Paper] = Paper("Towards Safer Large Language Models through Machine Unlearning", "arXiv 2402.10058")

    e1: float = Field(default=2.5, ge=0, description="weight of the nll of the harmful answers")
    e2: float = Field(default=2.5, ge=0, description="weight of the nll of other prompts' harmful answers")
    e3: float = Field(default=1.0, ge=0, description="weight of the divergence from the target on retain answers")
    answers: int = Field(default=5, ge=1, description="random harmful answers a prompt, drawn once")
    divergence_cap: float = Field(default=5.0, gt=0, description="KL in nats beyond which a retain token is not pushed")
    scale: float = Field(default=1.0, gt=0, description="how many times the harmful copy's change is subtracted")
    stage: Literal["both", "harmful"] = Field(
        default="both", description="harmful: return the harmful copy itself, to be negated later"
    )

    def __post_init__(self) -> None:
        if self.e1 == self.e2 == 0:
            raise ConfigError("sku: e1 and e2 are both 0, so the copy learns no harm. Set at least one above 0.")
        if self.stage == "harmful" and self.scale != 1:
            raise ConfigError(
                f"sku: method.scale={self.scale:g} is not used with method.stage=harmful, which subtracts nothing. "
                "Leave it out (over a preset: method.scale=1) and pass it to expunge negate --scale."
            )

    @property
    def uses_retain(self) -> bool:
        return self.e3 > 0

    @property
    def reference_logits(self) -> Sides:
        return frozenset({"retain"}) if self.e3 > 0 else NO_SIDE

    def sides(self, epoch: int) -> Sides:  # noqa: ARG002
        weights: dict[SideName, float] = {"forget": self.e1, "alternative": self.e2, "retain": self.e3}
        return frozenset(side for side, weight in weights.items() if weight > 0)

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:  # noqa: ARG002
        from expunge.training.alternatives import other_answers

        if self.e2 > 0:
            other_answers(forget, seed=0, count=self.answers)

    def alternatives(self, forget: Sequence[Row], retain: Sequence[Row], *, context: Context) -> list[tuple[Row, ...]]:  # noqa: ARG002
        from expunge.training.alternatives import other_answers

        if self.e2 == 0:
            return [()] * len(forget)
        return other_answers(forget, seed=context.settings.seed, count=self.answers)

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.e1 > 0:
            terms["forget_loss"] = step.forget.mean_over_tokens(distortion_loss(step.forget.logps, self.e1))
        if self.e2 > 0:
            values = disassociation_loss(step.alternative.logps, self.e2)
            terms["random_loss"] = step.alternative.mean_over_tokens(values)
        if self.e3 > 0:
            values = divergence_loss(step.retain.kl(), self.e3, self.divergence_cap)
            terms["divergence_loss"] = step.retain.mean_over_tokens(values)
        return terms

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> Erasure:
        from expunge.erasures.adapter import Adapter
        from expunge.erasures.purpose import declare_harmful_copy
        from expunge.training.fit import fit_weights

        harmful = fit_weights(self, model, tokenizer, forget=request.forget, retain=request.retain, run=run)
        if self.stage == "harmful":
            declare_harmful_copy(harmful)
            return harmful
        if isinstance(harmful, Adapter):
            return turn_adapter(harmful, self.scale)
        return subtract_change(harmful, model, self.scale)


def turn_adapter(harmful: Adapter, scale: float) -> Adapter:
    """The adapter that adds -``scale`` times what ``harmful`` adds: its second matrices times -``scale``."""
    from expunge.erasures.adapter import Adapter

    tensors = {
        name: (-scale * value.float()).to(value.dtype) if "lora_B" in name else value
        for name, value in harmful.tensors.items()
    }
    return Adapter(harmful.manifest, tensors, harmful.config, harmful.tokenizer)


def subtract_change(harmful: WeightChange, model: PreTrainedModel, scale: float) -> WeightChange:
    """theta - scale (theta_harm - theta), where ``model`` is the target theta and ``harmful`` its harmful copy.

    Worked out in float32 and rounded once to the target's precision; ``details`` of the harmful copy are kept as
    ``harmful``.

    Raises:
        TrainingError: rounding to the target's precision leaves nothing of the change, or infinities.

    Source: Liu et al. 2024, arXiv 2402.10058 (scale 1), after Ilharco et al. 2022, arXiv 2212.04089.
    """
    from expunge.erasures.weight_change import WeightChange, changed_tensors
    from expunge.training.task_vectors import negated, task_vector

    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().cpu() for name in harmful.tensors}
    try:
        after = {
            name: negated(before[name], task_vector(value, before[name]), scale)
            for name, value in harmful.tensors.items()
        }
    except FloatingPointError as error:
        raise TrainingError(
            f"sku: subtracting {scale:g} times the harmful copy's change gives values that are not finite in "
            f"{harmful.manifest.target.dtype}. Lower method.scale or training.learning_rate."
        ) from error
    tensors, details = changed_tensors(before, after)
    if not tensors:
        raise TrainingError(
            f"sku: {scale:g} times the harmful copy's change is lost in rounding to {harmful.manifest.target.dtype}. "
            "Raise method.scale or training.learning_rate, or load the target with model.dtype=float32."
        )
    kept = {name: harmful.details[name] for name in ("tensors_trained", "elements_trained")}
    manifest = harmful.manifest.model_copy(update={"details": {**details, **kept, "harmful": harmful.details}})
    return WeightChange(manifest, tensors, harmful.tokenizer)
