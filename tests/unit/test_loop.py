"""The training clockwork on an injected clock (resuming has its own tests, test_checkpoint)."""

from __future__ import annotations

import pytest
import torch

from edgead.errors import CalibrationError, ConfigError
from edgead.train.loop import Budget, Loop


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(loop, clock, *, epochs, seconds=1.0, steps=1, name="a", share=1.0):
    """How many epochs a stage ran when each step takes ``seconds``."""
    done = 0
    for _ in loop.stage(name, epochs=epochs, share=share):
        for _ in loop.steps(steps):
            clock.now += seconds
        done += 1
    return done


@pytest.mark.parametrize(("budget", "epochs"), [(None, 5), (Budget(epochs=2), 2)])
def test_epochs_are_the_methods_own_or_the_budgets(budget, epochs):
    clock = Clock()
    loop = Loop(budget, clock=clock, device="cpu")
    assert run(loop, clock, epochs=5) == epochs
    assert loop.epochs_run == epochs


def test_minutes_end_a_stage_but_never_before_one_epoch():
    clock = Clock()
    loop = Loop(Budget(minutes=1), clock=clock, device="cpu")
    assert run(loop, clock, epochs=1000, seconds=7.0) == 9  # 63 s: ends after the first above 60
    slow = Loop(Budget(minutes=1), clock=clock, device="cpu")
    assert run(slow, clock, epochs=1000, seconds=600.0) == 1


def test_minutes_are_shared_and_what_is_left_over_goes_on():
    clock = Clock()
    loop = Loop(Budget(minutes=1), clock=clock, device="cpu")
    assert run(loop, clock, epochs=5, seconds=2.0, name="a", share=0.5) == 5  # 10 s of 30
    assert run(loop, clock, epochs=1000, seconds=2.0, name="b", share=0.5) == 25  # until 60 s
    late = Loop(Budget(minutes=1), clock=clock, device="cpu")
    assert run(late, clock, epochs=1000, seconds=1.0, name="a", share=0.25) == 15
    assert run(late, clock, epochs=1000, seconds=1.0, name="b", share=0.75) == 45


def test_steps_end_with_the_minutes_too():
    clock = Clock()
    loop = Loop(Budget(minutes=1), clock=clock, device="cpu")
    taken = []
    for _ in loop.stage("a", epochs=10):
        for step in loop.steps(1000):
            taken.append(step)
            clock.now += 20
    assert taken == [0, 1, 2]


def test_setting_up_counts_against_the_minutes():
    clock = Clock()
    loop = Loop(Budget(minutes=1), clock=clock, device="cpu")
    clock.now += 50  # features of the frozen network
    assert run(loop, clock, epochs=1000, seconds=2.0) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "[EPOCHS] epochs is 0; want 1 or more."),
        ({"minutes": 0.0}, "[MINUTES] minutes is 0.0; want more than 0."),
        ({"minutes": float("nan")}, "[MINUTES] minutes is nan; want more than 0."),
    ],
)
def test_budgets_that_are_none(options, message):
    with pytest.raises(ConfigError) as error:
        Budget(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_loss_that_is_not_finite_stops_the_training_at_its_step(value):
    clock = Clock()
    loop = Loop(clock=clock, device="cpu")
    with pytest.raises(CalibrationError) as error:
        for _ in loop.stage("discriminator", epochs=3):
            for step in loop.steps(4):
                loop.record(loss=1.0 if step < 2 else value)
    assert str(error.value) == (
        f"[LOSS_NOT_FINITE] discriminator: loss 'loss' is {float(value)} at step 3. "
        "Lower the learning rate, or train in float32."
    )


def test_the_log_holds_epoch_means_by_stage():
    loop = Loop(clock=Clock(), device="cpu")
    for epoch in loop.stage("a", epochs=2):
        for step in loop.steps(2):
            loop.record(loss=torch.tensor(float(epoch * 10 + step)), other=1.0)
    assert loop.log == {"a/loss": [0.5, 10.5], "a/other": [1.0, 1.0]}


def test_progress_counts_down_and_ends_at_one():
    clock, told = Clock(), []
    loop = Loop(clock=clock, device="cpu", report=told.append)
    for _ in loop.stage("a", epochs=4):
        clock.now += 3
        loop.record(loss=0.25)
    assert [round(one.done, 6) for one in told] == [0.25, 0.5, 0.75, 1.0]
    assert [round(one.seconds_left, 6) for one in told] == [9, 6, 3, 0]
    assert told[-1].stage == "a"
    assert told[-1].losses == {"loss": 0.25}


def test_progress_is_told_a_few_times_a_second_at_most():
    clock, told = Clock(), []
    loop = Loop(clock=clock, device="cpu", report=told.append)
    run(loop, clock, epochs=1000, seconds=0.01)
    assert len(told) <= 10 / 0.2 + 2


def test_progress_follows_the_minutes_where_they_end_first():
    clock, told = Clock(), []
    loop = Loop(Budget(minutes=1), clock=clock, device="cpu", report=told.append)
    run(loop, clock, epochs=1000, seconds=15.0)
    assert [one.seconds_left for one in told] == [45, 30, 15, 0]


def test_share_done_for_schedules():
    clock = Clock()
    loop = Loop(clock=clock, device="cpu")
    seen = []
    for _ in loop.stage("a", epochs=2):
        for _ in loop.steps(2):
            seen.append(loop.share_done)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    timed = Loop(Budget(minutes=1), clock=clock, device="cpu")
    for _ in timed.stage("a", epochs=1000):
        clock.now += 30
        assert timed.share_done >= 0.5
        break


def test_a_stage_can_end_early():
    clock = Clock()
    loop = Loop(clock=clock, device="cpu")
    done = []
    for epoch in loop.stage("a", epochs=10):
        done.append(epoch)
        if epoch == 2:
            loop.end_stage()
    assert done == [0, 1, 2]


def test_draws_depend_on_the_seed_alone():
    def draws(seed):
        loop = Loop(seed=seed, clock=Clock(), device="cpu")
        return torch.rand(3, generator=loop.generator).tolist(), loop.rng.random(3).tolist()

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
