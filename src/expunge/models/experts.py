"""Routed experts whose matrices lie in 3-D tensors, run one expert after the other so that each can be listened to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from expunge.errors import ModelError

Listener = Callable[[Tensor, Tensor], Tensor | None]
"""``listener(values [n, I], tokens [n])``: what one expert computed for the tokens that were sent to it, which are
counted through the batch, row after row. What it returns, if anything, takes the values' place."""

_LAYOUT = ("has_gate", "is_transposed", "has_bias", "num_experts", "_apply_gate")  # from transformers' decorator
_UNLIKE = ("deepgemm_megamoe",)  # keeps the weights in an order of its own


def check_experts(experts: Any, name: str, tensor: str, *, activation: str | None = "") -> None:
    """Refuse experts that cannot be run one after the other; ``activation`` None says that theirs is no module.

    Raises:
        ModelError: what about them is not supported, and what can be read instead.
    """
    problem = ""
    lacking = [attribute for attribute in _LAYOUT if not hasattr(experts, attribute)]
    down = getattr(experts, "down_proj", None)
    implementation = getattr(getattr(experts, "config", None), "_experts_implementation", None)
    if lacking or tensor != "down_proj":
        problem = "how its matrices are used is its own (it does not take part in transformers' experts interface)"
    elif down is None or down.ndim != 3 or down.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        problem = f"its down projections are {getattr(down, 'dtype', None)} of {getattr(down, 'ndim', 0)} dimensions"
    elif getattr(experts, "_is_expert_parallel", False):
        problem = "its experts are spread over several devices"
    elif implementation in _UNLIKE:
        problem = f"its weights are laid out for the implementation {implementation}"
    elif activation is None:
        problem = "its activation function is no module"
    if problem:
        raise ModelError(
            f"the routed experts of {name} ({type(experts).__name__}) cannot be read one by one: {problem}. Choose "
            "another role (attention_output, residual), other layers, or the pattern of a module."
        )


class _Ear:
    """The listeners to some experts, and the forward that lets them hear."""

    def __init__(self, experts: Any) -> None:
        self.experts = experts
        self.every: list[tuple[Mapping[int, Listener], Mapping[int, Listener]]] = []
        # accelerate's hooks (offloaded weights) wrap the forward, and call what they found there
        self.attribute = "_old_forward" if "_old_forward" in vars(experts) else "forward"
        self.before = vars(experts).get(self.attribute)
        vars(experts)[self.attribute] = self.forward

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        keys, activations = (_joined([both[which] for both in self.every]) for which in (0, 1))
        return _run(self.experts, hidden_states, top_k_index, top_k_weights, keys, activations)

    def close(self) -> None:
        if self.before is None:
            vars(self.experts).pop(self.attribute, None)
        else:
            vars(self.experts)[self.attribute] = self.before


_EARS: WeakKeyDictionary[Any, _Ear] = WeakKeyDictionary()


@contextmanager
def listening(experts: Any, keys: Mapping[int, Listener], activations: Mapping[int, Listener]) -> Iterator[None]:
    """Inside, ``experts`` compute expert by expert, and what goes into the down projections (``keys``) and into the
    activation function (``activations``) is shown to the listener of that expert.

    Several may listen to the same experts, and leave in any order; each hears what those before it have changed. The
    formula is the model's own, the order of its sums is not: outputs differ by rounding. No weight is touched.

    Raises:
        ModelError: while running, the activation function is not called once an expert.
    """
    if experts not in _EARS:
        _EARS[experts] = _Ear(experts)
    ear, own = _EARS[experts], (keys, activations)
    ear.every.append(own)
    try:
        yield
    finally:
        ear.every[:] = [one for one in ear.every if one is not own]
        if not ear.every:
            _EARS.pop(experts).close()


def _joined(several: Sequence[Mapping[int, Listener]]) -> Mapping[int, Listener]:
    """One listener an expert, that lets all of its listeners hear in turn."""
    if len(several) == 1:
        return several[0]
    experts = {number for some in several for number in some}
    return {number: partial(_in_turn, [some[number] for some in several if number in some]) for number in experts}


def _in_turn(listeners: Sequence[Listener], values: Tensor, tokens: Tensor) -> Tensor | None:
    result: Tensor | None = None
    for listener in listeners:
        changed = listener(values if result is None else result, tokens)
        result = result if changed is None else changed
    return result


def _run(
    experts: Any,
    states: Tensor,
    chosen: Tensor,
    weights: Tensor,
    keys: Mapping[int, Listener],
    activations: Mapping[int, Listener],
) -> Tensor:
    """[T, H] the weighted sum of what the chosen experts [T, k] make of ``states`` [T, H]."""
    pairs = chosen.reshape(-1)
    order = torch.argsort(pairs, stable=True)
    tokens = order // chosen.shape[-1]
    counts = torch.bincount(pairs, minlength=experts.num_experts).tolist()
    dtype = torch.promote_types(states.dtype, weights.dtype)
    results = states.new_zeros((len(pairs), states.shape[-1]), dtype=dtype)
    begin = 0
    for number, count in enumerate(counts[: experts.num_experts]):
        own = slice(begin, begin + count)
        begin += count
        if not count:
            continue
        keyed = _key(experts, number, states[tokens[own]], tokens[own], activations.get(number))
        listener = keys.get(number)
        changed = None if listener is None else listener(keyed, tokens[own])
        out = _product(experts, "down_proj", number, keyed if changed is None else changed)
        if getattr(experts, "has_post_expert_norm", False):
            out = experts.post_expert_norm(out)
        results[order[own]] = (out * weights.reshape(-1)[order[own], None]).to(dtype)
    return results.view(*chosen.shape, -1).sum(1).to(states.dtype)


def _key(experts: Any, number: int, states: Tensor, tokens: Tensor, listener: Listener | None) -> Tensor:
    """[n, I] what goes into an expert's down projection."""
    inner = _product(experts, "gate_up_proj" if experts.has_gate else "up_proj", number, states)
    finish = experts._apply_gate if experts.has_gate else experts.act_fn
    if listener is None:
        found: Tensor = finish(inner)
        return found
    calls = 0

    def show(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        nonlocal calls
        calls += 1
        changed = listener(arguments[0], tokens)
        return None if changed is None else (changed, *arguments[1:])

    handle = experts.act_fn.register_forward_pre_hook(show)
    try:
        found = finish(inner)
    finally:
        handle.remove()
    if calls != 1:
        raise ModelError(
            f"{type(experts).__name__} calls its activation function {calls} times for an expert, so there is no one "
            "input of it to read. Choose mlp_key."
        )
    return found


def _product(experts: Any, tensor: str, number: int, values: Tensor) -> Tensor:
    matrix = getattr(experts, tensor)[number]
    values = values.to(matrix.dtype)  # under autocast norms give float32, and raw products are not cast
    result: Tensor = values @ (matrix if experts.is_transposed else matrix.T)
    if experts.has_bias:
        result = result + getattr(experts, f"{tensor}_bias")[number]
    return result
