"""An erasure that is a LoRA adapter: small matrices beside the target's layers, whose own weights stay untouched."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors.torch import load_file

from expunge.erasures.manifest import Manifest, check_target, save_erasure, save_tensors
from expunge.erasures.weight_change import fingerprint_like
from expunge.errors import ErasureError
from expunge.files import write_json
from expunge.methods.interface import Erasure, Kind
from expunge.models.fingerprint import memory_digest
from expunge.models.quantised import check_same_quantization
from expunge.models.state import marked, preserved

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_TENSORS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Adapter(Erasure):
    """LoRA matrices by PEFT's names, with PEFT's own configuration, so that PEFT can load the folder too."""

    kind: ClassVar[Kind] = "weights"

    def __init__(
        self,
        manifest: Manifest,
        tensors: dict[str, torch.Tensor],
        config: dict[str, Any],
        tokenizer: Any = None,
    ) -> None:
        self.manifest, self.tensors, self.config, self.tokenizer = manifest, tensors, config, tokenizer

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Self:
        import json

        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        return cls(manifest, load_file(folder / _TENSORS), config)

    def save(self, folder: str | Path) -> None:
        def write(to: Path) -> None:
            save_tensors(self.tensors, to / _TENSORS)
            write_json(to / _CONFIG, self.config)

        self.manifest = save_erasure(folder, self.manifest, write)

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[PreTrainedModel]:
        with self.attached(model) as adapted:
            for parameter in adapted.parameters():
                parameter.requires_grad_(False)
            with marked(model, self.kind):
                yield model

    @contextmanager
    def attached(self, model: PreTrainedModel) -> Iterator[PeftModel]:
        """The PEFT model around ``model``, for merging; lifted on exit like ``applied``."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        if carries_adapter(model):
            raise ErasureError(
                "the model already carries an adapter, and two would be mixed up. Leave the context that applied the "
                "first one, or export it merged and fit the second one on that."
            )
        found = fingerprint_like(model, self.manifest, self.tokenizer)
        check_target(self.manifest, found)
        check_same_quantization(self.manifest.target, found)
        self._check_values(model)
        with with_lora(model, lora_config(self.config)) as adapted:
            places = get_peft_model_state_dict(adapted).keys()
            strays, gaps = sorted(self.tensors.keys() - places), sorted(places - self.tensors.keys())
            if strays or gaps:
                raise ErasureError(
                    f"this adapter does not fit the model: {len(strays)} of its tensors have no place in it and "
                    f"{len(gaps)} are missing ({', '.join([*strays, *gaps][:5])})."
                )
            set_peft_model_state_dict(adapted, self.tensors)
            adapted.train(model.training)
            yield adapted

    def _check_values(self, model: PreTrainedModel) -> None:
        modules: list[str] = self.config["target_modules"]
        names = {name for name, _ in model.named_modules()}
        missing = [name for name in modules if name not in names]
        if missing:
            raise ErasureError(f"this adapter does not fit the model: it has no {', '.join(missing[:5])}.")
        found = fingerprint_like(model, self.manifest)
        same = (found.dtype, found.quantization) == (self.manifest.target.dtype, self.manifest.target.quantization)
        if same and base_digest(model, modules) != self.manifest.details["base_sha256"]:
            raise ErasureError(
                "this adapter was made for other weights: the values of the layers it sits on differ (another model of "
                "the same shape, or one that was changed after loading). Apply it to the model it was made for, "
                "freshly loaded."
            )


def base_digest(model: PreTrainedModel, modules: Sequence[str]) -> str:
    """Digest of the weights that an adapter on ``modules`` adds to, in the precision they are held in."""
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in modules}
    return memory_digest(weights)


def carries_adapter(model: PreTrainedModel) -> bool:
    """Whether a PEFT adapter sits in ``model``, ours or anyone's."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


@contextmanager
def with_lora(model: PreTrainedModel, config: LoraConfig) -> Iterator[PeftModel]:
    """``model`` inside a PEFT model with fresh adapters on the modules that ``config`` names, no others; on exit every
    module is the one that was there before."""
    from peft import get_peft_model

    with preserved(model):
        with _names_as_they_are(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # names of transformers that PEFT still uses
            adapted = get_peft_model(model, config)  # type: ignore[arg-type]
        yield adapted  # type: ignore[misc]


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Inside, PEFT does not take module names for those of transformers 4: in families whose experts were fused since
    then it would move adapters from dense and shared MLPs, whose names look alike, to the routed experts."""
    try:
        from peft.utils import transformers_weight_conversion as conversion
    except ImportError:  # PEFT before 0.19 converts nothing
        yield
        return
    kept = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = kept


def lora_config(values: dict[str, Any]) -> LoraConfig:
    """A LoRA configuration from its stored values."""
    from peft import LoraConfig

    return LoraConfig(**values)
