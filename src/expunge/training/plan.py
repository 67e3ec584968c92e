"""How much memory and time a training run will take, from sizes alone. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from expunge.training.optimizers import state_size
from expunge.training.settings import TrainingSettings
from expunge.training.smaller import Change, Peaks, Variant, combination, tried

WIDE, HALF = 4, 2  # bytes of a float32 and of a 16-bit number
EFFICIENCY = {"cpu": 0.65, "cuda": 0.4}
"""Share of the machine's measured matrix-product rate that training reaches."""
_LOGIT_COPIES = 4  # logits, their logarithms, the gradient, and one more while one becomes the other
_PAIRED_COPIES = 8  # the same where the frozen target's logits stand beside them
_QUANTISED = {"none": 0.0, "int8": 1.01, "nf4": 0.52}  # bytes of a value with its share of the scales
_LARGE_BLOCK = 2**25  # larger ones go back to the system at once (glibc)
_UNRETURNED = {"full": 0.35, "lora": 0.8}  # of the activations; measured on CPUs, LoRA has more temporary tensors
_GENERATION_SHARE = 0.45
_SHARE = 0.95  # of the free memory; the rest is the allocator's

Quantization = Literal["none", "int8", "nf4"]


@dataclass(frozen=True)
class Shape:
    """A model as counts of numbers. Tied weights count once.

    ``trained`` are the numbers that training moves (of a LoRA adapter: its own), ``trained_embedding`` those of them in
    embeddings; ``linear`` the numbers in linear layers other than the head, which quantisation rounds; ``products``
    those that each token is multiplied with in the body (of experts, the chosen ones); ``head`` the output head's.
    ``deepest`` is the lowest layer, from 0, through which gradients flow. ``attention`` is heads times head size;
    ``mlp`` what an MLP keeps of a token for its gradient; ``outside`` the numbers outside the decoder layers;
    ``adapted`` the summed input widths of adapted layers.
    """

    parameters: int
    trained: int
    trained_embedding: int
    linear: int
    products: int
    head: int
    trains_head: bool
    layers: int
    deepest: int
    hidden: int
    attention: int
    key_value: int
    mlp: int
    vocabulary: int
    outside: int = 0
    adapted: int = 0


@dataclass(frozen=True)
class Work:
    """What a run's forwards come to. Tokens of a forward are counted with their padding.

    ``rows``, ``tokens`` and ``answer_tokens`` are of each side's rows, each counted once; ``longest`` the tokens of the
    longest row; ``step_forwards`` the most forwards of one optimizer step.
    ``forward_tokens`` and ``forward_squares`` (rows times squared width) are sums over all forwards,
    ``most_*`` those of the largest. ``reference_tokens`` are of the rows that the frozen target is asked about once,
    ``reference_states`` the tokens whose states are kept. ``generation`` are the bytes of keys, values and logits of a
    batch of greedy answers.
    """

    rows: Mapping[str, int]
    tokens: Mapping[str, int]
    answer_tokens: Mapping[str, int]
    longest: int
    steps: int
    forwards: int
    step_forwards: int
    forward_tokens: int
    forward_squares: int
    forward_answers: int
    most_tokens: int
    most_squares: int
    most_answers: int
    reference_tokens: int = 0
    reference_states: int = 0
    reference_answers: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Machine:
    """Where a run takes place: ``memory`` and ``host`` are free bytes (the same on a CPU); ``program`` what the process
    takes before a model is loaded; ``flops`` its measured rate of matrix products a second; ``logit_bytes`` the logits
    that the loop holds at a time; ``processes`` how many share a sharded run."""

    device: str
    memory: int
    host: int
    program: int
    flops: float
    autocast: bool
    logit_bytes: int
    processes: int = 1


@dataclass(frozen=True)
class Model:
    """How a run loads its models: bytes of a number, quantisation, and whether a retrained control is loaded too."""

    number: int
    quantization: Quantization = "none"
    control: bool = False


class Sizes(Protocol):
    """Shape and work of a run as functions of its settings, so that changed settings can be tried."""

    def shape(self, settings: TrainingSettings) -> Shape: ...

    def work(self, settings: TrainingSettings) -> Work: ...

    def last_layers(self) -> tuple[str, ...]:
        """Patterns of the last quarter of the decoder layers."""
        ...


@dataclass(frozen=True)
class Part:
    """One row of the estimate: ``bytes`` on the device, ``host`` in the host's memory beside a GPU."""

    name: str
    bytes: int
    host: int = 0
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The estimate of one run. All sizes are bytes, times seconds for one seed without evaluation.

    ``parts`` add up to what training takes; ``stages`` are the totals of training, of taking out what changed, and of
    evaluation; ``peak`` is the largest. ``host_*`` is the host's memory beside a GPU (0 on a CPU). Where it does not
    fit, ``changes`` are what would lower the peak, each by itself, most first; where none is enough alone, ``together``
    is a combination of them.
    """

    method: str
    model: str
    shape: Shape
    work: Work
    device: str
    parts: tuple[Part, ...]
    stages: Mapping[str, int]
    peak: int
    memory: int
    host_peak: int
    host_memory: int
    fits: bool
    changes: tuple[Change, ...]
    seconds: float
    reference_seconds: float
    flops: float
    rate: float
    together: Change | None = None
    seeds: int = 1
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def estimate(
    settings: TrainingSettings, model: Model, sizes: Sizes, machine: Machine, *, method: str = "", name: str = ""
) -> Plan:
    """The plan of a run with these settings, and where it does not fit, what would make it smaller.

    Memory, in bytes, with P parameters of which T are trained, b bytes a number as loaded, and per forward N tokens:

    - parameters: b P. Full training works on float32 copies of what it trains, 4 T beside the originals, which on a GPU
      wait in host memory; without autocast 16-bit frozen parameters are widened as well. LoRA adds 4 T. Under bfloat16
      autocast the float32 weights of linear layers are held once more, in 2 bytes.
      With ``training.sharding=full`` these, gradients and optimizer state are divided by the number of processes, but
      for one layer and what is outside the layers.
    - gradients: 4 T. With one forward a step they take the place of activations as these are used up.
    - optimizer: T times :func:`~expunge.training.optimizers.state_size`.
    - activations: N tokens times, for every layer that gradients flow through, 6 H + 4 A + M numbers: two norms (input,
      normalised, output), queries, keys, values and attention's result of A = heads x head size, and the MLP's M (4 I
      with a gate: gate, its activation, the other half, their product; else 2 I). Numbers are 4 bytes, or 2 under
      autocast but for norms, which are kept in both. Attention is fused, so no square of the length but its mask.
      With gradient checkpointing: H for each layer, and one layer whole.
    - allocator, on a CPU: blocks under 32 MB that the C library holds on to, 0.35 (LoRA: 0.8) of the activations as
      they would be without checkpointing (measured, not derived).
    - logits: 4 times the float32 logits held at a time, 8 times beside the frozen target's, and the gradient of a
      trained head.
    - reference: nothing for sequence log-probabilities; for whole distributions 4 H for each answer token in host
      memory and a frozen copy of a trained head; ``training.reference=resident`` a second model.

    Time is floating-point operations over the machine's measured rate times :data:`EFFICIENCY`: for each token twice
    the numbers it is multiplied with forward, twice again for the gradient of inputs, and of what is trained.
    """
    parts, stages, host = _memory(settings, model, sizes, machine)
    peak, host_peak = max(stages.values()), max(host.values())
    fits = all(_fits(peak, host_peak, machine))
    run, peaks = Variant((), settings, model, machine), lambda one: _peaks(one, sizes)
    changes = () if fits else tuple(change for _, change in tried(run, sizes, peaks))
    enough = fits or any(change.fits for change in changes)
    flops, reference_flops = _operations(settings, sizes.shape(settings), sizes.work(settings))
    rate = machine.flops * EFFICIENCY.get(machine.device.split(":")[0], EFFICIENCY["cuda"])
    return Plan(
        method=method,
        model=name,
        shape=sizes.shape(settings),
        work=sizes.work(settings),
        device=machine.device,
        parts=parts,
        stages=stages,
        peak=peak,
        memory=machine.memory,
        host_peak=host_peak,
        host_memory=machine.host,
        fits=fits,
        changes=changes,
        together=None if enough else combination(run, sizes, peaks),
        seconds=(flops + reference_flops) / rate,
        reference_seconds=reference_flops / rate,
        flops=flops + reference_flops,
        rate=rate,
    )


def _memory(
    settings: TrainingSettings, model: Model, sizes: Sizes, machine: Machine
) -> tuple[tuple[Part, ...], dict[str, int], dict[str, int]]:
    """The parts of training; totals of the stages on the device; and in host memory beside a GPU."""
    shape, work, gpu = sizes.shape(settings), sizes.work(settings), machine.device != "cpu"
    full = settings.parameters == "full"
    loaded = _loaded(shape, model)
    weights, waiting = _weights(shape, model, full=full, autocast=machine.autocast)
    optimizer = state_size(settings.optimizer)
    state = round(
        (shape.trained - shape.trained_embedding) * optimizer.value + shape.trained_embedding * optimizer.embedding
    )
    gradients = WIDE * shape.trained
    checkpointed = settings.gradient_checkpointing
    activations, unchecked = (
        _activations(shape, work, checkpointed=how, autocast=machine.autocast) for how in (checkpointed, False)
    )
    unreturned = 0
    if not gpu and WIDE * work.most_tokens * shape.hidden < _LARGE_BLOCK:
        unreturned = round(_UNRETURNED[settings.parameters] * unchecked)
    if settings.sharding == "full" and machine.processes > 1:
        # Each process holds its part; whole at a time are one layer and what is outside the layers.
        whole = WIDE * (shape.outside + (shape.parameters - shape.outside) // max(shape.layers, 1))
        weights, waiting = weights // machine.processes + whole, model.number * shape.parameters
        gradients, state = gradients // machine.processes, state // machine.processes
    held = min(machine.logit_bytes, WIDE * work.most_answers * shape.vocabulary)
    head = WIDE * shape.head if shape.trains_head else 0
    logits = (_PAIRED_COPIES if work.reference_states else _LOGIT_COPIES) * held + head
    # While a step's only forward goes back, gradients appear as activations go; the head's is there from the start.
    shared = min(max(gradients - head, 0), activations) if work.step_forwards == 1 else 0
    reference = (head if work.reference_states else 0) + (loaded if settings.reference == "resident" else 0)
    states = WIDE * work.reference_states * shape.hidden if settings.reference == "cached" else 0
    on_device = 0 if gpu else 1
    parts = (
        Part("program", machine.program * on_device, machine.program * gpu, "libraries, tokenizer, rows"),
        Part("parameters", weights + waiting * on_device, waiting * gpu, _parameters_note(model, full, gpu)),
        Part("gradients", gradients, 0, "float32"),
        Part("optimizer", state, 0, settings.optimizer),
        Part("activations", activations, 0, f"largest forward {work.most_tokens:,} tokens"),
        Part("allocator", unreturned, 0, "freed blocks that are not given back"),
        Part("logits", logits, 0, f"{held // (WIDE * shape.vocabulary):,} answer tokens at a time"),
        Part("reference", reference + states * on_device, states * gpu, _reference_note(settings, work)),
        Part("overlap", -shared, 0, "gradients take the place of activations"),
    )
    training = sum(part.bytes for part in parts)
    changed = model.number * shape.trained if full else WIDE * shape.trained
    control = round(shape.parameters * model.number) if model.control else 0
    generation = work.generation
    if gpu:  # batches of answers are made to fit what is free
        generation = min(generation, max(0, round(_GENERATION_SHARE * (machine.memory - loaded - control))))
    stages = {
        "training": training,
        "change": (machine.program + changed) * on_device + weights + waiting * on_device,
        "evaluation": (machine.program + 2 * changed) * on_device + loaded + control + generation,
    }
    host = {
        "training": sum(part.host for part in parts),
        "change": (machine.program + waiting + changed) * gpu,
        "evaluation": (machine.program + 2 * changed) * gpu,
    }
    return tuple(part for part in parts if part.bytes or part.host), stages, host


def _loaded(shape: Shape, model: Model) -> int:
    """Bytes of the model as it is loaded."""
    if model.quantization == "none":
        return model.number * shape.parameters
    return round(model.number * (shape.parameters - shape.linear) + _QUANTISED[model.quantization] * shape.linear)


def _weights(shape: Shape, model: Model, *, full: bool, autocast: bool) -> tuple[int, int]:
    """Bytes of parameters that forwards read, and of originals that wait for them to be done."""
    if not full:
        return _loaded(shape, model) + WIDE * shape.trained, 0
    frozen = shape.parameters - shape.trained
    widened = 0 if autocast or model.number >= WIDE else frozen
    copies = WIDE * (shape.trained + widened)
    cast = HALF * (shape.trained - shape.trained_embedding) if autocast else 0
    return copies + model.number * (frozen - widened) + cast, model.number * (shape.trained + widened)


def _activations(shape: Shape, work: Work, *, checkpointed: bool, autocast: bool) -> int:
    narrow = HALF if autocast else WIDE
    # Two norms: float32 input, normalised and output; under autocast the output once more for each product it enters.
    norms = 6 * WIDE * shape.hidden + (5 * HALF * shape.hidden if autocast else 0)
    layer = norms + narrow * (4 * shape.attention + shape.mlp)
    if autocast:
        layer += HALF * shape.adapted // max(shape.layers, 1)
    deep = shape.layers - shape.deepest
    kept = WIDE * shape.hidden * deep + layer if checkpointed else layer * deep
    ends = 4 * WIDE * shape.hidden  # the embeddings and the last norm
    mask = work.most_squares * (1 + narrow)
    return work.most_tokens * (kept + ends) + mask


def _operations(settings: TrainingSettings, shape: Shape, work: Work) -> tuple[float, float]:
    """Floating-point operations of all training forwards and backwards, and of the frozen target's forwards."""
    deep = (shape.layers - shape.deepest) / max(shape.layers, 1)
    full = settings.parameters == "full"
    body = 2 * shape.products * (1 + deep * (2 if settings.gradient_checkpointing else 1))
    body += 2 * min(shape.trained, shape.products) * (1 if full else 3)
    head = 2 * shape.head * (3 if shape.trains_head else 2)
    scores = 4 * shape.attention * shape.layers * (1 + 2 * deep)
    training = work.forward_tokens * body + work.forward_answers * head + work.forward_squares * scores
    live = settings.reference != "cached" and work.reference_tokens > 0
    tokens, answers = (
        (work.forward_tokens, work.forward_answers) if live else (work.reference_tokens, work.reference_answers)
    )
    return float(training), float(2 * shape.products * tokens + 2 * shape.head * answers)


def _peaks(run: Variant, sizes: Sizes) -> Peaks:
    _, stages, host = _memory(run.settings, run.model, sizes, run.machine)
    return Peaks(
        max(stages.values()), max(host.values()), *_fits(max(stages.values()), max(host.values()), run.machine)
    )


def _fits(peak: int, host_peak: int, machine: Machine) -> tuple[bool, bool]:
    """Whether there is room on the device, and in host memory beside a GPU."""
    on_gpu = machine.device != "cpu"
    # what the process holds already is no longer free
    taken = 0 if on_gpu else machine.program
    on_host = not on_gpu or host_peak - machine.program <= _SHARE * machine.host
    return peak - taken <= _SHARE * machine.memory, on_host


def _parameters_note(model: Model, full: bool, gpu: bool) -> str:
    stored = (
        {1: "8-bit", 2: "16-bit", 4: "float32"}.get(model.number, "")
        if model.quantization == "none"
        else model.quantization
    )
    if not full:
        return f"{stored}, and a float32 adapter"
    return f"{stored}; trained ones in float32{', originals in host memory' if gpu else ' beside the originals'}"


def _reference_note(settings: TrainingSettings, work: Work) -> str:
    if settings.reference == "resident":
        return "a second model"
    return f"states of {work.reference_states:,} answer tokens" if work.reference_states else ""
