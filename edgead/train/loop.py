"""The training loop's clockwork: budgets, seeds, progress, finite losses.

A method asks its `Loop` for epochs and steps and reports losses; the loop ends a stage when its
epochs or its share of the minutes are used up, and refuses a loss that is not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from edgead.errors import CalibrationError, ConfigError

__all__ = ["Budget", "Loop", "Progress"]


@dataclass(frozen=True)
class Budget:
    """How long to train: the method's own epochs, or fewer, or until the minutes are used up.

    Attributes:
        epochs: Epochs of each stage; None takes the method's own.
        minutes: Wall-clock bound on all stages together; with it alone a stage goes on past the
            method's own epochs until its share of the time is used up.
    """

    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError("EPOCHS", f"epochs is {self.epochs}; want 1 or more.")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError("MINUTES", f"minutes is {self.minutes}; want more than 0.")


@dataclass(frozen=True)
class Progress:
    """A moment of training, for a progress bar.

    Attributes:
        stage: What is being trained.
        done: Share of the stage, 0..1.
        seconds_left: Estimate for the stage, seconds.
        losses: The last losses by name.
    """

    stage: str
    done: float
    seconds_left: float
    losses: dict[str, float]


class Loop:
    """One training run.

    Args:
        budget: When to stop.
        seed: Of torch, NumPy and the method's own draws (`generator`, `rng`).
        report: Called with a `Progress` a few times a second at most.
        device: Where to train; None takes a GPU when there is one.
        clock: Monotonic seconds; tests inject their own.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        seed: int = 0,
        report: Callable[[Progress], None] | None = None,
        device: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget or Budget()
        self.seed = seed
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.log: dict[str, list[float]] = {}
        self.epochs_run = 0
        self._report = report or (lambda _progress: None)
        self._clock = clock
        self._started = clock()
        self._last_report = -math.inf
        self._stage = ""
        self._stage_end = math.inf
        self._sums: dict[str, list[float]] = {}
        self._step = 0
        self._used_share = 0.0

    @property
    def is_over(self) -> bool:
        """True when the stage's share of the minutes is used up."""
        return self._clock() >= self._stage_end

    def stage(self, name: str, *, epochs: int, share: float = 1.0) -> Iterator[int]:
        """Yield epoch numbers of one training stage.

        Args:
            name: Shown in the progress and put before loss names in the log.
            epochs: The method's own number.
            share: This stage's part of the minutes, when the budget has minutes. The shares of
                all stages add up to 1; time a stage leaves over goes to the later ones.
        """
        planned = self._plan(epochs)
        self._stage = name
        self._used_share += share
        begun = self._clock()
        if self.budget.minutes is not None:
            self._stage_end = self._started + 60 * self.budget.minutes * min(1.0, self._used_share)
        for epoch in range(planned):
            if self.is_over and epoch > 0:
                break
            yield epoch
            self.epochs_run += 1
            self._close_epoch()
            self._progress(begun, (epoch + 1) / planned)
        self._stage_end = math.inf

    def _plan(self, epochs: int) -> int:
        if self.budget.epochs is not None:
            return self.budget.epochs
        # With minutes alone the clock decides; the bound only keeps the loop finite.
        return epochs if self.budget.minutes is None else 1_000_000

    def steps(self, count: int) -> Iterator[int]:
        """Yield ``count`` step numbers of an epoch, fewer when the stage's time is used up."""
        for step in range(count):
            if step > 0 and self.is_over:
                return
            self._step += 1
            yield step

    def record(self, **losses: torch.Tensor | float) -> None:
        """Note a step's losses.

        Raises:
            CalibrationError: LOSS_NOT_FINITE, with the step.
        """
        for name, value in losses.items():
            number = float(value)
            if not math.isfinite(number):
                raise CalibrationError(
                    "LOSS_NOT_FINITE",
                    f"{self._stage}: loss {name!r} is {number} at step {self._step}.",
                    "Lower the learning rate, or train in float32.",
                )
            self._sums.setdefault(f"{self._stage}/{name}", []).append(number)

    def _close_epoch(self) -> None:
        for name, values in self._sums.items():
            self.log.setdefault(name, []).append(sum(values) / len(values))
        self._sums = {}

    def _progress(self, begun: float, epochs_done: float) -> None:
        now = self._clock()
        if now - self._last_report < 0.2 and epochs_done < 1:
            return
        self._last_report = now
        spent = now - begun
        by_epochs = spent / epochs_done - spent
        left = min(by_epochs, max(0.0, self._stage_end - now))
        done = spent / (spent + left) if spent + left > 0 else 1.0
        losses = {k.rpartition("/")[2]: v[-1] for k, v in self.log.items() if v}
        self._report(Progress(self._stage, done, left, losses))
