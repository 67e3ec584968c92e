"""Loading a model and its tokenizer from a folder, a hub id or an embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import ModelSpec
from expunge.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def load_model(spec: ModelSpec | str | Path, *, role: str = "target") -> PreTrainedModel:
    """A causal language model in evaluation mode, on its device, in its precision.

    ``role`` is ``target`` or ``retrained``; it decides which of a world's two models ``world:NAME`` means and names the
    model in errors. Weights come from safetensors (or a pickle loaded ``weights_only``); code from the model's repository
    runs only with ``trust_remote_code``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    spec = _spec(spec)
    source = resolve(spec.path, role=role)
    check_folder(source, role=role)
    device = _device(spec.device)
    dtype = spec.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" and spec.device_map is None else "bfloat16"
    kwargs: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": spec.trust_remote_code}
    if spec.device_map is not None:
        kwargs["device_map"] = spec.device_map
    if spec.attention is not None:
        kwargs["attn_implementation"] = spec.attention
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(f"the {role} model {spec.path!r} cannot be loaded: {_first(error)}") from error
    if spec.device_map is None:
        model = model.to(device)  # type: ignore[arg-type]
    return model.eval()


def load_tokenizer(spec: ModelSpec | str | Path, *, role: str = "target") -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model."""
    from transformers import AutoTokenizer

    spec = _spec(spec)
    source = resolve(spec.path, role=role)
    check_folder(source, role=role)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(
            f"the {role} model {spec.path!r} has no tokenizer that can be loaded: {_first(error)} "
            "Save it into the same folder with tokenizer.save_pretrained(folder)."
        ) from error
    return tokenizer


def resolve(path: str, *, role: str) -> str:
    """A path or hub id that transformers understands, for what a run file names."""
    if not path.startswith("world:"):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    from expunge.worlds.interface import get_world

    world = get_world(path.removeprefix("world:"))
    return str(world.target_folder if role == "target" else world.retrained_folder)


def check_folder(source: str, *, role: str = "target") -> None:
    """Name what is missing from a model folder, before transformers does so at length. A hub id passes."""
    folder = Path(source)
    if folder.is_file():
        raise ModelError(f"the {role} model {source!r} is a file. Pass the folder that holds config.json.")
    if not folder.is_dir():
        if _may_be_hub_id(source):
            return
        raise ModelError(f"there is no folder {source!r} for the {role} model. Pass a folder or a hub id (owner/name).")
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        missing.append("weights (model.safetensors)")
    if missing:
        raise ModelError(
            f"the {role} model's folder {source!r} has no {' and no '.join(missing)}. "
            "Pass a folder written by save_pretrained."
        )


def _may_be_hub_id(source: str) -> bool:
    owner, _, name = source.rpartition("/")
    return (
        bool(name) and "/" not in owner and not source.startswith((".", "/", "~")) and not Path(owner or "-").is_dir()
    )


def _spec(spec: ModelSpec | str | Path) -> ModelSpec:
    return spec if isinstance(spec, ModelSpec) else ModelSpec(path=str(spec))  # type: ignore[call-arg]


def _device(name: str) -> str:
    import torch

    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(f"model.device={name}: this machine has no CUDA GPU that torch can see. Use cpu or auto.")
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _first(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text if len(text) < 600 else text[:600] + " .."
