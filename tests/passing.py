"""What passes a module of a model in a forward, and comparing it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 11, 13, 5, 6]])  # B = 2, S = 5


def passed(model: Any, name: str) -> tuple[tuple[Any, ...], Any]:
    """Arguments and output of a module in one forward, by a hook of the test's own."""
    seen: list[Any] = []

    def hook(_: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        # Falcon adds to its MLP's output in place
        seen.append(((*arguments, *named.values()), (output[0] if isinstance(output, tuple) else output).clone()))

    handle = model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        model(IDS, use_cache=False)
    handle.remove()
    ((arguments, output),) = seen
    return arguments, output


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.reshape(-1), other.reshape(-1), atol=2e-6, rtol=1e-4)
