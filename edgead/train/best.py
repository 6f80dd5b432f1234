"""The best state of a module so far, by a figure on held-out images."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn

__all__ = ["Best"]


class Best:
    """Remembers a module's best weights; a checkpoint can hold it.

    Args:
        module: Whose weights.
        patience: Updates without a better figure after which it is done; None is never done and takes the
            latest weights as the best.
    """

    def __init__(self, module: nn.Module, *, patience: int | None) -> None:
        self._module = module
        self._patience = patience
        self._state = copy.deepcopy(module.state_dict())
        self.figure = math.inf
        self.waited = 0

    def update(self, figure: float) -> None:
        """Take the module's weights of now if ``figure`` (smaller is better) is the best so far."""
        if self._patience is None or figure < self.figure:
            self.figure, self.waited = figure, 0
            self._state = copy.deepcopy(self._module.state_dict())
        else:
            self.waited += 1

    @property
    def is_done(self) -> bool:
        """True when patience has run out."""
        return self._patience is not None and self.waited >= self._patience

    def restore(self) -> None:
        """Put the best weights back into the module."""
        self._module.load_state_dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """For `edgead.train.loop.Loop.register`."""
        return {"state": dict(self._state), "figure": self.figure, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For `edgead.train.loop.Loop.register`."""
        self._state, self.figure, self.waited = state["state"], state["figure"], state["waited"]
