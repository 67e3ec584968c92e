"""Training settings: the one place of their defaults. Importing this loads no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingSettings(BaseModel):
    """How any weight-changing method is trained; a method's own hyperparameters are fields of the method."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optimizer: str = Field("adamw_torch_fused", description="an optimizer name that transformers' Trainer knows")
    learning_rate: float | None = Field(
        None, gt=0, validate_default=True, description="1e-5, for LoRA 1e-4, unless given"
    )
    weight_decay: float = Field(0.01, ge=0)
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    max_grad_norm: float = Field(1.0, ge=0, description="gradient norm to clip at; 0 for none")
    epochs: float = Field(5.0, gt=0, description="passes over the forget rows")
    max_steps: int | None = Field(None, gt=0, description="stop after so many optimizer steps, whatever the epochs")
    forget_batch: int = Field(8, gt=0, description="forget rows in one forward")
    retain_batch: int = Field(8, gt=0, description="retain rows in one forward")
    accumulation: int = Field(4, gt=0, description="forwards per optimizer step")
    max_length: int = Field(512, gt=1, description="tokens of a row; more are cut off its answer")
    max_new_tokens: int = Field(200, gt=0, description="tokens generated in evaluation")
    dtype: Literal["auto", "bfloat16", "float32"] = Field("auto", description="bfloat16 on a GPU, float32 on CPU")
    seed: int = Field(0, ge=0)
    parameters: Literal["full", "lora"] = Field("full", description="train the weights or a LoRA adapter")
    layers: tuple[str, ...] = Field((), description="train only parameters whose name matches one of these patterns")
    lora_rank: int = Field(8, gt=0)
    lora_alpha: float = Field(16.0, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    gradient_checkpointing: bool = False
    packing: bool = Field(
        False, description="rows end to end without padding (models that keep them apart by position)"
    )
    sharding: Literal["none", "full"] = Field(
        "none", description="full: several processes hold a part each of weights, gradients and optimizer state (FSDP2)"
    )
    compile: bool = Field(False, description="torch.compile each decoder layer; worth its start on long runs")
    reference: Literal["cached", "adapter", "resident"] = Field(
        "cached", description="the frozen target: computed once, the model with its adapter off, or a second model"
    )
    reference_cache: str | None = Field(
        None,
        description="folder that keeps what the frozen target said (reference=cached) and altpo's answers for other "
        "runs on it; forgotten unless given",
    )
    checkpoint_every: int | None = Field(
        None, gt=0, description="optimizer steps between checkpoints to resume from; once an epoch unless given"
    )
    score_every_steps: int | None = Field(None, gt=0, description="score a sample of rows every so many steps")
    score_every_epochs: float | None = Field(None, gt=0, description="score a sample of rows every so many epochs")
    score_rows: int = Field(40, gt=0, description="rows of each set in those scores")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("learning_rate") is None:
            rate = 1e-4 if values.get("parameters") == "lora" else 1e-5
            values = {**values, "learning_rate": rate}
        if isinstance(values, dict) and isinstance(values.get("layers"), str):
            values = {**values, "layers": (values["layers"],)}
        return values

    @model_validator(mode="after")
    def _one_score_rhythm(self) -> TrainingSettings:
        if self.score_every_steps and self.score_every_epochs:
            raise ValueError("give score_every_steps or score_every_epochs, not both")
        return self

    @property
    def rate(self) -> float:
        """The learning rate as a number."""
        return float(self.learning_rate or 0.0)
