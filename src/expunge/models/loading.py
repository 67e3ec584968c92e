"""Loading a model and its tokenizer from a folder, a hub id, an embedded world or a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import ModelSpec
from expunge.distributed import gpu, processes
from expunge.errors import ModelError
from expunge.models.fingerprint import SOURCE_FOLDER, hub_folder, quantization_name
from expunge.models.limits import config_limit
from expunge.models.quantised import keep_differentiable, quantization_config
from expunge.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_RUN = "run:"  # the erased model of a run folder
_BLANK = 64  # a tokenizer with fewer tokens may have lost its vocabulary


@quiet()
def load_model(spec: ModelSpec | str | Path, *, role: str = "target") -> PreTrainedModel:
    """A causal language model in evaluation mode, on its device, in its precision.

    The path ``run:DIR`` is the erased model of the run folder ``DIR``. ``role`` names the
    model in errors, and ``world:NAME`` is that world's target unless the role is ``retrained``. Weights come from
    safetensors (or a pickle loaded ``weights_only``) and must be all that the architecture has; code from the model's
    repository runs only with ``trust_remote_code``.
    """
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    spec = _spec(spec)
    if spec.path.startswith(_RUN):
        from expunge.erasures.of_run import load_erased

        return load_erased(spec)
    source = resolve(spec.path, role=role)
    check_folder(source, role=role)
    device = device_of(spec.device)
    dtype = spec.dtype
    if dtype == "auto":
        on_cpu = device == "cpu" if spec.device_map is None else not torch.cuda.is_available()
        half = not on_cpu and spec.device_map != "cpu" and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if half else "float32"
    kwargs: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": spec.trust_remote_code}
    if spec.device_map is not None and processes() > 1:
        raise ModelError(
            f"model.device_map={spec.device_map} places one model on several devices, and each of the {processes()} "
            "processes has a device of its own. Leave it out, or start one process."
        )
    if spec.device_map is not None:
        kwargs["device_map"] = spec.device_map
    if spec.quantization != "none":
        _check_not_quantised(source, spec, role=role)
        kwargs["quantization_config"] = quantization_config(
            spec.quantization, kwargs["dtype"], role="model" if role == "target" else role
        )
        kwargs.setdefault("device_map", {"": device})  # layers are rounded as they are put in place
    attention = spec.attention or fastest_attention(source, spec, device, dtype)
    if attention is not None:
        kwargs["attn_implementation"] = attention
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # judged below, by name
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, **kwargs)
    except SafetensorError as error:
        raise ModelError(
            f"the weights of the {role} model {spec.path!r} are damaged: {_first(error)}. "
            "A safetensors file there is cut off or is something else; save or download it again."
        ) from error
    except UnpicklingError as error:
        raise ModelError(
            f"the weights of the {role} model {spec.path!r} are a pickle that holds more than tensors, and it was not "
            "run. Save the model as safetensors (save_pretrained) where you trust it."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the {role} model {spec.path!r} cannot be loaded{_no_folder(source)}: {_first(error)}"
        ) from error
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    # Transformers fills in random values for these and only logs it.
    random = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    random += [f"{name} is {tuple(got)}, not {tuple(wanted)}" for name, got, wanted in report["mismatched_keys"]]
    if random:
        more = f"; and {len(random) - 5} more" if len(random) > 5 else ""
        raise ModelError(
            f"the weights of the {role} model {spec.path!r} are not those of a whole {type(model).__name__} as its "
            f"config.json describes it: {'; '.join(random[:5])}{more}. Pass a folder written by save_pretrained."
        )
    folder = source if Path(source).is_dir() else hub_folder(source)
    if folder is not None:
        setattr(model, SOURCE_FOLDER, str(folder))
    if "device_map" not in kwargs:
        model = model.to(device)  # type: ignore[arg-type]
    keep_differentiable(model)
    model.eval()
    return model


def load_tokenizer(
    spec: ModelSpec | str | Path, *, role: str = "target", weights: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model. A folder without weights is refused, unless ``weights`` is False."""
    from transformers import AutoTokenizer

    spec = _spec(spec)
    source = resolve(_before_runs(spec.path), role=role)
    check_folder(source, role=role, weights=weights)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the {role} model {spec.path!r} has no tokenizer that can be loaded{_no_folder(source)}: {_first(error)} "
            "Save it into the same folder with tokenizer.save_pretrained(folder)."
        ) from error
    size = _vocabulary(source)
    if size is not None and tokenizer.vocab_size > size:
        raise ModelError(
            f"the tokenizer of the {role} model {spec.path!r} has {tokenizer.vocab_size} tokens and the model knows "
            f"{size}: they belong to different models. Save the model's own tokenizer into the folder."
        )
    if _is_blank(tokenizer):
        raise ModelError(
            f"the {role} model {spec.path!r} has no tokenizer: its files hold no vocabulary. "
            "Save it into the same folder with tokenizer.save_pretrained(folder)."
        )
    return tokenizer


def tokens_at_most(spec: ModelSpec | str | Path, wanted: int, *, role: str = "target") -> int:
    """``wanted`` tokens, or as many as the model's configuration says it takes (read without loading weights)."""
    from transformers import AutoConfig

    spec = _spec(spec)
    source = resolve(_before_runs(spec.path), role=role)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the {role} model {spec.path!r} has no config.json that can be read: {_first(error)}"
        ) from error
    limit = config_limit(config)
    return wanted if limit is None else min(wanted, limit)


def resolve(path: str, *, role: str) -> str:
    """A path or hub id that transformers understands, for what a run file names. A world's retrained model is meant by
    the role ``retrained`` alone: whoever names a world as the erased model asks about its target.

    Raises:
        ModelError: the erased model of a run, which lies in no file.
    """
    if path.startswith(_RUN):
        folder = path.removeprefix(_RUN)
        raise ModelError(
            f"the {role} model {path!r} is a target with an erasure applied to it, and here a checkpoint's own files "
            f"are needed. Write them: expunge export {folder} --to DIR"
        )
    if not path.startswith("world:"):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    from expunge.worlds.interface import get_world

    return str(get_world(path.removeprefix("world:")).model_folder("retrained" if role == "retrained" else "target"))


def _before_runs(path: str) -> str:
    """Of the erased model of a run the path of its first target, which has the same configuration and tokenizer."""
    if not path.startswith(_RUN):
        return path
    from expunge.erasures.of_run import target_path

    return target_path(path)


def check_folder(source: str, *, role: str = "target", weights: bool = True) -> None:
    """Name what is missing from a model folder, before transformers does so at length. A hub id passes. ``weights``
    says whether there must be some."""
    if not source:
        raise ModelError(f"the {role} model's path is empty. Pass a folder or a hub id (owner/name).")
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
    if weights and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        missing.append("weights (model.safetensors)")
    if missing:
        raise ModelError(
            f"the {role} model's folder {source!r} has no {' and no '.join(missing)}. "
            "Pass a folder written by save_pretrained."
        )


def fastest_attention(source: str, spec: ModelSpec, device: str, dtype: str) -> str | None:
    """flash_attention_2 where its package is there, the model knows it and runs in half precision on a GPU; None leaves
    the choice to transformers, which takes torch's SDPA where a model knows that."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.import_utils import is_flash_attn_2_available

    if not device.startswith("cuda") or dtype == "float32" or not is_flash_attn_2_available():
        return None
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=spec.trust_remote_code)
        known = AutoModelForCausalLM._model_mapping[type(config)]
    except (OSError, ValueError, KeyError):
        return None  # loading the model says what is wrong, or its class is its own
    return "flash_attention_2" if getattr(known, "_supports_flash_attn", False) else None


def _check_not_quantised(source: str, spec: ModelSpec, *, role: str) -> None:
    """transformers would go on with the checkpoint's own quantisation and say nothing."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, KeyError):
        return  # loading the model says what is wrong
    own = quantization_name(getattr(config, "quantization_config", None))
    if own is not None:
        raise ModelError(
            f"the {role} model {spec.path!r} is stored quantised ({own}), so it cannot be quantised to "
            f"{spec.quantization}. Leave quantization out, or pass the checkpoint in full precision."
        )


def _is_blank(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Without files some tokenizer classes give an instance that knows its special tokens alone, and no error."""
    if len(tokenizer) > _BLANK:
        return False
    return set(tokenizer("a 1", add_special_tokens=False)["input_ids"]) <= set(tokenizer.all_special_ids)


def _vocabulary(source: str) -> int | None:
    """The number of tokens that a folder's configuration names, if it does."""
    path = Path(source) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def _no_folder(source: str) -> str:
    return "" if Path(source).is_dir() else " (there is no such folder, so it was taken for a hub id)"


def _may_be_hub_id(source: str) -> bool:
    owner, _, name = source.rpartition("/")
    return (
        bool(name) and "/" not in owner and not source.startswith((".", "/", "~")) and not Path(owner or "-").is_dir()
    )


def _spec(spec: ModelSpec | str | Path) -> ModelSpec:
    return spec if isinstance(spec, ModelSpec) else ModelSpec(path=str(spec))  # type: ignore[call-arg]


def device_of(name: str) -> str:
    """The device of torch that ``model.device`` names; of several processes each has its own."""
    import torch

    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(f"model.device={name}: this machine has no CUDA GPU that torch can see. Use cpu or auto.")
        if name.startswith("cuda") and processes() > 1:
            if name != "cuda":
                raise ModelError(
                    f"model.device={name}: each of the {processes()} processes has a GPU of its own. Use auto or cuda."
                )
            return gpu()
        try:
            return str(torch.device(name))
        except RuntimeError as error:
            raise ModelError(f"model.device={name!r} is no device of torch. Use cpu, cuda, cuda:1 or auto.") from error
    return gpu() if torch.cuda.is_available() else "cpu"


def _first(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text if len(text) < 600 else text[:600] + " .."
