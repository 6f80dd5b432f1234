"""The training loop's clockwork: budgets, seeds, progress, finite losses.

A method asks its `Loop` for epochs and steps and reports losses; the loop ends a stage when its
epochs or its share of the minutes are used up, and refuses a loss that is not finite.

Resuming: what changes in a stage is registered before it (`Loop.register`). At the entry of a stage the loop
puts back what its checkpoint holds, skips a stage that had ended, and goes on behind the last epoch saved.
Random numbers come from ``loop.generator`` or ``loop.rng`` (torch's global source is kept too), so that a run
that was killed ends, on a CPU, in the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgead.errors import CalibrationError, ConfigError, StateError
from edgead.train.checkpoint import (
    Checkpoints,
    Stateful,
    check_finite,
    random_state,
    set_random_state,
    set_state,
    state_of,
)

__all__ = ["Budget", "Loop", "Progress"]


@dataclass(frozen=True)
class Budget:
    """How long to train: until the epochs are done or the minutes are used up, whichever is first.

    Attributes:
        epochs: Epochs of each stage; None takes the method's own. More is not better: past its own
            schedule a discriminator grows tight around the very patches that it saw.
        minutes: Wall-clock bound on all stages together.
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
        checkpoint: Folder of this run's checkpoints, from which it resumes; None keeps none.
        checkpoint_every_s: Shortest time between two checkpoints of a stage; its end is always saved.
        fingerprint: Identity of the run; a folder of another run is refused.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        seed: int = 0,
        report: Callable[[Progress], None] | None = None,
        device: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        checkpoint: Path | None = None,
        checkpoint_every_s: float = 20.0,
        fingerprint: str = "",
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
        self._started = self._opened = clock()
        self._checkpoints = (
            None if checkpoint is None else Checkpoints(checkpoint, fingerprint=fingerprint)
        )
        self._checkpoint_every_s = checkpoint_every_s
        self._last_checkpoint = -math.inf
        self._objects: dict[str, Stateful | torch.Generator] = {}
        self._stages = 0
        self._is_in_stage = self._is_ended = False
        self._last_report = -math.inf
        self._stage = ""
        self._stage_end = math.inf
        self._stage_begin = self._epochs_behind = 0.0
        self._planned = 1
        self._sums: dict[str, list[float]] = {}
        self._step = 0
        self._used_share = 0.0

    @property
    def is_over(self) -> bool:
        """True when the stage's share of the minutes is used up."""
        return self._clock() >= self._stage_end

    @property
    def share_done(self) -> float:
        """Share of the stage that is behind, 0..1, by its epochs or its minutes: for schedules."""
        by_epochs = self._epochs_behind / self._planned
        if math.isinf(self._stage_end):
            return by_epochs
        span = max(self._stage_end - self._stage_begin, 1e-9)
        return min(1.0, max(by_epochs, (self._clock() - self._stage_begin) / span))

    def stage(self, name: str, *, epochs: int, share: float = 1.0) -> Iterator[int]:
        """Yield epoch numbers of one training stage.

        Args:
            name: Shown in the progress and put before loss names in the log.
            epochs: The method's own number.
            share: This stage's part of the minutes, when the budget has minutes. The shares of
                all stages add up to 1; time a stage leaves over goes to the later ones.
        """
        planned = self.budget.epochs or epochs
        index, self._stages = self._stages, self._stages + 1
        self._stage = name
        self._used_share += share
        first, is_finished = self._restore(index)
        if is_finished:
            return
        self._is_in_stage, self._is_ended = True, False
        begun = self._clock()
        if self.budget.minutes is not None:
            seconds = 60 * self.budget.minutes
            self._stage_begin = self._started + seconds * (self._used_share - share)
            self._stage_end = self._started + seconds * min(1.0, self._used_share)
        self._planned = planned
        done = first
        try:
            for epoch in range(first, planned):
                if self.is_over and epoch > 0:
                    break
                self._epochs_behind = float(epoch)
                yield epoch
                done = epoch + 1
                self.epochs_run += 1
                self._close_epoch()
                self._save(index, done, is_finished=False)
                self._progress(begun, (done - first) / (planned - first))
                if self._is_ended:
                    break
            self._save(index, done, is_finished=True)
        finally:
            self._stage_end = math.inf
            self._is_in_stage = False

    def end_stage(self) -> None:
        """Let the stage end after this epoch: more of it would not help."""
        self._is_ended = True

    def register(self, **objects: Stateful | torch.Generator) -> None:
        """Name what the stages to come change: modules, optimisers, schedulers, generators, `Values`.

        A stage's checkpoint holds all that was registered before the stage began.

        Raises:
            StateError: REGISTER_LATE inside a stage.
        """
        if self._is_in_stage:
            raise StateError(
                "REGISTER_LATE",
                f"{', '.join(objects)} registered inside stage {self._stage!r}.",
                "Register before the stage begins.",
            )
        self._objects.update(objects)

    def discard_checkpoints(self) -> None:
        """Remove the run's checkpoints, once its result is safe."""
        if self._checkpoints is not None:
            self._checkpoints.discard()

    def _save(self, index: int, epochs: int, *, is_finished: bool) -> None:
        now = self._clock()
        is_due = now - self._last_checkpoint >= self._checkpoint_every_s
        if self._checkpoints is None or not (is_finished or is_due):
            return
        check_finite(self._objects)
        self._checkpoints.save(
            index,
            self._stage,
            {
                "epochs": epochs,
                "is_finished": is_finished,
                "seconds": now - self._started,
                "epochs_run": self.epochs_run,
                "step": self._step,
                "log": self.log,
                "generator": self.generator.get_state(),
                "rng": self.rng.bit_generator.state,
                "random": random_state(self.device),
                "objects": {name: state_of(one) for name, one in self._objects.items()},
            },
        )
        self._last_checkpoint = self._clock()

    def _restore(self, index: int) -> tuple[int, bool]:
        """Epochs that the stage has behind it, and whether it had ended."""
        if self._checkpoints is None:
            return 0, False
        state: Any = self._checkpoints.load(index, self._stage)
        if state is None:
            return 0, False
        if set(state["objects"]) != set(self._objects):
            raise self._checkpoints.foreign(f"stage {self._stage!r}")
        try:
            for name, one in self._objects.items():
                set_state(one, state["objects"][name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._checkpoints.foreign(f"stage {self._stage!r}") from error
        self.epochs_run, self._step, self.log = state["epochs_run"], state["step"], state["log"]
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = state["rng"]
        set_random_state(state["random"], self.device)
        # The minutes count the time of all the run's processes.
        self._started = self._opened - state["seconds"]
        return state["epochs"], state["is_finished"]

    def steps(self, count: int) -> Iterator[int]:
        """Yield ``count`` step numbers of an epoch, fewer when the stage's time is used up."""
        for step in range(count):
            if step > 0 and self.is_over:
                return
            self._step += 1
            self._epochs_behind = math.floor(self._epochs_behind) + step / count
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
