"""Which arithmetic and memory layout a training step runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

__all__ = ["autocast", "laid_out"]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in bfloat16 where the device multiplies it faster, else float32."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


def laid_out(net: nn.Module) -> nn.Module:
    """The network in channels-last order, in which convolutions run faster on CPU and GPU."""
    return net.to(memory_format=torch.channels_last)


def _cpu_has_bfloat16() -> bool:
    # Older releases lack the question; without an answer float32 is the safe choice.
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(ask())
