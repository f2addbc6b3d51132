"""bitsandbytes' 8-bit optimizers by rule: their state is allocated as they would, and nothing is computed.

Their kernels are compiled for the device and read their data, so they cannot be traced; what they allocate is known.

Source: `Optimizer2State.init_state` and `Optimizer1State.init_state` in bitsandbytes/optim/optimizer.py, 0.50.2; the
update kernels work in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_8BIT_COUNT = 4096
"""Smaller parameters keep their state in 32 bits. Source: `min_8bit_size=4096`, the same file."""
_BLOCK_COUNT = 256
"""Elements that share one scale. Source: `blocksize = 256`, the same file."""
_MAP_COUNT = 256
"""Entries of a quantization map. Source: `create_dynamic_map`, bitsandbytes/functional.py, 0.50.2."""

EIGHT_BIT = {"adam_8bit": 2, "adamw_8bit": 2, "adamw_bnb_8bit": 2, "lion_8bit": 1, "sgd_8bit": 1, "rmsprop_8bit": 1}
"""Names and how many states each has for a parameter. Source: the classes of bitsandbytes/optim, 0.50.2.

`adamw_bnb_8bit` is transformers' Trainer's: it keeps the state of embeddings in 32 bits.
"""
KEEPS_EMBEDDINGS = ("adamw_bnb_8bit",)
_MARK = "_state_in_32_bits"


def eight_bit(name: str) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
    """A function from parameters to an optimizer that takes the memory of the named 8-bit optimizer."""
    states = EIGHT_BIT[name]
    return lambda parameters: StateOnly8bit(parameters, states)


def mark_embeddings(model: nn.Module) -> nn.Module:
    """Mark the weights of embeddings: their state stays in 32 bits.

    Source: `Trainer.create_optimizer`, transformers/trainer.py, 4.57.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            setattr(module.weight, _MARK, True)
    return model


class StateOnly8bit(torch.optim.Optimizer):
    """An optimizer that allocates the state of an 8-bit optimizer at its first step, and does nothing else."""

    def __init__(self, parameters: Iterable[Any], states: int) -> None:
        super().__init__(parameters, {"lr": 1e-3})
        self._states = states
        self._maps: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Allocate the state of parameters that have a gradient and none yet."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self._allocate(parameter, self.state[parameter])
        return loss

    def _allocate(self, parameter: Tensor, state: dict[str, Any]) -> None:
        state["step"] = 0
        small = parameter.numel() < _LEAST_8BIT_COUNT or getattr(parameter, _MARK, False)
        for i in range(1, self._states + 1):
            if small:
                state[f"state{i}"] = torch.zeros_like(parameter, dtype=torch.float32)
                continue
            if i not in self._maps:
                self._maps[i] = torch.zeros(_MAP_COUNT, device=parameter.device)
            state[f"state{i}"] = torch.zeros_like(parameter, dtype=torch.uint8)
            state[f"qmap{i}"] = self._maps[i]
        blocks = -(-parameter.numel() // _BLOCK_COUNT)
        for i in range(1, self._states + 1) if not small else ():
            state[f"absmax{i}"] = torch.zeros(blocks, dtype=torch.float32, device=parameter.device)
